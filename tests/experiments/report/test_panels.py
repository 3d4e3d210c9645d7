import re

from made_up_runs import run_of

from fcf_jax.experiments.report.panels import COLORS, SERIES, panels_of_runs, png_of_panels, svg_of_panel


def test_svg_takes_its_colours_and_pngs_any_name():
    runs = [
        run_of([30.0, 11.0, 10.1])._replace(name=name)
        for name in ("_hidden", "$x$ \N{SNOWMAN} 漢", *"abcdefg")
    ]
    panels = panels_of_runs(runs)
    svg = svg_of_panel(panels[0], name="one")
    assert not any(color.light in svg for color in COLORS)
    assert all(f"var(--{color.name})" in svg for color in SERIES)
    assert svg_of_panel(panels[0], name="one") == svg
    diverged = run_of([30.0, 1e9, 1e30], config={"data": {}})._replace(name="diverged")
    assert png_of_panels(panels_of_runs([*runs, diverged])).startswith(b"\x89PNG")
    labels = re.findall(">([^<]*%)<", svg_of_panel(panels_of_runs([diverged])[0], name="two"))
    assert labels and not any("e+" in label for label in labels)  # the rest is outside of the picture
