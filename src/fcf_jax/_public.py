"""Public names of the package, imported when the first of them is used."""

from fcf_jax import als, channel, data, evaluation, joint, objectives, optimizers, parallel, privacy
from fcf_jax._exported import register
from fcf_jax.core import features
from fcf_jax.core.client import ClientInfo, ClientUpdate, client_update, dense_upload
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.cohorts import gather_cohort
from fcf_jax.core.federation import Federation, cohort_rows, federated_cf, run_rounds
from fcf_jax.core.objective import explicit_ratings, implicit_feedback, item_gradient, loss
from fcf_jax.core.packing import pack_clients, pack_items
from fcf_jax.core.records import (
    ClientData,
    Cohort,
    CohortSum,
    Model,
    Observations,
    PackedClients,
    RoundInfo,
    ServerState,
)
from fcf_jax.core.server import server_init, server_update
from fcf_jax.core.solve import solve_user_factor
from fcf_jax.data import Interactions, read_interactions, split_per_user
from fcf_jax.evaluation import evaluate
from fcf_jax.experiments.load_run import load_run
from fcf_jax.optimizers import guarded_gram
from fcf_jax.recommender import FederatedCollaborativeFilter

register()

__all__ = [
    "ClientData",
    "ClientInfo",
    "ClientUpdate",
    "Cohort",
    "CohortSum",
    "FederatedCollaborativeFilter",
    "Federation",
    "Interactions",
    "Model",
    "Observations",
    "PackedClients",
    "RoundInfo",
    "ServerState",
    "als",
    "channel",
    "client_update",
    "cohort_rows",
    "cohort_sum",
    "data",
    "dense_upload",
    "evaluate",
    "evaluation",
    "explicit_ratings",
    "features",
    "federated_cf",
    "gather_cohort",
    "guarded_gram",
    "implicit_feedback",
    "item_gradient",
    "joint",
    "load_run",
    "loss",
    "objectives",
    "optimizers",
    "pack_clients",
    "pack_items",
    "parallel",
    "privacy",
    "read_interactions",
    "run_rounds",
    "server_init",
    "server_update",
    "solve_user_factor",
    "split_per_user",
]
