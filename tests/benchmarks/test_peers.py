"""The peers minimise our J: an iteration of each is compared with dense float64."""

import numpy as np
import peers
import pytest
import readme

USERS, ITEMS, FACTORS, ALPHA, REGULARIZATION, W0 = 20, 12, 3, 4.0, 0.7, 0.6


def regularization_of(confidence, exponent):
    """Lambda of every row, lambda (n + w0 N)^nu."""
    return REGULARIZATION * ((confidence > 1).sum(1) + W0 * confidence.shape[1]) ** exponent


def solved(factors, confidence, preference, exponent):
    """Solve every row of the other side, densely."""
    ridges = regularization_of(confidence, exponent)[:, None, None] * np.eye(FACTORS)
    matrices = np.einsum("ui,ik,il->ukl", confidence, factors, factors) + ridges
    right = (confidence * preference) @ factors
    return np.linalg.solve(matrices, right[..., None])[..., 0]


def iterated(name, strengths, start, exponent=0.0):
    """Run one iteration of a peer, whose loss is returned too, if it has one."""
    if not peers.is_installed(name):
        pytest.skip(f"{peers.PEERS[name].package} is not installed")
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(strengths.astype(np.float32))
    with peers.single_threaded_blas():
        task = peers.Task(matrix, start, ALPHA, REGULARIZATION, 0, exponent, W0)
        iterations = peers.PEERS[name].prepare(task)
        iterations.run(1)
    return np.array(iterations.item_factors()), iterations.loss and iterations.loss()


def draw(num_factors):
    rng = np.random.default_rng(0)
    strengths = (rng.random((USERS, ITEMS)) < 0.3) * rng.integers(1, 4, (USERS, ITEMS))
    return strengths, rng.normal(0, 0.3, (ITEMS, num_factors)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "exponent"),
    [*((name, 0.0) for name in peers.PEERS), ("irspack_cg", 0.7), ("irspack_exact", 0.7)],
)
def test_an_iteration_of_a_peer_matches_dense_reference(name, exponent):
    strengths, start = draw(FACTORS)
    found, loss = iterated(name, strengths, start, exponent)  # three steps are exact with three factors
    preference = strengths > 0
    confidence = np.where(preference, 1 + ALPHA * strengths, W0)
    user_factors = solved(start.astype(np.float64), confidence, preference, exponent)
    item_factors = solved(user_factors, confidence.T, preference.T, exponent)
    np.testing.assert_allclose(found, item_factors, atol=1e-4)
    if loss is not None:
        errors = confidence * (preference - user_factors @ item_factors.T) ** 2
        penalties = (
            np.sum(regularization_of(each, exponent) * (factors**2).sum(1))
            for each, factors in ((confidence, user_factors), (confidence.T, item_factors))
        )
        assert loss == pytest.approx(errors.sum() + sum(penalties), rel=1e-5)


def test_conjugate_gradients_of_both_peers_agree_before_they_converge():
    strengths, start = draw(8)
    (one, _), (other, _), (exact, _) = (
        iterated(name, strengths, start) for name in ("implicit_cg", "irspack_cg", "implicit_exact")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(one - exact).max() > 1e-2


def test_a_table_replaces_that_of_its_name_and_nothing_else():
    begin, end = readme.marks("a")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    rows = [{"what": "ours", "s": 0.1234, "n": 1234}, {"what": "theirs", "s": None, "n": 2}]
    rows = [row | {"of neither": None} for row in rows]
    expected = "| what | s | n |\n| --- | --- | --- |\n| ours | .123 | 1,234 |\n| theirs | - | 2 |"
    assert readme.with_table(page, "a", rows) == f"before\n{begin}\n\n{expected}\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="put them back"):
        readme.with_table("no marks", "a", rows)
