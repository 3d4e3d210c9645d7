"""`fcf audit`: attacks on what the server sees under `privacy.mode`, and a report of what they find."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fcf_jax.experiments.audit import attacks
from fcf_jax.experiments.audit.attacks import Figures
from fcf_jax.experiments.audit.canaries import audit_canaries
from fcf_jax.experiments.audit.leakage import leakage_curve
from fcf_jax.experiments.audit.many_rounds import late_rounds, many_rounds
from fcf_jax.experiments.audit.scene import LARGEST_SUM, ROUNDS_BEFORE, Scene, set_scene
from fcf_jax.experiments.audit.shadows import membership
from fcf_jax.experiments.audit.verdicts import not_covered, strongest, verdicts_of
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.cautions import caution_of_secure_sums
from fcf_jax.experiments.config.privacy_modes import View
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import SERVER_STEPS
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.report.figures import write_leakage_figure
from fcf_jax.experiments.report.tables import write_audit_tables
from fcf_jax.experiments.store.run_directory import write_environment

_SINGLE = "each upload by itself; every attack knows Y, lambda, w0 and alpha"
_REQUESTS = "; which rows of Y the client asked for"
_NOISY = (
    "each clipped upload with its noise, item popularity and how many items the client holds; "
    "in_out: everything but the noise"
)
_STRONGEST = (
    "recall and union: the noised sum; auc: also the other clients' uploads and what this client would send"
)


_HISTORY = "the final Y, the history of the user, and models trained with and without it"
_CONSTANT = {
    "each_round": "of the confidences, in each round",
    "once": "of the confidences of all clients, once",
    "never": "none",
}


def with_fitting_step(config: ExperimentConfig) -> tuple[ExperimentConfig, str]:
    """Replace a server step that does not work with the mode or with cohorts; also return a note about it.

    The new step asks clients for the same pieces, so that, apart from the loss, it leaks the same.
    """
    step, has_cohorts = config.server.spec, config.federation.cohort_size is not None
    if not (step.is_guarded and config.privacy.has_noise) and not (step.needs_everybody and has_cohorts):
        return config, ""
    fitting = next(
        other.name
        for other in SERVER_STEPS.values()
        if other.pieces == step.pieces and not other.is_guarded and other.needs_everybody != has_cohorts
    )
    server = config.server.model_copy(update={"step": fitting, "learning_rate": None})
    what = "federation.cohort_size" if has_cohorts else config.privacy.mode
    note = (
        f"server.step = {step.name} does not work with {what}: audited with {fitting}, which asks for the "
        "same sums."
    )
    return config.model_copy(update={"server": server}), note


def run_audit(
    problem: Problem,
    folder: Path,
    progress: ProgressLine,
    *,
    max_users: int = 300,
    num_canaries: int = 0,
    shadow_models: int = 0,
    note: str = "",
) -> dict[str, Any]:
    """Run the attacks and write `audit.json`, `audit.md`, `audit.csv` and `leakage.png`.

    The audit reads histories unprotected; its files are for people who may see them.

    Args:
        problem: from `resolve`, with a configuration checked for "audit".
        folder: run directory.
        progress: shows the running attack.
        max_users: users whose single uploads are attacked, drawn at random.
        num_canaries: runs with a canary, and as many without; 0: none.
        shadow_models: trained to attack the published item factors; 0: they are not attacked.
        note: from `with_fitting_step`.

    Returns:
        The content of `audit.json`.
    """
    started = time.monotonic()
    write_environment(folder, resumed_from_rounds=[])
    progress.compiling("training before the attacks")
    scene = set_scene(problem, max_users=max_users)
    planned = _attacks(scene)
    if shadow_models:
        planned["published_model"] = (partial(membership, scene, num_models=shadow_models), _HISTORY)
    found: dict[str, Any] = {}
    for done, (name, (attack, _)) in enumerate(planned.items()):
        progress.show("attack", done, len(planned) + 1, name)
        found[name] = {what: figure._asdict() for what, figure in attack().items()}
    canaries = None
    if num_canaries:
        progress.show("attack", len(planned), len(planned) + 1, "canaries")
        canaries = audit_canaries(problem, num_worlds=num_canaries)
        found["canaries"] = {what: figure._asdict() for what, figure in canaries.figures.items()}
    progress.show("attack", len(planned), len(planned) + 1, "leakage.png")
    document = {
        "mode": problem.config.privacy.mode,
        "upload": problem.config.channel.form,
        "attacks": found,
        "facts": _facts(scene),
        "knows": {name: knows for name, (_, knows) in planned.items()},
        "leakage": leakage_curve(scene),
        "seconds": time.monotonic() - started,
    }
    verdicts = verdicts_of(document)
    document["verdicts"] = {name: one._asdict() for name, one in verdicts.items()}
    document["verdict"] = strongest(verdicts)
    config = problem.config
    of_canaries = "" if canaries is None else canaries.sentence
    of_setting = (of_canaries, note, _small_cohort(scene), caution_of_secure_sums(config), _requests(config))
    document["notes"] = [
        *filter(None, of_setting),
        *not_covered(document["mode"], has_shadows=shadow_models > 0),
    ]
    if canaries is not None:
        document["canaries"] = canaries._asdict()
    write_leakage_figure(folder, document)
    write_audit_tables(folder, document)
    return document


def _attacks(scene: Scene) -> dict[str, tuple[Callable[[], Figures], str]]:
    """Return the attacks that apply by name, each with what its attacker knows."""
    sent = scene.config.sent_confidences
    rounds, extra, form = scene.num_rounds, _extra_sums(scene), scene.config.channel.form
    knows = _SINGLE + _REQUESTS * (form == "own_rows")
    planned: dict[View, tuple[Callable[[], Figures], str]] = {
        "upload": (partial(attacks.plain_upload, scene, form=form), knows),
        "noisy_upload": (partial(attacks.noisy_uploads, scene), _NOISY),
        "noisy_uploads": (
            partial(attacks.noisy_uploads, scene, num_rounds=rounds),
            f"the mean of {rounds} uploads of one frozen model",
        ),
        "sum": (partial(attacks.sums, scene), f"the sum of a cohort's uploads{extra}"),
        "many_sums": (
            partial(many_rounds, scene),
            f"the cohorts of all {rounds} rounds, and the sums that do not depend on Y: {_CONSTANT[sent]}",
        ),
        "late_sums": (
            partial(late_rounds, scene),
            f"the cohorts of all {rounds} rounds, their sums of uploads at one Y, and how many items each "
            "client holds",
        ),
        "difference": (
            partial(attacks.differencing, scene),
            "sums of two cohorts that differ by one client, if near-identical cohorts are not refused",
        ),
        "noisy_sum": (partial(attacks.sums, scene), f"{_STRONGEST}{extra}"),
        "noisy_sums": (
            partial(attacks.averaged_sums, scene),
            f"the same for the mean of {rounds} sums of one frozen model",
        ),
        "popularity": (partial(attacks.popularity, scene), "only how many clients hold each item"),
    }
    has_cohorts = scene.config.federation.cohort_size is not None
    applying = scene.config.privacy.spec.attacks_on(has_cohorts=has_cohorts)
    return {name: planned[view] for name, view in applying.items()}


def _extra_sums(scene: Scene) -> str:
    if not scene.sends_gram:
        return ""
    step = scene.config.server.step
    return f"; A = sum x x^T and the other sums that {step} asks for; fitted_: without these"


def _facts(scene: Scene) -> dict[str, Any]:
    config, size = scene.config, scene.cohort_size
    return {
        "num_users": scene.train.num_users,
        "num_items": scene.train.num_items,
        "num_attacked_users": len(scene.user_ids),
        "num_factors": config.model.num_factors,
        "server_step": config.server.step,
        "confidences": config.sent_confidences,
        "cohort_size": size,
        "attacked_cohort_size": min(size, LARGEST_SUM),
        "min_cohort": config.privacy.min_cohort,
        "noise_multiplier": scene.noise_multiplier,
        "epsilon": None if scene.problem.protection is None else scene.problem.protection.epsilon,
        "num_rounds": scene.num_rounds,
        "rounds_trained_before": ROUNDS_BEFORE,
        "trained_with": "guarded_gram, all clients, without protection",
        "intervals": "95 %, percentile bootstrap over users (union_precision: over items)",
        "fixed_point": f"uploads in sums are rounded to {scene.quantum:.3g}" if scene.quantum else "none",
    }


def _small_cohort(scene: Scene) -> str:
    least, size = scene.config.privacy.min_cohort, scene.cohort_size
    if not scene.config.privacy.spec.sums_securely or size >= least:
        return ""
    return f"Secure sums of fewer than {least} clients are refused; these cohorts have {size}."


def _requests(config: ExperimentConfig) -> str:
    if config.channel.form != "own_rows":
        return ""
    return (
        "channel.form = own_rows: the rows of Y that a client asks for are its history, for anyone who sees "
        "the request; use it where the channel is trusted, or with private retrieval."
    )
