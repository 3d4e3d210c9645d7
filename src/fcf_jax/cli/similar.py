"""`fcf similar`."""

from typing import Annotated

import typer

from fcf_jax.cli.errors import input_errors
from fcf_jax.cli.recommend import CountOption, JsonOption, RunArgument, print_items
from fcf_jax.experiments.console import say


def similar(
    folder: RunArgument,
    item: Annotated[str, typer.Option(help="Original item id, from the data of the run.")],
    count: CountOption = 10,
    as_json: JsonOption = False,
) -> None:
    """Find the items most similar to one, by the cosine of their factors, in a finished run."""
    from fcf_jax.experiments.recommend import similar_items, titles_of
    from fcf_jax.experiments.store.run_directory import read_run

    with input_errors():
        model = read_run(folder)
        found = similar_items(model, item, count=count, titles=titles_of(model))
    if not found and not as_json:
        say(f"nothing similar: item {item} has no interactions in the training set")
    print_items(found, as_json=as_json)
