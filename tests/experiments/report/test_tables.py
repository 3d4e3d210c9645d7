import numpy as np
import pandas as pd

from fcf_jax.experiments.report.tables import csv_text, show, show_comparison


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


def test_comparison_has_a_line_for_each_metric_in_80_characters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = {
        **{f"{side}_mean": 0.8578 for side in ("popularity", "centralized", "federated")},
        "difference_percent": -0.27, "difference_low_percent": -10.61, "difference_high_percent": 0.08,
        "tost_p": 1e-9,
    }  # fmt: skip
    sizes = dict.fromkeys(("num_builds", "num_users", "num_items", "num_rounds", "num_sweeps"), 10)
    numbers = {"num_train_interactions": 9, "num_factors": 4, "alpha": 4.0, "regularization": 1.0}
    show_comparison(
        sizes
        | numbers
        | {"cohort_size": 10, "server_step": "adam", "margin_percent": 1.0, "notes": ["a note"]}
        | {"metrics": {"precision_at_10": found, "loss": found}, "headline": "Equivalent"}
    )
    printed = capsys.readouterr().out
    line = "0.8578  0.8578  0.8578  -0.27 [-10.61, +0.08]  < 0.0001"
    assert printed.count(line) == 2
    assert printed.splitlines()[-2:] == ["a note", "Equivalent"]
