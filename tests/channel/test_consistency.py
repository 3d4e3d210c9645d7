"""The server's check of single uploads: honest ones pass in every model, crafted ones do not."""

import numpy as np
import pytest
from crafted_uploads import ATTACKS, ROLES, sent_by_all
from references import REGULARIZATION

from fcf_jax.channel import attack
from fcf_jax.core.objective import explicit_ratings
from fcf_jax.core.records import Model

RATINGS = Model(
    explicit_ratings(mean=3.0), REGULARIZATION, unobserved_weight=0.0, regularization_exponent=0.5
)
MODELS = ["w0 = 1", "w0 = 0.1", "ratings with an exponent"]


@pytest.fixture(scope="module")
def sent(small, crafted):
    boosting = {"explicit_boosting": attack.explicit_boosting(ROLES, strength=2.0)}
    return dict(zip(MODELS, [crafted(1.0), crafted(0.1), sent_by_all(small, RATINGS, boosting)], strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_honest_uploads_pass_and_false_ones_do_not(sent, small, model):
    found, has_history = sent[model], small.strengths.any(axis=1)
    assert found["honest"].passes.all()
    assert not found["heavier"].passes[has_history].any()
    if model != "ratings with an exponent":  # without unobserved items, only the product e x^T is sent
        assert not found["longer"].passes[has_history].any()


@pytest.mark.parametrize("model", MODELS)
def test_crafted_uploads_are_dropped_and_made_up_histories_pass(sent, model):
    for name in set(ATTACKS) & set(sent[model]):
        expected = np.ones(13, bool) if name == "poisoned_history" else ROLES < 0
        np.testing.assert_array_equal(sent[model][name].passes, expected, err_msg=name)
        np.testing.assert_array_equal(sent[model][name].remain, expected, err_msg=name)
