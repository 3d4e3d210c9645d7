"""The configuration of an experiment: TOML sections with defaults, bounds and meanings."""

import difflib
import importlib.resources
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from fcf_jax.data.layouts import LAYOUT_NAMES

_SETTINGS = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_REPOSITORY_CONFIGS = Path(__file__).parents[3] / "configs"

ServerStep = Literal["guarded_gram", "gram", "running_sums", "adam", "paper_adam", "sgd"]
Column = str | int


class ConfigError(ValueError):
    """A mistake in the configuration, told in one line that names the key."""


class DataConfig(BaseModel):
    """Where the interactions come from and how they are split."""

    model_config = _SETTINGS

    source: Literal["auto", "simulated", "file"] = Field(
        "auto", description="auto: a file when data.path is set, otherwise simulated"
    )
    path: str | None = Field(None, description="data file, or the folder of a known data set")
    layout: str = Field("auto", description=f"of the file, one of: {', '.join(LAYOUT_NAMES)}")
    user_column: Column | None = Field(None, description="name or 0-based number of the users' column")
    item_column: Column | None = Field(None, description="name or 0-based number of the items' column")
    strength_column: Column | None = Field(
        None, description='name or number of the strengths\' column; "" = every strength is 1'
    )
    timestamp_column: Column | None = Field(None, description='name or number, in seconds; "" = none')
    separator: str | None = Field(None, description='one character, "::" or "whitespace"; unset = found out')
    duplicates: Literal["sum", "max", "last", "error"] = Field(
        "sum", description="what becomes of repeated pairs of user and item"
    )
    on_bad_line: Literal["error", "skip"] = Field("error", description="skip: leave unreadable lines out")
    feedback: Literal["implicit", "explicit"] = Field(
        "implicit", description="implicit: strengths are confidence; explicit: they are ratings to predict"
    )
    strengths: Literal["keep", "binary", "log"] = Field(
        "keep", description="what is done to strengths: nothing, all 1, or log(1 + r)"
    )
    min_user_interactions: int = Field(1, ge=1, description="users with fewer are left out")
    min_item_interactions: int = Field(1, ge=1, description="items with fewer are left out")
    generator: Literal["taste", "uniform"] = Field(
        "taste", description="of simulated data: planted tastes, or the paper's random views"
    )
    num_users: int = Field(2000, ge=1, description="simulated users")
    num_items: int = Field(500, ge=1, description="simulated items")
    mean_history: float = Field(40.0, ge=1, description="mean items per simulated user (taste)")
    sparsity: float = Field(0.8, ge=0, lt=1, description="share of pairs without a view (uniform)")
    split: Literal["ratio", "leave_one_out", "temporal", "published"] = Field(
        "ratio", description="per-user share, each user's latest item, a point in time, or as published"
    )
    test_fraction: float = Field(0.2, ge=0, lt=1, description="share that is held out for testing")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="share held out for tuning")
    seed: int = Field(0, ge=0, description="of simulation and split")


class ModelConfig(BaseModel):
    """The factor model, the same for the federation and for ALS."""

    model_config = _SETTINGS

    num_factors: int = Field(25, ge=1, description="K, the length of a factor")
    alpha: float = Field(4.0, ge=0, description="confidence c = 1 + alpha * strength")
    regularization: float = Field(1.0, ge=0, description="lambda on the squared norms of all factors")
    unobserved_weight: float = Field(
        1.0, ge=0, description="confidence of items outside a history; 0 for explicit ratings"
    )
    init_scale: float = Field(0.1, gt=0, description="standard deviation of the first item factors")


class ServerConfig(BaseModel):
    """How the server steps on the sum of the clients' uploads."""

    model_config = _SETTINGS

    step: ServerStep = Field("guarded_gram", description="the server's optimizer")
    learning_rate: float | None = Field(
        None, gt=0, description="unset = 0.05 (adam, paper_adam), 1e-4 (sgd), 1 (gram), 0.15 (running_sums)"
    )
    decay: Literal["constant", "cosine"] = Field("constant", description="of the learning rate")
    final_learning_rate: float = Field(0.0, ge=0, description="at the last round of a cosine decay")
    b1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay")
    b2: float = Field(0.99, ge=0, lt=1, description="Adam's second decay")
    eps: float = Field(1e-8, gt=0, description="Adam's epsilon")
    confidence_factor: float | None = Field(
        None, ge=0, description="weight of confidence in gram steps; unset = 1 (guarded_gram), else 3"
    )
    initial_damping: float = Field(2.0, gt=0, description="of guarded_gram, in the first round")


class FederationConfig(BaseModel):
    """Rounds and cohorts."""

    model_config = _SETTINGS

    num_rounds: int = Field(30, ge=0, description="rounds of federated training")
    cohort_size: int = Field(0, ge=0, description="clients drawn in each round; 0 = everybody")
    seed: int = Field(0, ge=0, description="of the first item factors and the cohorts")


class EvaluationConfig(BaseModel):
    """What is measured, and when."""

    model_config = _SETTINGS

    k: int = Field(10, ge=1, description="length of the recommendation lists")
    every: int = Field(10, ge=1, description="rounds between evaluations")
    max_users: int | None = Field(None, ge=1, description="evaluate on a sample of users; unset = all")
    baseline: bool = Field(True, description="also train centralised ALS from the same start")


class ExperimentConfig(BaseModel):
    """Everything that decides about a run."""

    model_config = _SETTINGS

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    server: ServerConfig = ServerConfig()
    federation: FederationConfig = FederationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return the sections as plain values, without the keys that are unset."""
        return self.model_dump(exclude_none=True)


def load_config(source: str | None = None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Resolve defaults, then a TOML file, then `section.key=value` overrides.

    Args:
        source: a path, or the bare name of a shipped config such as "movielens-1m".
        overrides: values in TOML notation; text needs no quotes.

    Raises:
        ConfigError: naming the file or key, and the remedy.
        OSError: when the file cannot be read.
    """
    sections = {} if source is None else _read_toml(_find_config(source))
    place = "" if source is None else f"{source}: "
    _refuse_unknown(sections, place)
    for override in overrides:
        section, key, value = _parse_override(override)
        _refuse_unknown({section: {key: value}}, "")
        sections.setdefault(section, {})[key] = value
    return resolve(sections, place=place)


def resolve(sections: dict[str, Any], *, place: str = "") -> ExperimentConfig:
    """Check plain values and fill in what depends on other keys."""
    try:
        config = ExperimentConfig.model_validate(sections)
    except ValidationError as error:
        raise ConfigError(place + _first_problem(error)) from None
    _refuse_contradictions(config)
    data = config.data
    path = None if data.path is None else str(Path(data.path).expanduser().absolute())
    source = ("simulated" if path is None else "file") if data.source == "auto" else data.source
    return config.model_copy(update={"data": data.model_copy(update={"path": path, "source": source})})


def shipped_configs() -> dict[str, Path]:
    """Find the configs that come with the package (or lie in its repository), by name."""
    packaged = Path(str(importlib.resources.files("fcf_jax"))) / "configs"
    folder = packaged if packaged.is_dir() else _REPOSITORY_CONFIGS
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def explain() -> str:
    """Describe every key with its default, bounds and meaning, as a valid TOML file."""
    lines = []
    for section, model in _sections():
        lines += [f"# {model.__doc__}", f"[{section}]"]
        lines += [_explain_key(key, field) for key, field in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def _explain_key(key: str, field: FieldInfo) -> str:
    default = field.default
    text = str(default).lower() if isinstance(default, bool) else repr(default).replace("'", '"')
    setting = f"# {key} (unset)" if default is None else f"{key} = {text}"
    facts = [str(field.description), *_bounds(field)]
    return f"{setting:32}  # {'; '.join(facts)}"


def _bounds(field: FieldInfo) -> Iterator[str]:
    if choices := [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]:
        yield "one of " + ", ".join(choices)
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            yield f"at least {bound.ge}"
        elif isinstance(bound, annotated_types.Gt):
            yield f"above {bound.gt}"
        elif isinstance(bound, annotated_types.Lt):
            yield f"below {bound.lt}"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in ExperimentConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        yield name, field.annotation


def _find_config(source: str) -> Path:
    path = Path(source)
    shipped = shipped_configs()
    if not path.exists() and source in shipped:
        return shipped[source]
    if not path.exists():
        names = ", ".join(shipped)
        raise ConfigError(f"{source}: no such config; give the path of a TOML file or one of {names}")
    return path


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, got a mistake: {error}; correct the file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got a bad byte at {error.start}; convert it") from None


def _parse_override(override: str) -> tuple[str, str, Any]:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(
            f"--set {override}: expected section.key=value; for example --set federation.num_rounds=50"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return section, key, value


def _refuse_unknown(sections: dict[str, Any], place: str) -> None:
    known = {section: list(model.model_fields) for section, model in _sections()}
    for section, keys in sections.items():
        if section not in known:
            nearest = _nearest(section, list(known))
            raise ConfigError(f"{place}unknown section [{section}]; did you mean [{nearest}]?")
        if not isinstance(keys, dict):
            raise ConfigError(f"{place}{section}: expected a section [{section}], got {keys!r}; correct it")
        for key in keys:
            if key not in known[section]:
                raise ConfigError(
                    f"{place}unknown key {section}.{key}; did you mean {_nearest_key(section, key, known)}?"
                )


def _nearest_key(section: str, key: str, known: dict[str, list[str]]) -> str:
    """Prefer an equal or a close key, in this section first, then in another."""
    everywhere = {f"{name}.{one}": one for name, keys in known.items() for one in keys}
    for cutoff in (0.8, 0.0):
        if close := difflib.get_close_matches(key, known[section], n=1, cutoff=cutoff):
            if cutoff or close[0]:
                here = f"{section}.{close[0]}"
                if cutoff:
                    return here
        if close := difflib.get_close_matches(key, list(everywhere.values()), n=1, cutoff=cutoff or 0.6):
            return next(full for full, one in everywhere.items() if one == close[0])
    return f"{section}.{_nearest(key, known[section])}"


def _nearest(word: str, words: list[str]) -> str:
    return difflib.get_close_matches(word, words, n=1, cutoff=0.0)[0]


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"][:2])
    message = problem["msg"].replace("Input should be", "expected").replace("a valid ", "a ")
    value = repr(problem["input"])
    return f"{key}: {message}, got {value[:60]}; see `fcf config --explain`"


def _refuse_contradictions(config: ExperimentConfig) -> None:
    data, model, server = config.data, config.model, config.server
    if data.source == "simulated" and data.path is not None:
        raise ConfigError('data.path: set, but data.source is "simulated"; leave out one of them')
    if data.test_fraction + data.validation_fraction >= 1:
        raise ConfigError("data.test_fraction: with validation_fraction it leaves nothing to train on; lower it")
    if data.split == "published" and data.source == "simulated":
        raise ConfigError('data.split: simulated data has no published split; set data.split = "ratio"')
    if data.feedback == "explicit" and model.unobserved_weight != 0:
        raise ConfigError(
            f"model.unobserved_weight: expected 0 for explicit ratings, got {model.unobserved_weight}; "
            "set model.unobserved_weight = 0"
        )
    if data.feedback == "explicit" and data.strengths != "keep":
        raise ConfigError('data.strengths: explicit ratings stay as they are; set data.strengths = "keep"')
    if server.decay == "cosine" and server.step in ("gram", "guarded_gram"):
        raise ConfigError(f'server.decay: {server.step} has no schedule; set server.decay = "constant"')
