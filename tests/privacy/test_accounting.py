import functools
import logging
import math
import sys

import dp_accounting
import jaxtyping
import numpy as np
import pytest
from scipy.stats import norm

from fcf_jax.privacy import accounting
from fcf_jax.privacy.accounting import (
    Participation,
    accountant_used,
    calibrated_noise_multiplier,
    epsilon,
    epsilon_by_round,
    participation_of,
)

TARGETS = (1, 2, 5, 10, 20)
TABLE = [  # the noise multipliers for them
    (Participation("poisson", 6040, 100), 1000, 1e-5, (2.125, 1.293, 0.816, 0.633, 0.504)),
    (Participation("everybody", 6040, 6040), 50, 1e-5, (26.38, 14.10, 6.306, 3.535, 2.051)),
    (Participation("poisson", 136_677, 1000), 1000, 8e-6, (1.156, 0.846, 0.629, 0.509, 0.413)),
    (Participation("everybody", 136_677, 136_677), 50, 8e-6, (26.73, 14.27, 6.369, 3.564, 2.064)),
]
CELLS = [
    pytest.param(who, rounds, delta, target, noise, id=f"{who.sampling}-{who.num_users}-{target}")
    for who, rounds, delta, row in TABLE
    for target, noise in zip(TARGETS, row, strict=True)
    # each target once under Poisson sampling, where an epsilon takes up to a second
    if who.sampling == "everybody" or target in ((1, 5, 20) if who.num_users == 6040 else (2, 10))
]
POISSON = Participation("poisson", 1000, 10)
FIXED = Participation("fixed_size", 1000, 10)
EVERYBODY = Participation("everybody", 1000, 1000)
RUN = {"noise_multiplier": 1.0, "num_rounds": 1000, "delta": 1e-5}
cost = functools.cache(epsilon)  # of runs that several tests look at


@pytest.mark.parametrize(("who", "rounds", "delta", "target", "noise"), CELLS)
def test_known_answer_noise_multipliers(who, rounds, delta, target, noise):
    """The rounded noise straddles the target: half a digit more keeps it, half a digit less does not."""
    half = 0.51 * (0.01 if noise >= 10 else 0.001)  # the second digit for those on the edge
    enough, too_little = (
        epsilon(who, noise_multiplier=noise + change, num_rounds=rounds, delta=delta)
        for change in (half, -half)
    )
    assert enough <= target <= too_little


def test_known_answer_check_value():
    assert cost(POISSON, **RUN, accountant="rdp") == pytest.approx(2.101, abs=5e-4)
    assert cost(POISSON, **RUN) == pytest.approx(1.828, abs=5e-4)


@pytest.mark.parametrize("noise", [0.7, 1.0, 3.0])
def test_epsilon_agrees_with_the_accountants_of_dp_accounting(noise):
    event = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(noise))
    pld = dp_accounting.pld.PLDAccountant().compose(event, 100).get_epsilon(1e-5)
    run = {"noise_multiplier": noise, "num_rounds": 100, "delta": 1e-5}
    # 2e-12 of delta is put aside for an overflow, and compose truncates tails of 1e-15 once more
    assert epsilon(POISSON, **run) == pytest.approx(pld, rel=1e-5)


def exact_delta(distance, spent):
    """Of one Gaussian mechanism, analytically: N(distance, 1) against N(0, 1)."""
    above = norm.cdf(distance / 2 - spent / distance)
    return above - math.exp(spent) * norm.cdf(-distance / 2 - spent / distance)


def test_everybody_matches_the_exact_gaussian_mechanism():
    spent = epsilon(EVERYBODY, noise_multiplier=3.0, num_rounds=16, delta=1e-5)
    assert exact_delta(math.sqrt(16) / 3.0, spent) == pytest.approx(1e-5, rel=1e-6)
    event = dp_accounting.GaussianDpEvent(3.0)
    pld = dp_accounting.pld.PLDAccountant().compose(event, 16).get_epsilon(1e-5)
    assert spent == pytest.approx(pld, abs=2e-4)  # discretised by 1e-4


def test_poisson_matches_hockey_stick_integrated_on_a_grid():
    """One round: N(0, s^2) with a user left out, a mixture with it in, integrated without dp-accounting."""
    noise, share = 1.0, 0.1
    spent = epsilon(Participation("poisson", 10, 1), noise_multiplier=noise, num_rounds=1, delta=1e-3)
    points, step = np.linspace(-12.0, 13.0, 200_001, retstep=True)
    without = norm.pdf(points, scale=noise)
    within = share * norm.pdf(points, 1.0, noise) + (1 - share) * without
    removed = np.maximum(within - math.exp(spent) * without, 0).sum() * step
    added = np.maximum(without - math.exp(spent) * within, 0).sum() * step
    assert max(removed, added) == pytest.approx(1e-3, rel=1e-3)  # losses are discretised by 1e-4


@pytest.mark.parametrize(("cohort_size", "noise"), [(100, 2.0), (30, 1.5), (10, 2.0)])
def test_fixed_size_bounds_a_replaced_user_who_says_the_opposite(cohort_size, noise):
    """Everybody uploads -C; then one user +C instead: the sum moves by 2 C if it is drawn, else not."""
    share, delta = cohort_size / 100, 1e-3
    who = Participation("fixed_size", 100, cohort_size)
    points, step = np.linspace(-25.0, 27.0, 200_001, retstep=True)
    before = norm.pdf(points, scale=noise)
    after = share * norm.pdf(points, 2.0, noise) + (1 - share) * before
    spent = epsilon(who, noise_multiplier=noise, num_rounds=1, delta=delta)
    assert np.maximum(after - math.exp(spent) * before, 0).sum() * step <= delta
    # noise in clip norms, taken for noise in sensitivities, promises what is not so
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        100, cohort_size, dp_accounting.GaussianDpEvent(noise)
    )
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    wrong = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation).compose(event).get_epsilon(delta)
    assert np.maximum(after - math.exp(wrong) * before, 0).sum() * step > delta


def test_fixed_size_of_everybody_is_a_gaussian_mechanism_of_twice_the_sensitivity():
    whole = Participation("fixed_size", 100, 100)
    half_noise = {"noise_multiplier": 2.0, "num_rounds": 4, "delta": 1e-5, "accountant": "rdp"}
    everybody = epsilon(Participation("everybody", 100, 100), **half_noise)
    # between integers RDP is interpolated for cohorts of fixed size, but not of everybody
    assert epsilon(whole, **half_noise | {"noise_multiplier": 4.0}) == pytest.approx(everybody, rel=1e-9)
    exact = exact_delta(2.0 * math.sqrt(4) / 4.0, epsilon(whole, **half_noise | {"noise_multiplier": 4.0}))
    assert exact <= 1e-5


def test_limit_costs():
    for who in (EVERYBODY, POISSON, FIXED):
        assert epsilon(who, noise_multiplier=0.0, num_rounds=1, delta=1e-5) == math.inf
        assert epsilon(who, noise_multiplier=0.0, num_rounds=0, delta=1e-5) == 0.0
        assert epsilon(who, noise_multiplier=1.0, num_rounds=0, delta=1e-5) == 0.0
        assert calibrated_noise_multiplier(who, epsilon=1.0, delta=1e-5, num_rounds=0) == 0.0
    almost = Participation("poisson", 1000, 1000)
    everybody = epsilon(EVERYBODY, **RUN | {"noise_multiplier": 30.0})
    assert epsilon(almost, **RUN | {"noise_multiplier": 30.0}) == pytest.approx(everybody, rel=1e-3)


USED = [(EVERYBODY, "pld"), (EVERYBODY, "rdp"), (POISSON, "pld"), (POISSON, "rdp"), (FIXED, "rdp")]


@pytest.mark.parametrize(("who", "name"), USED)
def test_more_rounds_cost_more_and_more_noise_costs_less(who, name):
    run = {"delta": 1e-5, "accountant": name}
    by_round = [epsilon_by_round(who, noise_multiplier=noise, **run) for noise in (1.0, 2.0, 4.0)]
    spent = [[after(rounds) for rounds in (1, 10, 100)] for after in by_round]
    assert (np.diff(spent, axis=1) > 0).all()
    assert (np.diff(spent, axis=0) < 0).all()


def test_sampling_helps_and_replacing_a_user_is_dearer():
    assert cost(POISSON, **RUN) < epsilon(Participation("poisson", 1000, 20), **RUN)
    assert cost(POISSON, **RUN) < 0.1 * epsilon(EVERYBODY, **RUN)
    assert epsilon(FIXED, **RUN) > cost(POISSON, **RUN, accountant="rdp")


@pytest.mark.parametrize("who", [EVERYBODY, POISSON], ids=lambda who: who.sampling)
def test_pld_is_no_dearer_than_rdp(who):
    for noise in (0.8, 1.5, 5.0):
        run = RUN | {"noise_multiplier": noise, "num_rounds": 50}
        assert epsilon(who, **run) <= epsilon(who, **run, accountant="rdp")


@pytest.fixture
def coarse_losses(monkeypatch):
    """A tenth of the grid points: the searches over noise are the same, and their bounds still valid."""
    monkeypatch.setattr(accounting, "_MAX_LOSSES", 1.5e4)


@pytest.mark.usefixtures("coarse_losses")
@pytest.mark.parametrize(
    ("who", "name", "target"),
    [
        (EVERYBODY, "pld", 8.0),
        (POISSON, "pld", 8.0),
        (FIXED, "rdp", 2.0),
    ],
)
def test_calibrated_noise_is_the_least_that_keeps_the_target(who, name, target):
    run = {"num_rounds": 40, "delta": 1e-5, "accountant": name}
    noise = calibrated_noise_multiplier(who, epsilon=target, **run)
    assert epsilon(who, noise_multiplier=noise, **run) <= target
    assert epsilon(who, noise_multiplier=0.999 * noise, **run) > target


@pytest.mark.usefixtures("coarse_losses")
def test_a_target_that_needs_hardly_any_noise_ends_the_search():
    """Who takes part with a probability below delta is private enough without noise."""
    seldom = Participation("poisson", 10**7, 1)
    run = {"num_rounds": 1, "delta": 1e-5}
    noise = calibrated_noise_multiplier(seldom, epsilon=1.0, **run)
    assert 0 < noise < 0.05
    assert epsilon(seldom, noise_multiplier=noise, **run) <= 1.0


@pytest.mark.usefixtures("coarse_losses")
@pytest.mark.parametrize(("num_rounds", "target"), [(40, 2.0), (8, 20.0)])
def test_the_search_ends_where_rdp_takes_over_from_pld(num_rounds, target):
    """Below some noise only the RDP bound is left, and epsilon jumps from 0 to above 1e4."""
    seldom = Participation("poisson", 10**7, 1)
    noise = calibrated_noise_multiplier(seldom, epsilon=target, delta=1e-5, num_rounds=num_rounds)
    run = {"num_rounds": num_rounds, "delta": 1e-5}
    assert epsilon(seldom, noise_multiplier=noise, **run) <= target
    assert epsilon(seldom, noise_multiplier=0.999 * noise, **run) > target


@pytest.mark.parametrize("noise", [0.2, 0.02, 1e-6, 1e-200])
@pytest.mark.parametrize("who", [Participation("poisson", 10, 3), EVERYBODY], ids=lambda who: who.sampling)
def test_little_noise_needs_no_giant_arrays(who, noise):
    assert epsilon(who, noise_multiplier=noise, num_rounds=200, delta=1e-5) > 1e3


def test_very_many_rounds_are_no_dearer_by_pld():
    run = {"noise_multiplier": 300.0, "num_rounds": 10**6, "delta": 1e-5}
    by_rdp = epsilon(POISSON, **run, accountant="rdp")
    assert epsilon(POISSON, **run) <= by_rdp


def test_running_epsilon_agrees_and_computes_a_round_once(monkeypatch):
    calls = []
    distributions = dp_accounting.pld.privacy_loss_distribution
    original = distributions.from_gaussian_mechanism

    def counted(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(distributions, "from_gaussian_mechanism", counted)
    spent = epsilon_by_round(POISSON, noise_multiplier=1.0, delta=1e-5)
    history = [spent(rounds) for rounds in (0, 250, 500, 1000, 1000)]
    assert len(calls) == 1
    assert history[0] == 0 and history == sorted(history)
    assert history[-1] == cost(POISSON, **RUN)


def test_participation_of_a_federation():
    assert participation_of("poisson", num_users=50, cohort_size=5) == Participation("poisson", 50, 5)
    assert participation_of("independent", num_users=50, cohort_size=5) == Participation("fixed_size", 50, 5)
    for cohort_size in (None, 50):
        assert participation_of("shuffled", num_users=50, cohort_size=cohort_size) == Participation(
            "everybody", 50, 50
        )
    assert FIXED.adjacency == "replace one user" and POISSON.adjacency == "add or remove one user"
    assert accountant_used(FIXED) == "rdp" and accountant_used(POISSON) == "pld"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: participation_of("shuffled", num_users=50, cohort_size=5), "shuffled.*federation.sampling"),
        (lambda: participation_of("poisson", num_users=50, cohort_size=51), r"\[1, 50\].*51"),
        (lambda: epsilon(Participation("shuffled", 50, 5), **RUN), "expected sampling.*shuffled"),
        (lambda: epsilon(Participation("everybody", 50, 5), **RUN), "all 50 users, got 5"),
        (lambda: epsilon(POISSON, **RUN | {"delta": 0.0}), "delta.*0.0"),
        (lambda: epsilon(POISSON, **RUN | {"num_rounds": -1}), "num_rounds.*-1"),
        (lambda: epsilon(POISSON, **RUN | {"noise_multiplier": math.nan}), "noise_multiplier.*nan"),
        (lambda: calibrated_noise_multiplier(POISSON, epsilon=0.0, delta=1e-5, num_rounds=1), "epsilon.*0.0"),
        (lambda: calibrated_noise_multiplier(POISSON, epsilon=1.0, delta=1e-12, num_rounds=99), "num_rounds"),
    ],
)
def test_refuses(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_an_unknown_accountant_is_refused_where_no_annotation_is_executed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"accountant.*moments"):
        epsilon(POISSON, **RUN, accountant="moments")


def test_without_dp_accounting_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'fcf_jax\[dp\]'"):
        epsilon(POISSON, **RUN)


def test_logs_nothing_of_orders_left_out(caplog):
    with caplog.at_level(logging.WARNING):
        calibrated_noise_multiplier(
            Participation("poisson", 1000, 200), epsilon=4.0, delta=1e-5, num_rounds=60, accountant="rdp"
        )
    assert not caplog.records
