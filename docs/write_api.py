"""The API reference, written from the package itself: `python docs/write_api.py` writes docs/api.md."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fcf_jax as fcf

_NAMESPACES = {
    "fcf": fcf,
    "fcf.objectives": fcf.objectives,
    "fcf.optimizers": fcf.optimizers,
    "fcf.als": fcf.als,
    "fcf.joint": fcf.joint,
    "fcf.features": fcf.features,
    "fcf.channel": fcf.channel,
    "fcf.parallel": fcf.parallel,
    "fcf.evaluation": fcf.evaluation,
    "fcf.data": fcf.data,
    "fcf.privacy": fcf.privacy,
    "fcf.privacy.secure_sum": fcf.privacy.secure_sum,
}
_HEAD = """# API reference

Every public name, with `import fcf_jax as fcf`. Written by `python docs/write_api.py`; `help(name)` shows the
same text. What is not listed here may change without notice.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(line for name in _NAMESPACES for line in _section(name))]) + "\n"


def _section(namespace: str) -> Iterator[str]:
    module = _NAMESPACES[namespace]
    yield f"## {namespace}\n\n{_first_paragraph(module)}\n"
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        if not isinstance(value, ModuleType):
            yield from _entry(f"{namespace}.{name}", value)


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}\n"
    if not inspect.isfunction(value) and not inspect.isclass(value):
        yield f"```python\n{name} = {_assigned(value)}\n```\n"
        return
    yield f"```python\n{name}{_signature(value)}\n```\n"
    yield f"```text\n{inspect.cleandoc(value.__doc__ or '')}\n```\n"
    if inspect.isclass(value):
        bases = [base for base in value.__mro__ if base.__module__.startswith(fcf.__name__)]
        methods = [(base, name) for base in bases for name in vars(base) if not name.startswith("_")]
        names = [name for base, name in methods if _is_own(base, name)]
        yield from (f"- `{name}`: {_first_paragraph(getattr(value, name))}" for name in names)
        yield ""


def _is_own(record: type, name: str) -> bool:
    """Return whether a class defines this method or property, rather than a field of a record."""
    value = vars(record)[name]
    is_method = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
    return is_method and f" {name}(" in inspect.getsource(record)


def _signature(value: Any) -> str:
    """Return the parameters as the source has them; of a class, its annotated fields."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign)]
        fields = [field for field in fields if not field.startswith("_")]
        return "(\n    " + ",\n    ".join(fields) + ",\n)" if fields else ""
    assert isinstance(node, ast.FunctionDef)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"


def _assigned(value: Any) -> str:
    return value if isinstance(value, str) else re.sub(r"typing\.", "", repr(value))


def _first_paragraph(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(page())
