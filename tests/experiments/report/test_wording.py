import pytest

from fcf_jax.experiments.report.wording import (
    listed,
    loss_text,
    metric_text,
    number_text,
    percent_text,
    seconds_text,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size_text(999), "999 B"),
        (size_text(1_000), "1.00 kB"),
        (size_text(326_400_000), "326 MB"),
        (size_text(2e9, is_round=True), "2 GB"),
        (seconds_text(75.0), "75.0 s"),
        (seconds_text(0.0121), "12.1 ms"),
        (seconds_text(2e-6), "2.00 µs"),
        (percent_text(-0.0223), "\N{MINUS SIGN}0.02 %"),
        (percent_text(-0.001), "0.00 %"),
        (percent_text(100.0, decimals=None), "+100 %"),
        (loss_text(115821.288), "115,821"),
        (loss_text(0.5), "0.500000"),
        (loss_text(12.3, scale=115821.0), "12"),
        (number_text(None), "\N{EN DASH}"),
        (number_text(float("nan")), "\N{EN DASH}"),
        (metric_text("normalized_hit_rate_at_5"), "Hit rate@5"),
        (metric_text("cold_map_at_20"), "Cold MAP@20"),
        (metric_text("sampled_hit_rate_at_10"), "Sampled hit rate@10"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_wording_known_answers(text, expected):
    assert text.replace("\N{NO-BREAK SPACE}", " ") == expected
