"""`fcf recommend`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fcf_jax.cli.errors import CommandError, input_errors


def recommend(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    user: Annotated[str | None, typer.Option(help="Original user id, from the data of the run.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many items.")] = 10,
    history: Annotated[Path | None, typer.Option(help="CSV of item[,strength] instead of a user.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend items to one user, from a finished run."""
    if (user is None) == (history is None):
        raise CommandError("expected either --user ID or --history FILE; give one of them", 2)
    from fcf_jax.experiments.recommend import history_from_file, history_of_user, recommend_items
    from fcf_jax.experiments.store.run_directory import read_run

    with input_errors():
        model = read_run(folder)
        if history is not None:
            known = history_from_file(model, history)
        else:
            known = history_of_user(model, str(user))
    items = recommend_items(model, known, count=count)
    if as_json:
        print(json.dumps([one._asdict() for one in items]))
        return
    if known.num_unknown:
        print(f"{known.num_unknown} items of the history are unknown to the model")
    if not items:
        print("nothing to recommend: the user has every item")
    for one in items:
        print(f"{one.item}\t{one.score:.4f}")
