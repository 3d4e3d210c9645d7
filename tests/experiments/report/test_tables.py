import numpy as np
import pandas as pd

from fcf_jax.experiments.report.tables import csv_text, show


def test_csv_matches_pandas():
    rows = [("a, b", 1, 0.1), ('"', 2, float("nan")), ("c", 3, np.float64(1) / 3), ("d", 4, 1e-300)]
    expected = pd.DataFrame(rows, columns=["name", "count", "value"]).to_csv(index=False)
    assert csv_text(("name", "count", "value"), rows).decode() == expected
    assert csv_text(("value",), [(None,), (float("inf"),)]).decode() == 'value\n""\ninf\n'


def test_show_puts_numbers_to_the_right_and_text_to_the_left(capsys):
    show("title", [{"name": "a", "value": 0.123456}, {"name": "longer", "value": 12}])
    title, *_, first, second, _ = capsys.readouterr().out.splitlines()
    assert title.rstrip() == "title"
    assert first == "│ a      │ 0.1235 │" and second == "│ longer │     12 │"
