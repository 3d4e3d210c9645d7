"""Reading of a configuration: defaults, a TOML file, overrides, then checks; and its explanation."""

import difflib
import re
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import annotated_types
import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.source import find_source
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.messages import with_article

_TOML_ERRORS = (ValueError, RecursionError)  # besides TOMLDecodeError: numbers and nesting beyond measure
_PATHS = (
    "data.path",
    "data.train_path",
    "data.test_path",
    "data.validation_path",
    "data.negatives_path",
    "server.initial_item_factors",
)
_UNSET = "unset"  # as `explain` shows a key without a value
_LONGEST_KEY = 100  # characters that are compared with those of known keys


def load_config(source: str | None = None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Resolve defaults, then a TOML file, then `section.key=value` overrides.

    Args:
        source: a path, the name of a shipped config such as "movielens-1m", or a data file or folder, which
            the config `own-csv` reads; None: the defaults.
        overrides: values in TOML notation; strings need no quotes, and `unset` stands for no value.

    Raises:
        ConfigError: naming the file or key, and the remedy.
        OSError: when the file cannot be read.
    """
    sections, place = ({}, "") if source is None else _read_source(source)
    _refuse_unknown(sections, place)
    for override in overrides:
        section, key, value = _parse_override(override)
        _refuse_unknown({section: {key: value}}, "")
        sections.setdefault(section, {})[key] = value
    return validate(sections, place=place)


def validate(sections: dict[str, Any], *, place: str = "") -> ExperimentConfig:
    """Validate plain values, check them, and fill in values that depend on other keys."""
    try:
        config = ExperimentConfig.model_validate(sections)
    except ValidationError as error:
        raise ConfigError(place + _first_problem(error)) from None
    data = config.data
    is_file = any(one is not None for one in (data.path, data.name, data.train_path))
    source = ("file" if is_file else "simulated") if data.source == "auto" else data.source
    paths = {key: path for key in _PATHS if (path := value_of(config, key)) is not None}
    resolved = {key: _absolute(key, path) for key, path in paths.items()}
    config = with_values(config, resolved | {"data.source": source})
    check(config)  # as resolved, which is what is written and read back
    return config


def _absolute(key: str, path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # of `~name`
        raise ConfigError(f"{key}: {path}: {error}; give the folder's own path") from None


def with_values(config: ExperimentConfig, values: Mapping[str, Any]) -> ExperimentConfig:
    """Replace values by key, such as "model.alpha", without checks, so that they may be traced."""
    for name, value in values.items():
        section, key = name.split(".")
        changed = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: changed})
    return config


def value_of(config: ExperimentConfig, name: str) -> Any:
    """Return the value of a key such as "model.alpha"."""
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def explain(config: ExperimentConfig | None = None) -> str:
    """Return a valid TOML file that describes every key: value, meaning, default and bounds."""
    config = ExperimentConfig() if config is None else config
    lines = []
    for section, model in _sections():
        values = getattr(config, section)
        lines += [f"# {model.__doc__}", f"[{section}]"]
        lines += [_explain_key(key, getattr(values, key), field) for key, field in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def _explain_key(key: str, value: Any, field: FieldInfo) -> str:
    setting = f"# {key} (unset)" if value is None else f"{key} = {_toml(value)}"
    default = "unset" if field.default is None else _toml(field.default)
    facts = [str(field.description), f"default {default}", *_bounds(field)]
    return f"{setting:32}  # {'; '.join(facts)}"


def _toml(value: Any) -> str:
    if isinstance(value, list):  # on one line
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(item)}' for key, item in value.items())}}}"
    return tomli_w.dumps({"_": value}).partition("=")[2].strip()


def _bounds(field: FieldInfo) -> Iterator[str]:
    if choices := [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]:
        yield "one of " + ", ".join(choices)
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            yield f"at least {bound.ge}"
        elif isinstance(bound, annotated_types.Gt):
            yield f"above {bound.gt}"
        elif isinstance(bound, annotated_types.Le):
            yield f"at most {bound.le}"
        elif isinstance(bound, annotated_types.Lt):
            yield f"below {bound.lt}"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in ExperimentConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        yield name, field.annotation


def _read_source(argument: str) -> tuple[dict[str, Any], str]:
    """Return the sections of a source, and the place that messages name."""
    source = find_source(argument)
    sections = _read_toml(source.config)
    if source.data is None:
        return sections, f"{argument}: "
    sections["data"]["path"] = str(source.data)
    return sections, ""


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, got an invalid byte at {error.start}; convert the file"
        ) from None
    except _TOML_ERRORS as error:
        raise ConfigError(f"{path}: expected TOML, got an error: {error}; correct the file") from None


def _parse_override(override: str) -> tuple[str, str, Any]:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(
            f"--set {override}: expected section.key=value, as in --set federation.num_rounds=50"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except _TOML_ERRORS:
        value = None if text.strip() == _UNSET else text.strip()
    return section, key, value


def _refuse_unknown(sections: dict[str, Any], place: str) -> None:
    known = {section: list(model.model_fields) for section, model in _sections()}
    for section, keys in sections.items():
        if section not in known:
            nearest = _nearest(section, list(known))
            raise ConfigError(f"{place}unknown section [{section}]; did you mean [{nearest}]?")
        if not isinstance(keys, dict):
            found = reprlib.repr(keys)
            raise ConfigError(f"{place}{section}: expected a section [{section}], got {found}; correct it")
        for key in keys:
            if key not in known[section]:
                raise ConfigError(
                    f"{place}unknown key {section}.{key}; did you mean {_nearest_key(section, key, known)}?"
                )


def _nearest_key(section: str, key: str, known: dict[str, list[str]]) -> str:
    """Return a close key of this section, otherwise one of another, otherwise the nearest of this section."""
    key = key[:_LONGEST_KEY]
    if close := difflib.get_close_matches(key, known[section], n=1, cutoff=0.8):
        return f"{section}.{close[0]}"
    for other, keys in known.items():
        if close := difflib.get_close_matches(key, keys, n=1, cutoff=0.8):
            return f"{other}.{close[0]}"
    return f"{section}.{_nearest(key, known[section])}"


def _nearest(word: str, words: list[str]) -> str:
    return difflib.get_close_matches(word[:_LONGEST_KEY], words, n=1, cutoff=0.0)[0]


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"][:2])
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = message.replace(", unable to parse raw data as a unicode string", " in UTF-8")
    message = re.sub(r"\ba valid (\w+)", lambda found: with_article(found[1]), message)
    value = reprlib.repr(problem["input"])  # of bounded depth and length
    return f"{key}: {message}, got {value[:60]}; see `fcf config --explain`"
