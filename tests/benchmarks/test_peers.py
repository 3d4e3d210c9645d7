"""The peers minimise our J: an iteration of each is compared with dense float64."""

import numpy as np
import peers
import pytest
import readme

USERS, ITEMS, FACTORS, ALPHA, REGULARIZATION = 20, 12, 3, 4.0, 0.7


def solved(factors, confidence, preference):
    """Solve every row of the other side, densely."""
    matrices = np.einsum("ui,ik,il->ukl", confidence, factors, factors) + REGULARIZATION * np.eye(FACTORS)
    right = (confidence * preference) @ factors
    return np.linalg.solve(matrices, right[..., None])[..., 0]


def iterated(name, strengths, start):
    """Run one iteration of a peer, whose loss is returned too, if it has one."""
    if not peers.is_installed(name):
        pytest.skip(f"{peers.PEERS[name].package} is not installed")
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(strengths.astype(np.float32))
    with peers.single_threaded_blas():
        iterations = peers.PEERS[name].prepare(peers.Task(matrix, start, ALPHA, REGULARIZATION))
        iterations.run(1)
    return np.array(iterations.item_factors()), iterations.loss and iterations.loss()


def draw(num_factors):
    rng = np.random.default_rng(0)
    strengths = (rng.random((USERS, ITEMS)) < 0.3) * rng.integers(1, 4, (USERS, ITEMS))
    return strengths, rng.normal(0, 0.3, (ITEMS, num_factors)).astype(np.float32)


@pytest.mark.parametrize("name", peers.PEERS)
def test_an_iteration_of_a_peer_matches_dense_reference(name):
    strengths, start = draw(FACTORS)
    found, loss = iterated(name, strengths, start)  # three steps are exact with three factors
    confidence, preference = 1 + ALPHA * strengths, strengths > 0
    user_factors = solved(start.astype(np.float64), confidence, preference)
    item_factors = solved(user_factors, confidence.T, preference.T)
    np.testing.assert_allclose(found, item_factors, atol=1e-4)
    if loss is not None:
        errors = confidence * (preference - user_factors @ item_factors.T) ** 2
        squares = (user_factors**2).sum() + (item_factors**2).sum()
        assert loss == pytest.approx(errors.sum() + REGULARIZATION * squares, rel=1e-5)


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
