"""`fcf recommend`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcf_jax.cli.errors import CommandError, input_errors, run_errors
from fcf_jax.experiments.console import new_console, say
from fcf_jax.experiments.progress import ProgressLine, short
from fcf_jax.messages import count_of

if TYPE_CHECKING:
    from fcf_jax.experiments.recommend import Recommendation
    from fcf_jax.experiments.store.run_directory import TrainedModel

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
CountOption = Annotated[int, typer.Option("-n", min=1, help="How many items.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recommend(
    folder: RunArgument,
    user: Annotated[str | None, typer.Option(help="Original user id, from the data of the run.")] = None,
    count: CountOption = 10,
    history: Annotated[Path | None, typer.Option(help="CSV of item[,strength] instead of a user.")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="All users, into the file --out.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File for --all-users: .csv or .parquet; replaced if it exists.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend items to one user or to all, from a finished run."""
    if (user is not None) + (history is not None) + all_users != 1:
        raise CommandError("expected one of --user ID, --history FILE and --all-users; give one of them", 2)
    _check_out(out, all_users=all_users)
    from fcf_jax.experiments.recommend import history_from_file, history_of_user, recommend_items, titles_of
    from fcf_jax.experiments.store.run_directory import read_run

    with input_errors():
        model = read_run(folder)
        if all_users and out is not None:
            return _recommend_to_all(model, out, count)
        if history is not None:
            known = history_from_file(model, history)
        else:
            known = history_of_user(model, str(user))
    (items,) = recommend_items(model, known, count=count, titles=titles_of(model))
    if known.num_unknown and not as_json:
        say(f"{count_of(known.num_unknown, 'item')} of the history are unknown to the model")
    if not items and not as_json:
        say("nothing to recommend: the user has every item")
    print_items(items, as_json=as_json)


def print_items(items: "list[Recommendation]", *, as_json: bool) -> None:
    """Print items for people, a line for each, or as JSON; titles only where the data has some."""
    if as_json:
        entries = [one._asdict() for one in items]
        say(
            json.dumps([{name: value for name, value in one.items() if value is not None} for one in entries])
        )
        return
    for one in items:
        say("\t".join(filter(None, (str(one.item), f"{one.score:.4f}", one.title))))


def _check_out(out: Path | None, *, all_users: bool) -> None:
    from fcf_jax.experiments.store.table_file import SUFFIXES

    if not all_users and out is not None:
        raise CommandError("--out: expected --all-users with it; other lists are printed", 2)
    if all_users and (out is None or out.suffix not in SUFFIXES):
        got = "nothing" if out is None else out
        raise CommandError(f"--out: expected a file for all users, .csv or .parquet, got {got}; name one", 2)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        got = "a folder" if out.is_dir() else f"no folder {out.parent}"
        raise CommandError(f"--out {out}: expected a file in an existing folder, got {got}; name another", 2)


def _recommend_to_all(model: "TrainedModel", out: Path, count: int) -> None:
    from fcf_jax.experiments.recommend import histories_of_all, recommend_in_blocks, titles_of
    from fcf_jax.experiments.store.table_file import written_in_blocks

    titles = titles_of(model)
    histories = histories_of_all(model)
    num_users, num_rows, before = histories.interactions.num_users, 0, 0
    if histories.num_unknown:
        say(
            f"{count_of(histories.num_unknown, 'interaction')} with items that are unknown to "
            "the model are left out"
        )
    with run_errors(), ProgressLine(new_console()) as progress, written_in_blocks(out) as append:
        for done, table in recommend_in_blocks(model, histories, count=count, titles=titles):
            append(table)
            num_rows += len(table)
            is_kept = done == num_users or 10 * done // num_users > 10 * before // num_users
            progress.show("users", done, num_users, f"{short(num_rows)} rows", is_kept=is_kept)
            before = done
    say(f"{count_of(num_rows, 'recommendation')} for {count_of(num_users, 'user')} written to {out}")
