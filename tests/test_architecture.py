"""Who may import whom: each module from floors below its own, or from its own package."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fcf_jax"
FLOORS = {
    "data": 1, "core": 2, "optimizers": 3, "als": 3, "channel": 3, "parallel": 4,
    "evaluation": 5, "privacy": 5, "recommender": 6, "experiments": 6, "cli": 7,
}  # fmt: skip
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")
EVERYONES = {"fcf_jax.__version__"}


def part_of(path):
    """The package or top-level module that a file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_names(path):
    """Every module or name that a file imports, wherever in it, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: expected an absolute import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(part):
    return [path for path in MODULES if part_of(path) == part]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_from_floors_below(path):
    own = part_of(path)
    assert own in FLOORS or own.startswith("_"), f"{own} has no floor; give it one here"
    for name in imported_names(path):
        if not name.startswith("fcf_jax.") or name in EVERYONES:
            continue
        other = name.split(".")[1]
        assert other == own or FLOORS[other] < FLOORS[own], f"floor {FLOORS[own]} imports {name}"


@pytest.mark.parametrize("path", files_of("data"), ids=lambda path: path.stem)
def test_data_knows_no_jax(path):
    assert not {name.split(".")[0] for name in imported_names(path)} & {"jax", "jaxlib", "optax"}


@pytest.mark.parametrize("path", files_of("core"), ids=lambda path: path.stem)
def test_core_touches_no_file_clock_or_screen(path):
    outside = {"os", "io", "sys", "time", "datetime", "pathlib", "logging", "pandas", "tempfile", "shutil"}
    assert not {name.split(".")[0] for name in imported_names(path)} & outside
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"print", "open", "input"}


def test_every_test_here_found_its_modules():
    assert files_of("core") and files_of("data") and files_of("parallel")
