"""What a client minimizes, beside squared errors: logistic loss and BPR; and biases of users and items.

    model = fcf.Model(
        fcf.objectives.sampled_feedback(alpha=0.0), regularization=1.0, unobserved_weight=0.0,
        objective=fcf.objectives.logistic(), biases=fcf.objectives.biases(),
    )
    clients = fcf.pack_clients(fcf.data.with_negatives(interactions, num_negatives=4))

Each is one file that plugs in through `Model`. Rounds, ALS, evaluation and recommendations take such models
as any other. `docs/objectives.md` compares them.
"""

from fcf_jax.core.biases import Biases, biases, with_biases
from fcf_jax.core.objectives.bpr import bpr
from fcf_jax.core.objectives.logistic import logistic, sampled_feedback
from fcf_jax.core.objectives.record import Objective

__all__ = ["Biases", "Objective", "biases", "bpr", "logistic", "sampled_feedback", "with_biases"]
