"""Attacks on a federation, and what defences leave of them: exposure of targets, and metrics of honest users.

For each server step, attack and defence, federations with more and more malicious clients train side by
side, from the same start and with the same targets. ER@10 is the share of honest users who have not seen a
target and get it among their ten best unseen items, averaged over the targets. The other metrics are those of
honest users. A document is saved after each setting, and resumed.

    python benchmarks/attacks.py ml-100k --json attacks-100k.json
    python benchmarks/attacks.py --table attacks-100k.json attacks-1m.json     # writes docs/channel.md
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from common import add_data_arguments, argument_parser, positive, publish, read_data, show, sizes_of
from jax import numpy as jnp
from readme import README, markdown, with_table

import fcf_jax as fcf
from fcf_jax import channel
from fcf_jax.channel import attack
from fcf_jax.core.client import upload_norms
from fcf_jax.core.cohort_sum import broadcast_of, solve_chunks
from fcf_jax.evaluation import evaluation_data, exposure_data, exposure_ratios, summarize
from fcf_jax.evaluation.exposure import count_exposed

PAGE = README.parents[1] / "docs" / "channel.md"
STEPS = {
    "guarded_gram": (fcf.optimizers.guarded_gram(), 20),
    "gram": (fcf.optimizers.gram_preconditioned(), 20),
    "adam": (optax.adam(0.05, b1=0.1, b2=0.99), 60),
}
ATTACKS = (
    "none", "poisoned_history", "explicit_boosting", "rank_one", "fed_rec_attack", "untargeted_noise",
)  # fmt: skip
DEFENCES = ("none", "clip", "consistency", "trimmed_mean", "median")
_NUM_FILLERS = 100
_TRIMMED = 0.1  # of the values of an item, at each end
_SHOWN = ("er_at_10", "hit_rate_at_10", "map_at_10")


class Scene(NamedTuple):
    """What all settings share.

    Attributes:
        model: weighting, lambda and w0.
        train: training set.
        test: items to find.
        clients: packed training set.
        targets: target items.
        shares: of malicious users, one run each.
        roles: of all users, for each share.
        clip_norm: of the clipping defence.
        strength: of all attacks but poisoned histories.
        num_rounds: replaces those of the server steps; None: theirs.
    """

    model: fcf.Model
    train: fcf.Interactions
    test: fcf.Interactions
    clients: Any
    targets: jax.Array
    shares: tuple[float, ...]
    roles: jax.Array
    clip_norm: float
    strength: float
    num_rounds: int | None
    num_factors: int


# Links


def attack_of(scene: Scene, kind: str, roles: jax.Array) -> channel.Link | None:
    """Build the link of an attack; None without one."""
    train, strength = scene.train, scene.strength
    popular = np.argsort(-train.item_counts, kind="stable")[:_NUM_FILLERS].astype(np.int32)
    return {
        "none": lambda: None,
        "poisoned_history": lambda: attack.poisoned_history(jax.random.key(2), roles, fillers=popular),
        "explicit_boosting": lambda: attack.explicit_boosting(roles, strength=strength),
        "rank_one": lambda: attack.rank_one(roles, train.item_counts / train.num_users, strength=strength),
        "fed_rec_attack": lambda: attack.fed_rec_attack(
            roles, attack.public_interactions(train, share=0.05), targets=scene.targets, strength=strength
        ),
        "untargeted_noise": lambda: attack.untargeted_noise(roles, strength=strength),
    }[kind]()


def defence_of(scene: Scene, kind: str) -> channel.Link | None:
    """Build the link of a defence; None without one."""
    clients, strengths, num_factors = scene.clients, scene.train.strengths, scene.num_factors
    ends = float(strengths.min()), float(strengths.max())
    return {
        "none": lambda: None,
        "clip": lambda: channel.clip(channel.Pieces(scene.clip_norm, None, None, None)),
        "consistency": lambda: channel.consistency_check(strength_range=ends),
        "trimmed_mean": lambda: channel.trimmed_mean(clients, num_factors=num_factors, share=_TRIMMED),
        "median": lambda: channel.coordinate_median(clients, num_factors=num_factors),
    }[kind]()


def honest_norms(scene: Scene, item_factors: jax.Array) -> np.ndarray:
    """Compute the lengths of all honest uploads."""

    def use(total: tuple, uploads: Any) -> tuple[tuple, tuple]:
        return total, (upload_norms(uploads).upload, uploads.is_client)

    broadcast = broadcast_of(scene.model, item_factors)
    norms, is_client = jax.jit(lambda: solve_chunks(broadcast, scene.clients, use, ())[1])()
    return np.asarray(norms)[np.asarray(is_client)]


# Runs


def trained(scene: Scene, step: str, attacking: str, defending: str) -> tuple[jax.Array, Any]:
    """Train with each share of malicious users; return item factors and infos of all runs."""
    optimizer, num_rounds = STEPS[step]
    defence = defence_of(scene, defending)

    def make(roles: jax.Array) -> Any:
        links = [link for link in (attack_of(scene, attacking, roles), defence) if link is not None]
        return fcf.federated_cf(
            scene.model,
            optimizer,
            num_items=scene.train.num_items,
            num_factors=scene.num_factors,
            channel=channel.chain(*links) if links else None,
        )

    keys = jnp.stack([jax.random.key(0)] * len(scene.roles))
    rounds = scene.num_rounds or num_rounds
    states, infos = fcf.parallel.run_side_by_side(make, keys, scene.roles, scene.clients, num_rounds=rounds)
    return states.item_factors, infos


def measured(scene: Scene, item_factors: jax.Array, roles: np.ndarray) -> dict[str, float]:
    """Measure exposure and the metrics of honest users; nan for a run that diverged."""
    honest = roles < 0
    users = exposure_data(scene.train, honest)
    found = exposure_ratios(count_exposed(scene.model, item_factors, users, scene.targets))
    data = evaluation_data(scene.train, scene.test)
    metrics = fcf.evaluation.user_metrics(scene.model, item_factors, data)
    is_honest = honest[np.asarray(data.user_ids)]
    of_honest = summarize(jax.tree.map(lambda leaf: np.asarray(leaf)[is_honest], metrics))
    names = ("hit_rate_at_10", "map_at_10", "ndcg_at_10", "recall_at_10")
    return {**found, **{name: of_honest[name] for name in names}}


def measure_setting(scene: Scene, step: str, attacking: str, defending: str) -> dict[str, Any]:
    """Train and measure one setting with every share; return its row of the document."""
    start = time.perf_counter()
    item_factors, infos = trained(scene, step, attacking, defending)
    jax.block_until_ready(item_factors)
    seconds = time.perf_counter() - start
    runs = [
        {
            "share": share,
            "num_malicious": int(np.sum(np.asarray(scene.roles[run]) >= 0)),
            "num_clients": float(infos.num_clients[run, -1]),
            **measured(scene, item_factors[run], np.asarray(scene.roles[run])),
        }
        for run, share in enumerate(scene.shares)
    ]
    return {"step": step, "attack": attacking, "defence": defending, "seconds": seconds, "runs": runs}


def settings(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield (step, attack, defence): every defence with the first step, and no defence with the others."""
    for step in arguments.steps:
        for attacking in arguments.attacks:
            for defending in arguments.defences if step == arguments.steps[0] else ["none"]:
                yield step, attacking, defending


def scene_of(arguments: argparse.Namespace) -> Scene:
    """Read the data, and draw targets and malicious users."""
    split = fcf.split_per_user(read_data(arguments).binarized(), test_fraction=0.2, seed=0)
    train, num_factors = split.train, arguments.num_factors
    shares = tuple(arguments.shares)
    key = jax.random.key(arguments.seed)
    targets = attack.draw_targets(key, train.item_counts, num_targets=arguments.num_targets)
    roles = jnp.stack([
        attack.draw_malicious(key, train.history_lengths, share=share, targets=targets) for share in shares
    ])  # fmt: skip
    model = fcf.Model(fcf.implicit_feedback(alpha=4.0), regularization=1.0)
    scene = Scene(
        model=model,
        train=train,
        test=split.test,
        clients=fcf.pack_clients(train, num_factors=num_factors),
        targets=targets,
        shares=shares,
        roles=roles,
        clip_norm=0.0,
        strength=arguments.strength,
        num_rounds=arguments.num_rounds,
        num_factors=num_factors,
    )
    if "clip" not in arguments.defences:
        return scene
    item_factors = trained(scene._replace(roles=roles[:1]), "guarded_gram", "none", "none")[0][0]
    clip_norm = float(np.quantile(honest_norms(scene, item_factors), arguments.clip_quantile))
    return scene._replace(clip_norm=clip_norm)


# Document


def rows_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each setting: exposure, and hit rate and MAP of honest users, by share."""
    for one in document["results"]:
        row = {"data": document["name"], "server step": one["step"], "attack": one["attack"]}
        row["defence"] = one["defence"]
        for run in one["runs"]:
            er, hits, ranking = (run[name] for name in _SHOWN)
            row[f"{100 * run['share']:g} %"] = f"{er:.3f} · {hits:.3f} · {ranking:.3f}"
        yield row


def main() -> None:
    """Measure, or write the page."""
    parser = argument_parser(__doc__)
    add_data_arguments(parser)
    parser.add_argument("--json", type=Path, dest="out", help="same as --out")
    parser.add_argument("--name", help="of the data in the table; default: the name of its folder")
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--num-rounds", type=positive, help="default: 20, or 60 of Adam")
    parser.add_argument("--num-targets", type=positive, default=5)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.001, 0.01, 0.05])
    parser.add_argument("--strength", type=float, default=10.0)
    parser.add_argument("--clip-quantile", type=float, default=0.75, help="of honest uploads' lengths")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--defences", nargs="+", choices=DEFENCES, default=list(DEFENCES))
    parser.add_argument("--seed", type=int, default=0, help="of targets and malicious users")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE.json", help="write docs/channel.md")
    arguments = parser.parse_args()
    if arguments.table:
        rows = [row for path in arguments.table for row in rows_of(json.loads(path.read_text()))]
        PAGE.write_text(with_table(PAGE.read_text(), "attacks.py", rows))
        return
    document = _measured(arguments, lambda document: publish(document, arguments.out))
    show(f"{document['name']}: ER@10 · HR@10 · MAP@10", rows_of(document))
    print("\n".join(markdown(rows_of(document))))


def _measured(arguments: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure the settings that the document lacks, and save it after each."""
    results = []
    if arguments.out is not None and arguments.out.exists():
        results = json.loads(arguments.out.read_text())["results"]
    scene = scene_of(arguments)
    document = {
        "name": arguments.name or (Path(arguments.path).name if arguments.path else "simulated"),
        "sizes": sizes_of(scene.train),
        "targets": np.asarray(scene.targets).tolist(),
        "strength": scene.strength,
        "clip_norm": scene.clip_norm,
        "results": results,
    }
    done = {(one["step"], one["attack"], one["defence"]) for one in results}
    for setting in settings(arguments):
        if setting in done:
            continue
        results.append(measure_setting(scene, *setting))
        save(document)
        seconds = results[-1]["seconds"]
        print(
            " ".join(setting),
            *(f"{run['er_at_10']:.4f}" for run in results[-1]["runs"]),
            f"{seconds:.0f} s",
            flush=True,
        )
    save(document)
    return document


if __name__ == "__main__":
    main()
