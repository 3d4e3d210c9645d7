"""Who may import whom, and who may know what: read from the source, nothing is run."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fcf_jax"
FLOORS = {  # a module imports from floors below its own, or from its own part
    "messages": 0,
    "data": 1, "core": 1,
    "optimizers": 2, "als": 2, "joint": 2, "objectives": 2, "channel": 2,
    "parallel": 3, "_exported": 3,
    "evaluation": 4, "privacy": 4,
    "recommender": 5,
    "experiments": 6,
    "cli": 7, "_public": 7, "__main__": 8,
}  # fmt: skip
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")
EVERYONES = {"fcf_jax.__version__"}
NEEDED_BY_CORE = {"jax", "optax", "numpy", "jaxtyping"}
# No file, clock, screen or state. `logging` leaves it to the caller whether anything is said; `concurrent`
# computes numbers while this thread traces.
PURE = {
    "bisect", "collections", "concurrent", "dataclasses", "functools", "inspect", "logging", "math", "typing",
}  # fmt: skip
OWNERS_OF_PACKED_CLIENTS = {"core/packing.py", "core/cohorts.py", "core/records.py"}


def part_of(path):
    """Return the package or top-level module that a file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def name_of(path):
    return path.relative_to(SOURCE).as_posix()


def nodes_of(path):
    return ast.walk(ast.parse(path.read_text()))


def imported_names(path):
    """Return every module or name that a file imports, wherever in it, as a dotted name."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: expected an absolute import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called_name(call):
    """Return the last part of what is called: `fill_up` of `packing.fill_up(...)`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def files_of(part):
    return [path for path in MODULES if part_of(path) == part]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_from_floors_below(path):
    own = part_of(path)
    assert own in FLOORS or own.startswith("_"), f"{own} has no floor; give it one here"
    for name in imported_names(path):
        if not name.startswith("fcf_jax.") or name in EVERYONES:
            continue
        other = name.split(".")[1]
        assert other == own or FLOORS[other] < FLOORS[own], f"floor {FLOORS[own]} imports {name}"


@pytest.mark.parametrize("path", files_of("data"), ids=name_of)
def test_data_knows_no_jax(path):
    assert not {name.split(".")[0] for name in imported_names(path)} & {"jax", "jaxlib", "optax"}


@pytest.mark.parametrize("path", files_of("core"), ids=name_of)
def test_core_imports_jax_and_pure_modules_alone(path):
    roots = {name.split(".")[0] for name in imported_names(path)} - {"fcf_jax"}
    assert roots <= NEEDED_BY_CORE | PURE, sorted(roots - NEEDED_BY_CORE - PURE)


@pytest.mark.parametrize("path", files_of("core"), ids=name_of)
def test_core_imports_nothing_of_the_package_but_core(path):
    own = {name for name in imported_names(path) if name.startswith("fcf_jax")}
    assert all(name.startswith("fcf_jax.core.") for name in own), sorted(own)


@pytest.mark.parametrize("path", files_of("core"), ids=name_of)
def test_core_touches_no_file_and_no_screen(path):
    calls = {
        node.func.id
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "open", "input"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_packing_and_gathering_build_and_rearrange_packed_clients(path):
    if name_of(path) in OWNERS_OF_PACKED_CLIENTS:
        return
    for node in nodes_of(path):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = called_name(node), {keyword.arg for keyword in node.keywords}
        place = f"{name_of(path)}:{node.lineno}"
        assert name != "PackedClients", f"{place} builds PackedClients; use a function of core.packing"
        assert not (name == "_replace" and "rows" in keywords), f"{place} rearranges PackedClients"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_lambda_and_w0_travel_in_a_model(path):
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            both = {"regularization", "unobserved_weight"} <= {one.arg for one in arguments}
            assert not both, f"{name_of(path)}:{node.lineno} takes both; take a Model"


def test_every_test_here_found_its_modules():
    assert {part_of(path) for path in MODULES} >= set(FLOORS)
    assert {name_of(path) for path in MODULES} >= OWNERS_OF_PACKED_CLIENTS
