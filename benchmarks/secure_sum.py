"""Time of a round of secure summation: keys and shares, masking, and unmasking with dropouts.

The words are those of a cohort of MovieLens 1M's size (all pieces of a cohort sum: item gradients, user Gram
matrix, confidences, loss); they are random numbers, since the time does not depend on them. Both ends of
every pair make its mask, as real clients do: degree + 1 streams for each client. Keys and shares, on the host
with X25519 and Shamir, are timed apart. Every sum is compared with the plain integer sum.

    python benchmarks/secure_sum.py --out secure_sum.json

A majority of 20 neighbours does not survive 30 % dropouts (`degree_needed` computes what would): there the
threshold is lowered to --low-threshold, which is safe only against a server that follows the protocol.
"""

import random
import time
from typing import Any

import jax
import numpy as np
from common import argument_parser, measure, positive, publish, show
from jax import numpy as jnp
from problem import all_devices, use_devices

from fcf_jax.channel import Pieces, choose_formats
from fcf_jax.privacy.secure_sum import SumRules, protocol
from fcf_jax.privacy.secure_sum.cohorts import degree_needed, recovery_failure
from fcf_jax.privacy.secure_sum.keys import Binding
from fcf_jax.privacy.secure_sum.rounds import mask_uploads, unmask
from fcf_jax.privacy.secure_sum.uploads import ClientUploads, upload_words

DEGREE = 20  # neighbours of a client


def time_round(
    uploads: ClientUploads, *, degree: int, threshold: int | None, dropout: float, repeats: int
) -> dict[str, Any]:
    """Time the parts of one round."""
    mesh, num_clients = all_devices(), uploads.loss.size
    formats = choose_formats(Pieces(50.0, 50.0, 50.0, 50.0), max_clients=num_clients)
    rules = SumRules(degree=degree, threshold=threshold)
    clock = time.perf_counter
    start = clock()
    facts = protocol.open_round(np.arange(num_clients), Binding(bytes(32), 0), rules)
    secrets = protocol.deal_secrets(facts, random.Random(0).randbytes)
    public_keys = [one.keys.public for one in secrets]
    dealt_s, start = clock() - start, clock()
    gone = random.Random(1).sample(range(num_clients), round(dropout * num_clients))
    request = protocol.declare(facts, sorted(set(range(num_clients)) - set(gone)))
    streams = [protocol.mask_streams(facts, who, secrets[who], public_keys) for who in request.survivors]
    seeds, signs = (np.stack(part) for part in zip(*streams, strict=True))
    agreed_s, start = clock() - start, clock()
    revealed = protocol.collect_shares(facts, secrets, request)
    removed = protocol.streams_to_remove(facts, public_keys, request, revealed)
    recovered_s = clock() - start

    survivors = jax.tree.map(lambda leaf: leaf[np.asarray(request.survivors)], uploads)
    sent, _ = mask_uploads(survivors, seeds, signs, formats, mesh=mesh)
    found = unmask(sent, *removed, mesh=mesh)
    words = jax.jit(lambda upload: upload_words(upload, formats)[0])
    plain = np.zeros_like(found)
    for who in range(len(request.survivors)):
        plain += np.asarray(words(jax.tree.map(lambda leaf, who=who: leaf[who], survivors)))
    timings = measure(
        {
            "mask": lambda: mask_uploads(survivors, seeds, signs, formats, mesh=mesh),
            "unmask": lambda: unmask(sent, *removed, mesh=mesh),
        },
        repeats=repeats,
    )
    return {
        "num_clients": num_clients,
        "num_words": found.size,
        "degree": degree,
        "threshold": facts.threshold,
        "dropout": dropout,
        "recovery_failure": recovery_failure(
            num_clients, degree=degree, threshold=facts.threshold, num_dropped=len(gone)
        ),
        "num_streams": signs.size + len(removed[1]),
        "mask_s": timings["mask"].to_dict(),
        "unmask_s": timings["unmask"].to_dict(),
        "deal_keys_and_shares_s": dealt_s,
        "agree_on_pairs_s": agreed_s,
        "recover_s": recovered_s,
        "is_exact": bool(np.array_equal(found, plain)),
    }


def random_uploads(num_clients: int, num_items: int, num_factors: int) -> ClientUploads:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    user_factors = draw(num_clients, num_factors)
    return ClientUploads(
        client_ids=jnp.arange(num_clients),
        residuals=draw(num_clients, num_items),
        user_factors=user_factors,
        sent_factors=user_factors,
        confidence=draw(num_clients, num_items),
        loss=draw(num_clients),
        is_clipped=jnp.zeros(num_clients, bool),
    )


def row(result: dict[str, Any]) -> dict[str, Any]:
    """Arrange one result as a row of the table."""
    names = ("degree", "threshold", "dropout", "recovery_failure", "num_streams")
    seconds = ("deal_keys_and_shares_s", "agree_on_pairs_s", "recover_s")
    mask, unmask = result["mask_s"]["median_s"], result["unmask_s"]["median_s"]
    return (
        {name.replace("_", " "): result[name] for name in names}
        | {"mask s": mask, "unmask s": unmask, "both s": mask + unmask}
        | {name.removesuffix("_s").replace("_", " ") + " s": result[name] for name in seconds}
        | {"exact": result["is_exact"]}
    )


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--num-clients", type=positive, default=1000)
    parser.add_argument("--num-items", type=positive, default=3706)
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    parser.add_argument(
        "--low-threshold", type=positive, default=5, help="of 20 neighbours, above 10 %% dropouts"
    )
    parser.add_argument(
        "--majority", action="store_true", help="also 30 %% dropouts with as many neighbours as it takes"
    )
    parser.add_argument(
        "--num-devices", type=positive, help="that a CPU counts as; default: one for each core"
    )
    arguments = parser.parse_args()
    use_devices(arguments.num_devices)
    uploads = random_uploads(arguments.num_clients, arguments.num_items, arguments.num_factors)
    rounds = [
        (DEGREE, arguments.low_threshold if dropout > 0.1 else None, dropout)
        for dropout in arguments.dropouts
    ]
    if arguments.majority:
        degree = degree_needed(arguments.num_clients, num_dropped=round(0.3 * arguments.num_clients))
        rounds.append((degree, None, 0.3))
    results = []
    for degree, threshold, dropout in rounds:
        results.append(
            time_round(
                uploads, degree=degree, threshold=threshold, dropout=dropout, repeats=arguments.repeats
            )
        )
        publish({"results": results}, arguments.out)
    show("rounds of secure summation", map(row, results))


if __name__ == "__main__":
    main()
