"""`fcf bench`."""

from pathlib import Path
from typing import Annotated

import typer

from fcf_jax.cli.errors import input_errors, run_errors
from fcf_jax.cli.options import ConfigArgument, QuietOption, SetOption


def bench(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the figures there.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Warm calls of each run.")] = 5,
    quiet: QuietOption = False,
) -> None:
    """Time rounds, ALS and, where it is installed, `implicit` on the data of a configuration."""
    from fcf_jax.experiments import bench as benchmark
    from fcf_jax.experiments.build.dataset import load_dataset
    from fcf_jax.experiments.build.devices import start_devices
    from fcf_jax.experiments.config.load import load_config
    from fcf_jax.experiments.timing import publish, show

    with input_errors():
        resolved = load_config(config, overrides or ())
        benchmark.refuse_unfit(resolved)
        start_devices(resolved.parallel)
        if out is not None and out.is_dir():
            raise ValueError(f"{out}: expected a file for --out, got a folder; name a file in it")
        dataset = load_dataset(resolved)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
    with run_errors():
        document = benchmark.run_bench(resolved, dataset, repeats=repeats)
        publish({"config": resolved.to_dict(), **document}, out)
    if quiet:
        return
    for title, rows in benchmark.tables(document):
        show(title, rows)
    print(f"calling again compiled {document['compilations_of_another_call']} programs")
    if document["note"]:
        print(document["note"])
    if out is not None:
        print(f"Written to {out}")
