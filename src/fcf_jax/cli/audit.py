"""`fcf audit`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcf_jax.cli.errors import CommandError, input_errors, run_errors
from fcf_jax.cli.options import ConfigArgument, QuietOption, SetOption, folder_argument, open_run
from fcf_jax.experiments.config.channel_section import MessageForm
from fcf_jax.experiments.console import new_console, say
from fcf_jax.experiments.progress import ProgressLine

if TYPE_CHECKING:
    from fcf_jax.experiments.config.schema import ExperimentConfig


def _num_shadows(text: str | int) -> int:
    number = int(text) if str(text).isdecimal() else -1
    if 0 != number < 6:
        raise typer.BadParameter(f"expected 0, or at least 6 models, got {text}")
    return number


def audit(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder_argument, metavar="DIR", help="Folder to write; default runs/NAME-audit-TIMESTAMP."
        ),
    ] = None,
    max_users: Annotated[int, typer.Option(min=1, help="Users whose own uploads are attacked.")] = 300,
    canaries: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Under noise: train N small populations with a known client and N without it, to bound "
            "epsilon from below; exit 1 if that exceeds the claim.",
        ),
    ] = 0,
    upload: Annotated[
        MessageForm | None,
        typer.Option(help="Form of the messages: short for --set channel.form=..."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTACK.FIGURE<=NUMBER",
            help="Exit 1 if it does not hold; repeatable. <= is checked against the high end of the figure's "
            "95 % interval, >= against the low end.",
        ),
    ] = None,
    shadow_models: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Attack the published item factors by N models like the configured one, at least 6, each "
            "trained on half of the users; 0: do not.",
            parser=_num_shadows,
        ),
    ] = 0,
    quiet: QuietOption = False,
) -> None:
    """Attack what the server sees under privacy.mode, and report what it learns about clients."""
    from fcf_jax.experiments.audit.auditing import with_fitting_step
    from fcf_jax.experiments.audit.bounds import figure_names, parse_bounds, unmet
    from fcf_jax.experiments.audit.canaries import CANARY_FIGURES, CanaryAudit
    from fcf_jax.experiments.report.tables import show_audit

    with input_errors():
        form = [f"channel.form={upload}"] if upload else []
        resolved, folder = open_run("audit", config, [*(overrides or []), *form], out)
        resolved, note = with_fitting_step(resolved)
        known = figure_names(
            resolved.privacy.mode,
            has_cohorts=resolved.federation.cohort_size is not None,
            sends_gram=resolved.server.spec.asks_for_gram,
            has_shadows=shadow_models > 0,
        )
        if canaries:
            known["canaries"] = CANARY_FIGURES
        bounds = parse_bounds(require or [], known)
    counts = {"max_users": max_users, "num_canaries": canaries, "shadow_models": shadow_models}
    document = _audit(resolved, folder, counts, note=note, quiet=quiet)
    if not quiet:
        show_audit(document)
        say(f"{document['seconds']:.0f} s. Written to {folder}")
    broken = unmet(bounds, document["attacks"])
    if (of_canaries := document.get("canaries")) is not None and CanaryAudit(**of_canaries).exceeds_claim:
        broken.append(CanaryAudit(**of_canaries).sentence)
    if broken:
        raise CommandError("; ".join(broken), 1)


def _audit(
    config: "ExperimentConfig", folder: Path, counts: dict[str, int], *, note: str, quiet: bool
) -> dict[str, Any]:
    from fcf_jax.experiments.audit.auditing import run_audit
    from fcf_jax.experiments.audit.canaries import refuse_unauditable
    from fcf_jax.experiments.build.dataset import load_dataset
    from fcf_jax.experiments.build.devices import keep_compiled_programs, start_devices
    from fcf_jax.experiments.build.problem import resolve
    from fcf_jax.experiments.store.run_directory import claimed

    with ExitStack() as stack:
        with input_errors():
            start_devices(config.parallel)
            keep_compiled_programs()
            dataset = load_dataset(config)
            problem = resolve(config, dataset)
            if counts["num_canaries"]:
                refuse_unauditable(problem)
            stack.enter_context(claimed(folder, config))
        progress = stack.enter_context(ProgressLine(new_console(), quiet=quiet))
        for note in dataset.notes:
            progress.say(note)
        stack.enter_context(run_errors())
        return run_audit(problem, folder, progress, **counts, note=note)
