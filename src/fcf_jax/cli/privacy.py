"""`fcf privacy`: the epsilon of rounds with noise, and plans for a target epsilon."""

import importlib.util
import json
import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from fcf_jax.cli.errors import CommandError, input_errors
from fcf_jax.cli.options import ConfigArgument, SetOption
from fcf_jax.experiments.console import say
from fcf_jax.messages import count_of

if TYPE_CHECKING:
    from fcf_jax.experiments.privacy_plan import Choice, PrivacyPlan
    from fcf_jax.privacy.accounting import Participation

privacy = typer.Typer(help="Differential privacy: the cost of rounds; plan a run.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; null for no finite epsilon.")]
_NO_ACCOUNTING = "fcf privacy needs dp-accounting, which is not installed; pip install 'fcf_jax[dp]'"


@privacy.command("epsilon")
def show_epsilon(
    noise_multiplier: Annotated[float, typer.Option(help="Noise, in clip norms.")],
    num_rounds: Annotated[int, typer.Option(help="Rounds of the run.")],
    delta: Annotated[float, typer.Option(help="Well below 1 / users.")],
    sampling_probability: Annotated[
        float, typer.Option(help="Of each user in each round, independently; 1 = everybody.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Compute the epsilon of a run by two accountants; adding or removing one user."""
    _need_accounting()
    from fcf_jax.privacy.accounting import epsilon

    with input_errors():
        who = _participation(sampling_probability)
        spent = partial(epsilon, who, noise_multiplier=noise_multiplier, num_rounds=num_rounds, delta=delta)
        rdp, pld = spent(accountant="rdp"), spent(accountant="pld")
    if as_json:
        say(json.dumps({"epsilon_rdp": _finite(rdp), "epsilon_pld": _finite(pld)}))
        return
    say(f"epsilon = {pld:.3f} (PLD), {rdp:.3f} (RDP) at delta = {delta:g}, to {who.adjacency}")


@privacy.command("plan")
def show_plan(
    config: ConfigArgument = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Compare cohorts and rounds for the data, K, epsilon and delta of a configuration."""
    _need_accounting()
    from fcf_jax.experiments.build.dataset import load_dataset
    from fcf_jax.experiments.config.checks import check
    from fcf_jax.experiments.config.load import load_config
    from fcf_jax.experiments.privacy_plan import plan_privacy, to_document

    with input_errors():
        resolved = load_config(config, overrides or ())
        check(resolved, "plan")
        train = load_dataset(resolved).split.train
        plan = plan_privacy(resolved, num_users=train.num_users, num_items=train.num_items)
    if as_json:
        say(json.dumps(to_document(plan)))
    else:
        _show(plan)


def _show(plan: "PrivacyPlan") -> None:
    from fcf_jax.experiments.privacy_plan import verdict
    from fcf_jax.experiments.report.tables import show

    sizes = f"{count_of(plan.num_users, 'user')}, {count_of(plan.num_items, 'item')}, K = {plan.num_factors}"
    title = f"{sizes}; epsilon {plan.epsilon:g} at delta {plan.delta:.3g}"
    show(title, [_row(one, is_best=one is plan.best) for one in plan.choices])
    say(
        "Noise / signal: expected noise over the largest possible sum of the uploads. Steps that do not "
        "average over rounds (gram, guarded_gram) feel the noise of each round, and so prefer few."
    )
    for sentence in (verdict(plan), *plan.notes):
        say(sentence)


def _row(choice: "Choice", *, is_best: bool) -> dict[str, object]:
    from fcf_jax.experiments.privacy_plan import cohort_text

    marks = [name for name, holds in (("configured", choice.is_configured), ("best", is_best)) if holds]
    return {
        "cohort": cohort_text(choice.participation),
        "rounds": choice.num_rounds,
        "noise multiplier": choice.noise_multiplier,
        "epsilon": choice.epsilon,
        "by": choice.accountant.upper(),
        "noise / signal, a round": choice.noise_to_signal,
        "of the averaged gradient": choice.averaged_noise_to_signal,
        "": ", ".join(marks),
    }


def _participation(sampling_probability: float) -> "Participation":
    """Return users and a cohort in this proportion, all that accounting needs of a Poisson sample."""
    from fcf_jax.privacy.accounting import Participation

    if not 0 < sampling_probability <= 1:
        raise ValueError(f"--sampling-probability: expected a number in (0, 1], got {sampling_probability}")
    share = Fraction(repr(sampling_probability))
    return Participation("everybody" if share == 1 else "poisson", share.denominator, share.numerator)


def _need_accounting() -> None:
    if importlib.util.find_spec("dp_accounting") is None:
        raise CommandError(_NO_ACCOUNTING, 2)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
