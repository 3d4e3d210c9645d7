"""Cost of clipping in a round: the norm of everything that a client sends, and the factor made of it.

Full rounds of the same step in turn: plain, clipped, and clipped with noise on the sum. The step is SGD with
a rate of 0, so that all rounds start from the same trained item factors. Data as in against_implicit.py.

    python benchmarks/clipping.py path/to/ml-1m --num-factors 25 64 --out clipping.json
"""

from typing import Any

import optax
from common import add_data_arguments, argument_parser, measure, positive, publish, ratio, show, training_set
from problem import all_devices, problem_of, rounds_of, train_item_factors, use_all_cores

import fcf_jax as fcf
from fcf_jax.channel import Pieces, clip_and_noise, link

CLIP_NORM, ROUNDS = 50.0, 5


def time_clipping(train: fcf.Interactions, *, num_factors: int, repeats: int) -> dict[str, Any]:
    """Time the three kinds of rounds in turn."""
    problem = problem_of(train, num_factors=num_factors, mesh=all_devices())
    item_factors = train_item_factors(problem)
    noisy = clip_and_noise(
        clip_norms=Pieces(upload=CLIP_NORM, user_gram=CLIP_NORM, confidence_sum=None, loss=None),
        noise_multiplier=1.0,
        expected_cohort_size=train.num_users,
    )
    channels = {"plain": None, "clipped": link(client=noisy.client), "clipped, with noise": noisy}
    runs = {}
    for name, channel in channels.items():
        federation = problem.federation(optax.sgd(0.0), channel=channel)
        runs[name] = rounds_of(
            problem, federation, item_factors, num_rounds=ROUNDS, num_calls=repeats + 1
        ).run
    timings = {name: timing.per(ROUNDS) for name, timing in measure(runs, repeats=repeats).items()}
    return {
        "num_factors": num_factors,
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "ratios": {name: ratio(timing, timings["plain"])._asdict() for name, timing in timings.items()},
    }


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Arrange one result as rows of the table."""
    return [
        {
            "K": result["num_factors"],
            "round": name,
            "ms": 1e3 * result["timings"][name]["median_s"],
            "to plain": f"{found['median']:.3f} ({found['min']:.3f}-{found['max']:.3f})",
        }
        for name, found in result["ratios"].items()
    ]


def main() -> None:
    parser = argument_parser(__doc__, repeats=15)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, nargs="+", default=[25, 64])
    arguments = parser.parse_args()
    use_all_cores()
    train = training_set(arguments)
    results = [
        time_clipping(train, num_factors=num_factors, repeats=arguments.repeats)
        for num_factors in arguments.num_factors
    ]
    publish({"results": results}, arguments.out)
    show("rounds with clipping", [one for result in results for one in rows(result)])


if __name__ == "__main__":
    main()
