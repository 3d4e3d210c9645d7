"""`fcf config` and `fcf doctor`: the resolved configuration, and the installation."""

from typing import Annotated

import typer

from fcf_jax.cli.errors import CommandError, input_errors
from fcf_jax.cli.options import ConfigArgument, SetOption
from fcf_jax.experiments.console import say


def show_config(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Every key, default and meaning.")] = False,
) -> None:
    """Print the configuration as resolved, or explain every key."""
    import tomli_w

    from fcf_jax.experiments.config import load as configuration

    with input_errors():
        resolved = configuration.load_config(config, overrides or ())
    say(configuration.explain(resolved) if explain else tomli_w.dumps(resolved.to_dict()).rstrip())


def doctor() -> None:
    """Show what is installed, which devices there are, and whether the solver is exact on them."""
    from fcf_jax.experiments.build.devices import start_devices
    from fcf_jax.experiments.config.schema import ParallelConfig
    from fcf_jax.experiments.doctor import diagnose

    start_devices(ParallelConfig())  # as a run does
    diagnosis = diagnose()
    for name, value in diagnosis.facts.items():
        say(f"{name:20} {value}")
    if not diagnosis.is_healthy:
        raise CommandError("the solver disagrees with float64 on this device; please report it", 1)
