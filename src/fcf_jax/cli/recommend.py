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
    from fcf_jax.experiments.recommend import Histories, Recommendation
    from fcf_jax.experiments.store.run_directory import TrainedModel

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
CountOption = Annotated[int, typer.Option("-n", min=1, help="How many items.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recommend(
    folder: RunArgument,
    user: Annotated[str | None, typer.Option(help="Original user id, from the data of the run.")] = None,
    count: CountOption = 10,
    history: Annotated[Path | None, typer.Option(help="CSV of item[,strength] instead of a user.")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|FILE",
            help="Attributes of a new user, such as age=25,gender=M, with or without --history; or a table "
            "of new users, into the file --out. Needs a run with data.user_features.",
        ),
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="All users, into the file --out.")] = False,
    new_items: Annotated[
        bool, typer.Option(help="With items that have features (data.item_features) but no interactions.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="File for many users: .csv or .parquet; replaced if it exists.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend items to one user or to many, from a finished run."""
    asked = (user is not None, history is not None or features is not None, all_users)
    if sum(asked) != 1:
        raise CommandError(
            "expected one of --user ID, --history FILE, --features TEXT and --all-users (the second and the "
            "third go together); give one of them",
            2,
        )
    table = Path(features) if features is not None and Path(features).is_file() else None
    if table is not None and history is not None:
        raise CommandError(
            "--features: expected attributes such as age=25 beside --history, got a file; give one of them", 2
        )
    _check_out(out, needs_file=all_users or table is not None)
    from fcf_jax.experiments.candidates import without_new_items
    from fcf_jax.experiments.cold_users import user_of_features, users_of_features
    from fcf_jax.experiments.recommend import (
        histories_of_all,
        history_from_file,
        history_of_user,
        recommend_items,
        titles_of,
    )
    from fcf_jax.experiments.store.run_directory import read_run

    with input_errors():
        model = read_run(folder) if new_items else without_new_items(read_run(folder))
        if out is not None:
            many = histories_of_all(model) if table is None else users_of_features(model, table)
            return _recommend_to_many(model, many, out, count)
        if user is not None:
            known = history_of_user(model, user)
        else:
            known = None if features is None else user_of_features(model, features)
            if history is not None:
                of_features = None if known is None else known.features
                known = history_from_file(model, history)._replace(features=of_features)
        assert known is not None
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


def _check_out(out: Path | None, *, needs_file: bool) -> None:
    from fcf_jax.experiments.store.table_file import SUFFIXES

    if not needs_file and out is not None:
        raise CommandError(
            "--out: expected --all-users, or --features with a file, beside it; other lists are printed", 2
        )
    if needs_file and (out is None or out.suffix not in SUFFIXES):
        got = "nothing" if out is None else out
        raise CommandError(f"--out: expected a file for many users, .csv or .parquet, got {got}; name one", 2)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        got = "a folder" if out.is_dir() else f"no folder {out.parent}"
        raise CommandError(f"--out {out}: expected a file in an existing folder, got {got}; name another", 2)


def _recommend_to_many(model: "TrainedModel", histories: "Histories", out: Path, count: int) -> None:
    from fcf_jax.experiments.recommend import recommend_in_blocks, titles_of
    from fcf_jax.experiments.store.table_file import written_in_blocks

    titles = titles_of(model)
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
