"""The public names: documented, and listed in docs/api.md as they are."""

import ast
import importlib.util
import inspect
from pathlib import Path

import pytest

import fcf_jax as fcf

ROOT = Path(__file__).parents[1]


def write_api():
    spec = importlib.util.spec_from_file_location("write_api", ROOT / "docs" / "write_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names():
    for namespace, module in write_api()._NAMESPACES.items():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield pytest.param(value, id=f"{namespace}.{name}")


def test_reference_page_is_up_to_date():
    expected = write_api().page()
    assert (ROOT / "docs" / "api.md").read_text() == expected, "run: python docs/write_api.py"


@pytest.mark.parametrize("value", list(public_names()))
def test_public_name_is_documented(value):
    text = inspect.getdoc(value) or ""
    assert text, "expected a docstring"
    is_record = inspect.isclass(value) and hasattr(value, "_fields")
    assert not is_record or not value._fields or "Attributes:" in text
    if inspect.isfunction(value) and len(inspect.signature(value).parameters) >= 4:
        assert "Args:" in text or "rguments as" in text


def test_every_namespace_lists_its_names():
    assert {"Model", "federated_cf", "run_rounds", "pack_clients", "cohort_sum"} <= set(fcf.__all__)
    for path in (ROOT / "src" / "fcf_jax").glob("*/__init__.py"):
        if path.parent.name not in ("core", "experiments", "cli"):
            names = [
                node
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ]
            assert names, f"{path}: expected __all__"
