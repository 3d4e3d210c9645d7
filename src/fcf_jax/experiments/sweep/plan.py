"""Plan of a sweep: the combinations of all varied values, each a configuration or the reason why it is none.

axes = axes_of(["model.alpha=1,4", "server.step=adam,sgd"], num_seeds=3, base=config)
combinations = combinations_of("movielens-100k", overrides, axes)  # 12
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.load import load_config, value_of
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import ConfigError, RefusedError
from fcf_jax.experiments.store.run_directory import VARIED

_VALUE = re.compile(r"""(?:\[[^\]]*\]|"[^"]*"|'[^']*'|[^,\["'])+""")  # up to a comma outside of brackets
_FIXED = {  # sections, and keys, that cannot be varied, and why
    "parallel": "all runs share the devices",
    "checkpoint": "all runs share the checkpoints",
    "comparison": "it is of fcf compare",
    "tuning": "it is of fcf tune",
    "evaluation.k": "all runs are compared by the same metric",
    "data.feedback": "all runs are compared by the same metric",
}

Axis = tuple[tuple[str, ...], ...]  # choices, each of `section.key=value` texts that hold together


class Combination(NamedTuple):
    """One run of a sweep.

    Attributes:
        number: position in the sweep.
        values: value of each varied key.
        config: as resolved; None if a rule refuses it.
        refusal: the rule's message; "" if there is a configuration.
    """

    number: int
    values: dict[str, Any]
    config: ExperimentConfig | None
    refusal: str = ""

    def refused(self, reason: str) -> "Combination":
        """Return the combination without its configuration."""
        return self._replace(config=None, refusal=reason)


def is_seed(key: str) -> bool:
    """Return whether a key only chooses among repetitions of the same experiment."""
    return key.endswith(".seed")


def metric_of(config: ExperimentConfig) -> str:
    """Return the metric that sweeps compare: MAP at the first configured k, or RMSE of explicit ratings."""
    return "rmse" if config.data.feedback == "explicit" else f"map_at_{config.evaluation.leading_k}"


def settings_text(values: Mapping[str, Any]) -> str:
    """Return the values in few words, such as `alpha 4, step adam`; the section where a name has two."""
    names = [key.partition(".")[2] for key in values]
    shown = [name if names.count(name) == 1 else key for key, name in zip(values, names, strict=True)]
    pairs = zip(shown, map(value_text, values.values()), strict=True)
    return ", ".join(f"{name} {text}" for name, text in pairs)


def value_text(value: Any) -> str:
    """Return a value of a configuration as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "unset"
    return f"{value:g}" if isinstance(value, float) else str(value)


def axes_of(vary: Sequence[str], num_seeds: int, base: ExperimentConfig) -> list[Axis]:
    """Parse the varied values; seeds count up together from those of the configuration.

    Args:
        vary: texts such as `model.alpha=1,4`.
        num_seeds: repetitions of each combination, with other starts and other data splits; 1: as configured.
        base: configuration without the varied values.

    Raises:
        ConfigError: for texts of another form, or keys that cannot be varied.
    """
    axes = [_axis(text) for text in vary]
    if num_seeds > 1:
        seeds = {key: value_of(base, key) for key in ("federation.seed", "data.seed", "privacy.seed")}
        known = {key: seed for key, seed in seeds.items() if seed is not None}
        axes.append(
            tuple(tuple(f"{key}={seed + index}" for key, seed in known.items()) for index in range(num_seeds))
        )
    if not axes:
        raise ConfigError("--vary: expected at least one key to vary, got none; add --vary section.key=a,b")
    keys = [_key(setting) for axis in axes for setting in axis[0]]
    for key in keys:
        if keys.count(key) > 1:
            seeded = " (--seeds varies all seeds)" if is_seed(key) and num_seeds > 1 else ""
            raise ConfigError(f"--vary {key}: expected each key once, got it twice{seeded}; leave one out")
    return axes


def combinations_of(source: str | None, overrides: Sequence[str], axes: Sequence[Axis]) -> list[Combination]:
    """Resolve every combination; the last axis varies fastest.

    Args:
        source: of the configuration, as for `load_config`.
        overrides: `section.key=value` texts for all of them.
        axes: from `axes_of`.

    Raises:
        ConfigError: for a value that is wrong by itself, or if rules refuse all combinations.
    """
    fixed = {_key(override) for override in overrides}
    for setting in (setting for axis in axes for setting in axis[0]):
        if _key(setting) in fixed:
            raise ConfigError(f"--vary {_key(setting)}: it is given by --set, too; leave one of them out")
    chosen = itertools.product(*axes)
    found = [_resolved(number, source, overrides, sum(one, ())) for number, one in enumerate(chosen)]
    return refuse_if_none_is_left(found)


def refuse_if_none_is_left(combinations: list[Combination]) -> list[Combination]:
    """Return the combinations, at least one of which has a configuration.

    Raises:
        ConfigError: with the first refusal, if there are only refusals.
    """
    if all(one.config is None for one in combinations):
        raise ConfigError(f"none of {len(combinations)} combinations can be run: {combinations[0].refusal}")
    return combinations


def begun_with(folder: Path, vary: Sequence[str], num_seeds: int | None) -> tuple[list[str], int]:
    """Return what a sweep varies: as given, or as it was begun with.

    Args:
        folder: of the sweep; nothing is in it yet if the sweep is new.
        vary: texts such as `model.alpha=1,4`; none: those of the folder.
        num_seeds: repetitions; None: those of the folder, otherwise 1.

    Raises:
        ConfigError: if the sweep in the folder was begun with others.
    """
    theirs = VARIED.read_or(folder, None)
    if theirs is None:
        return list(vary), num_seeds or 1
    for name, ours in (("vary", list(vary) or None), ("seeds", num_seeds)):
        if ours is not None and ours != theirs[name]:
            raise ConfigError(
                f"{folder}: expected --{name} as the sweep was begun with, {theirs[name]}, got {ours}; "
                f"leave out --{name}, or choose another --out"
            )
    return theirs["vary"], theirs["seeds"]


def _axis(text: str) -> Axis:
    key, equals, values = (part.strip() for part in text.partition("="))
    section, dot, name = key.partition(".")
    found = [value.strip() for value in _VALUE.findall(values)]
    if not (equals and dot and section and name and found and all(found)):
        raise ConfigError(f"--vary {text}: expected section.key=a,b,c, as in --vary model.alpha=1,4,16")
    if reason := _FIXED.get(section) or _FIXED.get(key):
        raise ConfigError(f"--vary {key}: {reason}; use --set, or leave it out")
    if doubled := next((value for value in found if found.count(value) > 1), None):
        raise ConfigError(f"--vary {key}: expected different values, got {doubled} twice; leave one out")
    return tuple((f"{key}={value}",) for value in found)


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _resolved(
    number: int, source: str | None, overrides: Iterable[str], settings: tuple[str, ...]
) -> Combination:
    try:
        config = load_config(source, [*overrides, *settings])
        check(config, "sweep")
    except RefusedError as error:
        texts = {_key(setting): setting.partition("=")[2].strip() for setting in settings}
        return Combination(number, texts, None, str(error))
    values = {key: value_of(config, key) for key in map(_key, settings)}
    return Combination(number, values, config)
