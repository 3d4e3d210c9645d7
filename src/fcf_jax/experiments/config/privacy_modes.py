"""The privacy modes: one row for each, with all that other modules need to know about it.

A new mode is a new row of `PRIVACY_MODES`; configurations, checks and audits follow from it.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

View = Literal[
    "upload",
    "noisy_upload",
    "noisy_uploads",
    "sum",
    "many_sums",
    "late_sums",
    "difference",
    "noisy_sum",
    "noisy_sums",
    "published_model",
    "popularity",
]
Attacks = Mapping[str, View]
_NONE: Attacks = {}


class PrivacyMode(NamedTuple):
    """A privacy mode: the protection between the clients and the server.

    Attributes:
        name: value of `privacy.mode`.
        server_sees: what the server sees of the clients, as a phrase.
        noise_on: what differential privacy adds noise to; None where there is none.
        sums_securely: whether the server gets sums alone, in the fixed point of secure sums.
        attacks: attacks of `fcf audit`, each with the view of the server that it starts from.
        attacks_on_cohorts: further attacks where cohorts are drawn.
        attacks_on_everybody: further attacks where all clients take part in every round.
    """

    name: str
    server_sees: str
    attacks: Attacks
    attacks_on_cohorts: Attacks = _NONE
    attacks_on_everybody: Attacks = _NONE
    noise_on: Literal["upload", "sum"] | None = None
    sums_securely: bool = False

    @property
    def has_noise(self) -> bool:
        """Whether the mode is differentially private."""
        return self.noise_on is not None

    @property
    def protects_uploads(self) -> bool:
        """Whether the server never sees a client's upload as it is."""
        return self.has_noise or self.sums_securely

    def attacks_on(self, *, has_cohorts: bool) -> dict[str, View]:
        """Name the attacks that apply, each with the view that it starts from."""
        some = self.attacks_on_cohorts if has_cohorts else self.attacks_on_everybody
        return {**self.attacks, **some, "popularity": "popularity"}


_NOISY_SUM: Attacks = {"cohort_sum": "noisy_sum"}
_NOISY_SUMS: Attacks = {"averaging": "noisy_sums"}
_ROWS = (
    PrivacyMode(
        "plain",
        server_sees="each upload",
        attacks={"single_upload": "upload"},
        attacks_on_cohorts={"cohort_sum": "sum"},
    ),
    PrivacyMode(
        "secure_sum",
        server_sees="only the exact sum of the uploads, in fixed point",
        attacks={"cohort_sum": "sum", "differencing": "difference"},
        attacks_on_cohorts={"many_rounds": "many_sums", "late_rounds": "late_sums"},
        sums_securely=True,
    ),
    PrivacyMode(
        "local_noise",
        server_sees="each clipped upload with noise",
        attacks={"single_upload": "noisy_upload", "averaging": "noisy_uploads"},
        noise_on="upload",
    ),
    PrivacyMode(
        "central_noise",
        server_sees="the sum of clipped uploads, to which it adds noise itself",
        attacks=_NOISY_SUM,
        attacks_on_everybody=_NOISY_SUMS,
        noise_on="sum",
    ),
    PrivacyMode(
        "distributed_noise",
        server_sees="that sum, with noise added by the clients in shares",
        attacks=_NOISY_SUM,
        attacks_on_everybody=_NOISY_SUMS,
        noise_on="sum",
    ),
)
PRIVACY_MODES = {mode.name: mode for mode in _ROWS}
