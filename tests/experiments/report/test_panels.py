import re

import numpy as np
import pytest
from made_up_runs import run_of

from fcf_jax.experiments.report.drawing import COLORS, SERIES
from fcf_jax.experiments.report.panels import LegendEntry, Line, Panel, png_of_panels, svg_of_panel
from fcf_jax.experiments.report.run_panels import panels_of_run, panels_of_runs


def together(runs):
    """The panels of these runs, each with settings of its own."""
    apart = [run._replace(config={"server": {"learning_rate": place}}) for place, run in enumerate(runs)]
    return panels_of_runs(apart)


def test_svg_takes_its_colours_and_pngs_any_name():
    runs = [
        run_of([30.0, 11.0, 10.1])._replace(name=name)
        for name in ("_hidden", "$x$ \N{SNOWMAN} 漢", *"abcdefg")
    ]
    panels = together(runs)
    svg = svg_of_panel(panels[0], name="one")
    assert not any(color.light in svg for color in COLORS)
    assert all(f"var(--{color.name})" in svg for color in SERIES)
    assert svg_of_panel(panels[0], name="one") == svg
    diverged = run_of([30.0, 1e9, 1e30], config={"data": {}})._replace(name="diverged")
    assert png_of_panels(together([*runs, diverged])).startswith(b"\x89PNG")
    labels = re.findall(">([^<]*%)<", svg_of_panel(together([diverged])[0], name="two"))
    assert labels and not any("e+" in label for label in labels)  # the rest is outside of the picture


@pytest.mark.parametrize("x_axis", ["rounds", "bytes", "logarithmic", "linear"])
def test_svg_of_a_long_training_stays_small(x_axis):
    x = np.arange(1.0, 100_001.0)
    line = Line(LegendEntry("long", SERIES[0]), x, np.sin(x), np.sin(x) - 1, np.sin(x) + 1)
    assert len(svg_of_panel(Panel("long", [line], x_axis=x_axis), name="one")) < 25_000


def test_run_with_a_clock_has_an_axis_of_virtual_time():
    run = run_of([30.0, 20.0, 10.0])
    records = [one | {"virtual_seconds": 7.0 * (one["round"] + 1)} for one in run.records]
    timed = [panel for panel in panels_of_run(run._replace(records=records)) if "virtual" in panel.title]
    assert [panel.title for panel in timed] == ["Loss above the lowest, by virtual time"]
    np.testing.assert_allclose(timed[0].lines[0].x, [7.0, 14.0])  # after rounds 1 and 2
    assert not any("virtual" in panel.title for panel in panels_of_run(run))


def test_private_run_has_an_axis_of_the_epsilon_spent():
    spent = [(0, {"loss": 30.0, "epsilon": 0.0}), (2, {"loss": 20.0, "epsilon": 0.5}),
             (4, {"loss": 10.0, "epsilon": 1.0})]  # fmt: skip
    run = run_of([None, None, None, None, 10.0], evaluations=spent)
    by_epsilon = [panel for panel in panels_of_run(run) if panel.title.endswith("by epsilon")]
    assert [panel.title for panel in by_epsilon] == ["Loss above the lowest, by epsilon"]
    (line,) = by_epsilon[0].lines
    assert line.x.tolist() == [0.5, 1.0] and line.y.tolist() == [100.0, 0.0]
    assert not any("epsilon" in panel.title for panel in panels_of_run(run_of([3.0, 2.0])))
