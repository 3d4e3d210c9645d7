"""Peer: pfl-research's SimulatedBackend in its NumPy mode, one process.

What a user returns are its dense statistics [items, factors], which the backend's own
SumAggregator adds up; the client's algebra is that of numpy_loop.py.
"""

import asyncio
from typing import NamedTuple

import numpy as np
from exchange import missing, peer_parser, read_problem, serve_rounds
from numpy_loop import dense_upload, ridge_of

try:
    from pfl.aggregate.simulate import SimulatedBackend  # pyright: ignore[reportMissingImports]
    from pfl.algorithm.base import FederatedAlgorithm  # pyright: ignore[reportMissingImports]
    from pfl.common_types import Population  # pyright: ignore[reportMissingImports]
    from pfl.context import CentralContext  # pyright: ignore[reportMissingImports]
    from pfl.data.federated_dataset import FederatedDataset  # pyright: ignore[reportMissingImports]
    from pfl.data.sampling import MinimizeReuseUserSampler  # pyright: ignore[reportMissingImports]
    from pfl.metrics import Metrics  # pyright: ignore[reportMissingImports]
    from pfl.stats import MappedVectorStatistics  # pyright: ignore[reportMissingImports]
except ImportError:
    missing("pfl")


class ItemFactors(NamedTuple):
    """The shared model, with the Gram matrix that belongs to it."""

    item_factors: np.ndarray
    item_gram: np.ndarray
    ridge: np.ndarray


class CollaborativeFiltering(FederatedAlgorithm):
    """FCF's client; the server's step is not timed."""

    def get_next_central_contexts(self, *arguments, **options):
        """Not needed: a round is asked for directly."""
        raise NotImplementedError

    def process_aggregated_statistics(self, *arguments, **options):
        """Not needed: the sum is what is compared."""
        raise NotImplementedError

    def simulate_one_user(self, model, user_dataset, central_context):
        """Solve, and return the upload."""
        history = user_dataset.raw_data
        upload = dense_upload(model.item_factors, model.item_gram, history, model.ridge)
        return MappedVectorStatistics({"item_factors": upload}), Metrics()


def main() -> None:
    arguments = peer_parser(__doc__).parse_args()
    problem = read_problem(arguments.problem)
    histories = dict(enumerate(problem.histories()))
    everybody = FederatedDataset.from_slices(histories, MinimizeReuseUserSampler(list(histories)))
    backend = SimulatedBackend(training_data=everybody, val_data=everybody)
    algorithm = CollaborativeFiltering()
    context = CentralContext(
        current_central_iteration=0,
        do_evaluation=False,
        cohort_size=len(histories),
        population=Population.TRAIN,
        algorithm_params=None,
        model_train_params=None,
    )
    ridge = ridge_of(problem)

    def run_round() -> np.ndarray:
        item_factors = problem.item_factors
        model = ItemFactors(item_factors, item_factors.T @ item_factors, ridge)
        gathered = backend.async_gather_results(model, algorithm, central_context=context)
        statistics, _ = asyncio.run(gathered)
        return statistics["item_factors"]

    serve_rounds(run_round, arguments.answer, ("pfl", "numpy"))


if __name__ == "__main__":
    main()
