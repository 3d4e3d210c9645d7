"""Reports of runs without their pictures: to draw them takes longer than a tiny run that is compiled."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_pictures() -> Iterator[None]:
    """Leave the curves of runs undrawn; the page is written as usual around them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcf_jax.experiments.report.page.png_of_panels", lambda panels: b"\x89PNG")
        patch.setattr("fcf_jax.experiments.report.run_content.svg_of_panel", lambda panel, *, name: "")
        yield


@pytest.fixture
def undrawn():
    """No picture of a run in this test."""
    with no_pictures():
        yield


@pytest.fixture(scope="module")
def all_undrawn():
    """No picture of a run in this module; `test_page.py`, `test_run.py` and `test_cli.py` draw them."""
    with no_pictures():
        yield
