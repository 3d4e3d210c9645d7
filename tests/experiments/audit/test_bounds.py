"""Bounds on what an audit may find."""

from fcf_jax.experiments.audit.bounds import parse_bounds, unmet


def test_bounds_look_at_the_careful_end():
    bounds = parse_bounds(["a.b<=0.1", "a.b>=0.1"], {"a": ("b",)})
    figure = {"value": 0.1, "low": 0.05, "high": 0.2}
    assert [len(unmet([bound], {"a": {"b": figure}})) for bound in bounds] == [1, 1]
    exact = dict.fromkeys(figure, 0.1)
    assert unmet(bounds, {"a": {"b": exact}}) == []
    assert len(unmet(bounds, {"a": {"b": dict.fromkeys(figure, float("nan"))}})) == 2
