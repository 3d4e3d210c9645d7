"""Peer: Flower's simulation engine on Ray, one node per user.

The server app sends the item factors and their Gram matrix to every node and adds up the replies,
dense uploads [items, factors]; the client's algebra is that of numpy_loop.py. A client app takes one
core, so that as many run at a time as there are cores, and its process reads the histories once.
"""

import os
from functools import cache

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
from exchange import Problem, missing, peer_parser, read_problem, serve_rounds
from numpy_loop import dense_upload, ridge_of

try:
    from flwr.app import ArrayRecord, Context, Message, RecordDict  # pyright: ignore[reportMissingImports]
    from flwr.clientapp import ClientApp  # pyright: ignore[reportMissingImports]
    from flwr.serverapp import Grid, ServerApp  # pyright: ignore[reportMissingImports]
    from flwr.simulation import run_simulation  # pyright: ignore[reportMissingImports]
except ImportError:
    missing("flwr")


@cache
def local_data(path: str) -> tuple[list, np.ndarray]:
    """Read the histories, once per process."""
    problem = read_problem(path)
    return problem.histories(), ridge_of(problem)


def client_app(path: str) -> ClientApp:
    """Build the app that solves and answers with an upload."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        histories, ridge = local_data(path)
        item_factors, item_gram = message.content["model"].to_numpy_ndarrays()
        history = histories[int(context.node_config["partition-id"])]
        upload = dense_upload(item_factors, item_gram, history, ridge)
        return Message(RecordDict({"upload": ArrayRecord([upload])}), reply_to=message)

    return app


def server_app(problem: Problem, answer_path: str) -> ServerApp:
    """Build the app that runs and times the rounds."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        def run_round() -> np.ndarray:
            item_factors = problem.item_factors
            model = RecordDict({"model": ArrayRecord([item_factors, item_factors.T @ item_factors])})
            messages = [Message(model, node, "train") for node in grid.get_node_ids()]
            upload = np.zeros_like(item_factors)
            for reply in grid.send_and_receive(messages):
                upload += reply.content["upload"].to_numpy_ndarrays()[0]
            return upload

        serve_rounds(run_round, answer_path, ("flwr", "ray", "numpy"))

    return app


def main() -> None:
    arguments = peer_parser(__doc__).parse_args()
    problem = read_problem(arguments.problem)
    run_simulation(
        server_app=server_app(problem, arguments.answer),
        client_app=client_app(arguments.problem),
        num_supernodes=len(problem.indptr) - 1,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    import flower_simulation  # Ray's processes find functions by module, and __main__ is theirs

    flower_simulation.main()
