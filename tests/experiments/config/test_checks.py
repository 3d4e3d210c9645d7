import pytest

from fcf_jax.core.records import Pieces
from fcf_jax.experiments.config.checks import _CHECKS, check
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.mistakes import Facts
from fcf_jax.experiments.errors import ConfigError

FACTS = Facts(num_users=60, num_items=30, num_interactions=500)
BOUNDS = Pieces(256.0, 32.0, 100.0, 1e4)
CENTRAL = ["privacy.mode=central_noise", "privacy.noise_multiplier=1", "server.step=gram"]
LOCAL = ["privacy.mode=local_noise", *CENTRAL[1:]]
MOMENTS = [*CENTRAL, "privacy.start=second_moments", "federation.num_rounds=0"]
SECURE = ["privacy.mode=secure_sum"]
PARTS = ["data.train_path=a.txt", "data.test_path=b.txt"]
COHORT = ["federation.cohort_size=20", "server.step=running_sums"]
DEADLINE = ["devices.bandwidth=1e6", "devices.deadline_seconds=3", "server.step=running_sums"]
FLYING = ["devices.bandwidth=1e6", "devices.concurrency=45", *COHORT]

ROUNDED = ["channel.form=own_rows", "channel.upload_bits=8"]
PROJECTED = ["channel.projection=4", "server.step=running_sums"]

OF_LOADING = [  # broken as soon as the configuration is loaded
    (["privacy.ledger_epsilon=1"], r"privacy\.ledger_epsilon: expected a file"),
    (["privacy.ledger=spent.json"], r"privacy\.ledger: expected a privacy\.mode with noise"),
    ([*CENTRAL, "privacy.ledger=spent.csv"], r"privacy\.ledger: .* ends with \.json"),
    (
        [*CENTRAL, "privacy.ledger=spent.json", "privacy.seed=0"],
        r"privacy\.ledger: .* leave out privacy\.seed",
    ),
    (
        ["model.objective=bpr", "data.feedback=explicit", "model.unobserved_weight=0"],
        "model.objective: bpr compares",
    ),
    (["model.objective=bpr", "model.unobserved_weight=0"], "evaluation.baseline: ALS cannot"),
    (["model.objective=bpr"], "unobserved_weight: expected 0.* = 0, and evaluation.baseline = false"),
    (
        ["model.objective=logistic", "model.unobserved_weight=0", "model.regularization=0"],
        "model.regularization: expected above 0",
    ),
    (
        ["model.objective=logistic", "model.unobserved_weight=0", "privacy.mode=secure_sum"],
        "model.objective: secure_sum is made for",
    ),
    (["model.biases=true", "privacy.mode=central_noise"], "model.biases: central_noise is made for"),
    (["channel.form=own_rows", *SECURE], 'channel.form: expected "dense" with privacy.mode = "secure_sum"'),
    (["channel.upload_bits=8", *SECURE], "channel.upload_bits: .* secure_sum hides which those are"),
    (["channel.top_rows=0.5"], 'channel.top_rows: expected channel.form = "own_rows"'),
    (["channel.projection=4", "channel.form=rank_one"], "channel.projection: uploads of rank one"),
    ([*PROJECTED, *LOCAL], "channel.projection: with local_noise, clients add noise"),
    (["channel.projection=40", "server.step=gram"], "channel.projection: expected at most .* got 40"),
    (["channel.rounding=random"], 'channel.rounding: "random" rounds nothing'),
    ([*ROUNDED, "channel.rounding=feedback", *PROJECTED], "channel.rounding: error feedback remembers"),
    (
        [*ROUNDED, "channel.rounding=feedback", "parallel.deterministic=true"],
        "channel.rounding: sums in fixed",
    ),
    (["channel.item_share=0.5"], "channel.item_share: guarded_gram compares rounds, .* items drawn"),
    (
        ["channel.item_share=0.5", "channel.item_choice=popularity", "server.step=adam"],
        "channel.item_choice: clients send no confidences for server.step = adam",
    ),
    (["channel.item_choice=bandit"], 'channel.item_choice: "bandit" chooses nothing'),
    (["channel.item_bits=8", "data.user_features=a.csv"], "channel.item_bits: .* passes no channel"),
    (
        [*ROUNDED, "model.objective=bpr", "model.unobserved_weight=0", "evaluation.baseline=false"],
        "channel.upload_bits: pairs have two rows each",
    ),
    (["channel.item_bits=8", "model.biases=true"], "channel.item_bits: made for rows without biases"),
    ([*ROUNDED, "channel.rounding=feedback", *FLYING], "channel.rounding: error feedback and items chosen"),
    (["evaluation.federated=true", *CENTRAL], "privacy.evaluation_share: noisy means of metrics cost budget"),
    (["privacy.evaluation_share=0.1"], "evaluation.federated: privacy.evaluation_share is for noisy means"),
    (["attack.defence=median", *SECURE], "attack.defence: median compares single uploads, and secure sums"),
    (["attack.defence=consistency", *CENTRAL], "attack.defence: with central_noise, uploads are clipped"),
    (
        ["attack.defence=consistency", *ROUNDED],
        "attack.defence: consistency compares uploads as the protocol",
    ),
    (["attack.defence=median", "parallel.deterministic=true"], "attack.defence: median sorts what clients"),
    (
        ["attack.defence=trimmed_mean", *FLYING],
        "attack.defence: trimmed_mean compares the clients of a round",
    ),
    (["attack.kind=rank_one", "model.biases=true"], "model.biases: attacks and defences are made for"),
    (["privacy.start=second_moments"], "privacy.start: .* got privacy.mode = plain"),
    (["privacy.start=second_moments", *CENTRAL], "federation.num_rounds: expected 0"),
    ([*MOMENTS, "federation.cohort_size=20"], "federation.cohort_size: second moments"),
    ([*MOMENTS, "server.initial_item_factors=a"], "server.initial_item_factors: second moments"),
    ([*MOMENTS, "model.num_factors=1"], "model.num_factors: expected 2"),
    (["parallel.num_processes=2"], "parallel.coordinator"),
    (["parallel.process_id=1"], "parallel.process_id"),
    (["parallel.devices=3", "parallel.item_shards=2"], "parallel.item_shards"),
    (["data.source=simulated", "data.path=a.csv"], "data.path"),
    (["data.name=ml-1k"], "data.name"),
    (["data.source=simulated", "data.name=ml-1m"], "data.name"),
    (["data.test_fraction=0.5", "data.validation_fraction=0.5"], "data.test_fraction"),
    (["data.source=simulated", "data.split=published"], "data.split"),
    (["data.test_path=b.txt"], "data.train_path: expected the training set beside data.test_path"),
    (
        ["data.validation_path=b.txt"],
        "data.train_path: expected the training set beside data.validation_path",
    ),
    ([*PARTS[:1], "data.split=published"], "data.test_path"),
    ([*PARTS, "data.split=published", "data.path=a.csv"], "data.train_path: .* data.path or data.name"),
    ([*PARTS, "data.split=published", "data.source=simulated"], "data.train_path: .*simulated"),
    (PARTS, 'data.split: expected "published" .* got "ratio"'),
    (["data.path=a", "data.negatives_path=b"], 'data.split: expected "leave_one_out"'),
    (["data.path=a", "data.split=published", "data.negatives_ids=first_appearance"], "data.negatives_ids"),
    (["data.negatives_path=b", "data.split=leave_one_out"], "data.negatives_path"),
    (["data.test_users=5"], 'data.split: expected "strong"'),
    (["data.split=strong", "data.validation_fraction=0.1"], "data.validation_fraction"),
    (["data.split=strong", "data.feedback=explicit", "model.unobserved_weight=0"], "data.split"),
    (["data.cold_fraction=0.2"], 'data.split: expected "cold_items"'),
    (["data.user_features=a.csv", *SECURE], 'data.user_features: .* got privacy.mode = "secure_sum"'),
    (["data.path=a", "data.split=published", "data.min_strength=4"], "data.min_strength"),
    (["evaluation.masked=train_and_validation"], "evaluation.masked"),
    (["data.feedback=explicit"], "model.unobserved_weight"),
    (["devices.dropout=0.1", "devices.dropout_trace=a.csv"], "devices.dropout: the trace"),
    (["devices.bandwidth=1e6", "devices.trace=a.csv"], "devices.bandwidth: the trace"),
    (["devices.deadline_seconds=3"], "devices.bandwidth: .* need virtual time"),
    ([*DEADLINE, "federation.sampling=poisson"], 'federation.sampling: .* got "poisson"'),
    ([*DEADLINE, *CENTRAL], "devices.over_selection: central_noise accounts"),
    ([*DEADLINE, *SECURE], "devices.over_selection: secure sums"),
    ([*SECURE, "devices.dropout=0.1", "devices.dropout_pattern=activity"], "devices.dropout_pattern: secure"),
    (["devices.dropout=0.1", "data.user_features=a.csv"], "data.user_features: .* passes no channel"),
    (["devices.dropout=0.1"], "server.step: guarded_gram needs everybody .* leave out dropouts"),
    (["devices.bandwidth=1e6", "devices.over_selection=1.3"], "devices.over_selection: with everybody"),
    (["devices.concurrency=9", *DEADLINE[:1]], "devices.concurrency: a step .* federation.cohort_size"),
    ([*FLYING, *CENTRAL], "devices.concurrency: central_noise needs rounds: .* accountants"),
    ([*FLYING, *DEADLINE], "devices.concurrency: asynchronous rounds wait for no one"),
    ([*FLYING, "parallel.stream=true"], "devices.concurrency: .* leave out parallel.stream"),
    ([*FLYING, "data.user_features=a.csv"], "devices.concurrency: .* leave out data.user_features"),
    ([*FLYING, "devices.dropout_trace=a.csv"], "devices.dropout_trace: a trace is of rounds"),
    (["data.feedback=explicit", "model.unobserved_weight=0", "data.strengths=log"], "data.strengths"),
    (["server.decay=cosine"], "server.decay: guarded_gram"),
    ([*CENTRAL, "server.confidences=once"], "server.confidences: .* would have no noise"),
    (
        ["model.objective=logistic", "model.unobserved_weight=0", "server.confidences=once"],
        "server.confidences: .* squared errors",
    ),
]
OF_COMMANDS = [
    ("tune", ["model.objective=logistic", "model.unobserved_weight=0"], "model.objective: fcf tune knows"),
    (
        "compare",
        ["model.objective=bpr", "model.unobserved_weight=0", "evaluation.baseline=false"],
        "model.objective: fcf compare compares with ALS",
    ),
    ("audit", ["model.biases=true"], "model.biases: the attacks"),
    ("plan", MOMENTS, "privacy.start: fcf plan trains in rounds"),
    ("audit", ["channel.item_bits=8"], "channel.item_bits: the attacks expect uploads as they are"),
    ("tune", ["parallel.item_shards=2"], "parallel: fcf tune"),
    (
        "compare",
        ["federation.seed=4294967290"],
        "federation.seed: expected at most 4294967295 for the last of 10",
    ),
    ("compare", ["parallel.stream=true"], "parallel.stream: fcf compare"),
    ("compare", [*CENTRAL, "privacy.head_items=0.5", "privacy.seed=0"], "privacy.head_items: fcf compare"),
    ("audit", ["server.initial_item_factors=runs/first"], "server.initial_item_factors: fcf audit trains"),
    ("sweep", [*CENTRAL, "privacy.ledger=a.json"], "privacy.ledger: fcf sweep enters no ledger"),
    ("tune", CENTRAL, "privacy.seed: fcf tune"),
    ("tune", SECURE, "privacy.mode: fcf tune"),
    ("tune", ["tuning.alpha=[5, 1]"], "tuning.alpha"),
    ("tune", ["tuning.regularization=[5, 1]"], "tuning.regularization"),
    ("tune", ["tuning.metric=map_at_5"], "tuning.metric: unknown metric map_at_5; did you mean map_at_10?"),
    ("tune", ["tuning.validation_fraction=0.8"], "tuning.validation_fraction"),
    ("tune", ["tuning.num_model_trials=0", "tuning.num_server_trials=0"], "tuning.num_model_trials"),
    ("tune", ["federation.num_rounds=0"], "federation.num_rounds"),
    ("tune", ["model.alpha=0"], "model.alpha"),
    ("tune", ["model.regularization=0"], "model.regularization"),
    ("audit", [*CENTRAL, "privacy.item_weight_power=0.5"], "privacy.item_weight_power"),
    ("audit", ["model.regularization_exponent=1"], "model.regularization_exponent: the attacks"),
    ("tune", ["data.item_features=a.csv"], "data.user_features: fcf tune trains without features"),
    ("compare", ["evaluation.federated=true"], "evaluation.federated: fcf compare measures without"),
    ("compare", ["attack.kind=rank_one"], "attack.kind: fcf compare trains without attackers"),
    ("compare", FLYING, "devices.concurrency: fcf compare trains in synchronous rounds"),
    ("plan", ["federation.num_rounds=0"], "federation.num_rounds"),
    ("plan", LOCAL, "privacy.mode: .* got local_noise"),
]
OF_DATA = [
    (None, [], FACTS._replace(num_interactions=0), "data.test_fraction"),
    (None, [*MOMENTS, "privacy.head_items=0.5"], FACTS, "model.num_factors: .* the 15 items"),
    (None, ["federation.cohort_size=61"], FACTS, "federation.cohort_size: .* 60 users, got 61"),
    (None, ["federation.cohort_size=20"], FACTS, "server.step: guarded_gram .* got 20"),
    (None, [*CENTRAL, "data.feedback=explicit", "model.unobserved_weight=0"], FACTS, "data.feedback"),
    (None, [*CENTRAL, "data.min_item_interactions=2"], FACTS, "data.min_item_interactions"),
    (None, [*CENTRAL, "model.regularization_exponent=1"], FACTS, "model.regularization_exponent: .* noise"),
    (None, ["privacy.mode=central_noise"], FACTS, "server.step: guarded_gram .* central_noise"),
    (None, [*LOCAL, "privacy.clipping=adaptive"], FACTS, "privacy.clipping: .* local_noise"),
    (None, [*LOCAL, "privacy.head_items=0.5"], FACTS, "privacy.head_items: .* local_noise"),
    (None, [*CENTRAL, *COHORT], FACTS, "privacy: .* 'shuffled'"),
    (None, [*CENTRAL, "privacy.noise_multiplier=1e6"], FACTS, "privacy.noise_multiplier: .* got 1e.06"),
    (
        None,
        [*CENTRAL, "privacy.clipping=adaptive", "privacy.noise_multiplier=6"],
        FACTS,
        "more than 60 clients, got 60",
    ),
    (None, ["model.num_factors=31", "model.regularization=0"], FACTS, "rank 30 at most"),
    (None, ["model.num_factors=1024"], FACTS._replace(num_items=2**21), "model.num_factors"),
    ("run", [*SECURE, "privacy.fraction_bits=25"], FACTS._replace(bounds=BOUNDS), "privacy.fraction_bits"),
    (None, FLYING, FACTS, "devices.concurrency: expected at most 40, .* 60 users, got 45"),
    (
        None,
        ["devices.bandwidth=1e6", "devices.over_selection=4", *COHORT],
        FACTS,
        "devices.over_selection: expected at most 60 users drawn for a round, got 80",
    ),
    (
        "run",
        [*SECURE, "privacy.min_cohort=20", "devices.dropout=0.1", "server.step=running_sums"],
        FACTS,
        "devices.dropout: .* one of two rounds alone to be 20 .* got 10.8 on average; raise it",
    ),
    (
        "run",
        ["attack.kind=rank_one", "attack.num_targets=16"],
        FACTS,
        "attack.num_targets: .* half of the 30",
    ),
    ("compare", SECURE, FACTS, "privacy.min_cohort: .* at least 100 clients"),
    (
        "run",
        [
            *SECURE,
            *COHORT,
            "privacy.min_cohort=20",
            "federation.num_rounds=4",
            "server.confidences=each_round",
        ],
        FACTS,
        r"server.confidences: .* at least 20 .* got 1\d\.\d from round 3 on; set server.confidences = .once.",
    ),
    (
        "run",
        [*SECURE, *COHORT, "privacy.min_cohort=10", "federation.num_rounds=60"],
        FACTS,
        r"privacy.min_combination: .* at least 10 .* got [6-9]\.\d+ from round \d on, and late uploads",
    ),
]


@pytest.mark.parametrize(("overrides", "told"), OF_LOADING)
def test_rules_of_every_use_hold_on_loading(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load_config(None, overrides)


@pytest.mark.parametrize(("command", "overrides", "told"), OF_COMMANDS)
def test_rules_of_a_command_hold_for_it_alone(command, overrides, told):
    config = load_config(None, overrides)
    check(config, "run")
    with pytest.raises(ConfigError, match=told):
        check(config, command)


@pytest.mark.parametrize(("command", "overrides", "facts", "told"), OF_DATA)
def test_rules_of_the_data_hold_once_they_are_known(command, overrides, facts, told):
    config = load_config(None, overrides)
    check(config)
    with pytest.raises(ConfigError, match=told):
        check(config, command, facts)


@pytest.mark.parametrize("command", ["compare", "tune", "audit"])
def test_a_rule_of_several_commands_names_the_one_that_is_run(command):
    with pytest.raises(ConfigError, match=f"parallel: fcf {command}"):
        check(load_config(None, ["parallel.coordinator=auto"]), command)


def test_every_rule_is_broken_here():
    assert len(OF_LOADING) + len(OF_COMMANDS) + len(OF_DATA) == len(_CHECKS)


@pytest.mark.parametrize("command", ["run", "compare", "tune", "audit", "plan"])
def test_defaults_break_no_rule(command):
    check(load_config(), command)
    check(load_config(), command, FACTS)
