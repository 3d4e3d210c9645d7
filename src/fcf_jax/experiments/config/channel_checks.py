"""Checks of the form of messages, and of their compression."""

from fcf_jax.experiments.config.rule import Check
from fcf_jax.experiments.config.schema import ExperimentConfig


def _lossy(config: ExperimentConfig) -> str:
    """Return the first key that makes messages lose anything; empty if none does."""
    channel = config.channel
    keys = {
        "channel.upload_bits": channel.upload_bits is not None,
        "channel.top_rows": channel.top_rows < 1,
        "channel.projection": channel.projection is not None,
        "channel.item_share": channel.item_share < 1,
        "channel.item_bits": channel.item_bits is not None,
    }
    return next((key for key, is_set in keys.items() if is_set), "")


CHANNEL_CHECKS = (
    Check(
        lambda c, f: c.channel.form != "dense" and c.privacy.spec.protects_uploads,
        lambda c, f: (
            f'channel.form: expected "dense" with privacy.mode = "{c.privacy.mode}", got {c.channel.form}: '
            "masks and noise are on all items, or they would tell the history; set channel.form = "
            '"dense", or privacy.mode = "plain"'
        ),
    ),
    Check(
        lambda c, f: (
            (c.channel.upload_bits is not None or c.channel.top_rows < 1) and c.privacy.spec.protects_uploads
        ),
        lambda c, f: (
            f"{_lossy(c)}: a number of bits and a share of rows are those of each client's own rows, and "
            f"{c.privacy.mode} hides which those are, got both; use channel.projection or "
            'channel.item_share, or set privacy.mode = "plain"'
        ),
    ),
    Check(
        lambda c, f: (
            (c.channel.upload_bits is not None or c.channel.top_rows < 1) and c.channel.form != "own_rows"
        ),
        lambda c, f: (
            f'{_lossy(c)}: expected channel.form = "own_rows", whose rows it changes, got '
            f'"{c.channel.form}"; set it'
        ),
    ),
    Check(
        lambda c, f: c.channel.projection is not None and c.channel.form == "rank_one",
        'channel.projection: uploads of rank one have no rows to project; set channel.form = "own_rows"',
    ),
    Check(
        lambda c, f: (
            c.channel.projection is not None and c.privacy.mode in ("local_noise", "distributed_noise")
        ),
        lambda c, f: (
            f"channel.projection: with {c.privacy.mode}, clients add noise to what they send, which is not "
            'what the server reads; set privacy.mode = "central_noise", or leave it out'
        ),
    ),
    Check(
        lambda c, f: (c.channel.projection or 0) > c.model.num_factors,
        lambda c, f: (
            f"channel.projection: expected at most model.num_factors = {c.model.num_factors} directions, got "
            f"{c.channel.projection}; lower it"
        ),
    ),
    Check(
        lambda c, f: c.channel.rounding != "nearest" and c.channel.upload_bits is None,
        lambda c, f: (
            f'channel.rounding: "{c.channel.rounding}" rounds nothing without channel.upload_bits; set it'
        ),
    ),
    Check(
        lambda c, f: (
            c.channel.rounding == "feedback" and (c.channel.projection is not None or c.channel.top_rows < 1)
        ),
        "channel.rounding: error feedback remembers what rounding alone left out; leave out "
        'channel.projection and channel.top_rows, or set channel.rounding = "random"',
    ),
    Check(
        lambda c, f: c.channel.rounding == "feedback" and c.is_in_fixed_point,
        "channel.rounding: sums in fixed point carry no memory of the clients; set "
        'parallel.deterministic = false, or channel.rounding = "random"',
    ),
    Check(
        lambda c, f: (
            c.server.spec.is_guarded and (c.channel.item_share < 1 or c.channel.projection is not None)
        ),
        lambda c, f: (
            f"{'channel.item_share' if c.channel.item_share < 1 else 'channel.projection'}: "
            f"{c.server.step} compares rounds, which differ by the "
            f"{'items' if c.channel.item_share < 1 else 'directions'} drawn for them; set server.step = "
            '"running_sums"'
        ),
    ),
    Check(
        lambda c, f: (
            c.channel.item_share < 1
            and c.channel.item_choice == "popularity"
            and "confidence_sum" not in c.sent_pieces
        ),
        lambda c, f: (
            f"channel.item_choice: clients send no confidences for server.step = {c.server.step}; set "
            'server.step = "running_sums", or channel.item_choice = "uniform" or "bandit"'
        ),
    ),
    Check(
        lambda c, f: c.channel.item_choice != "uniform" and c.channel.item_share == 1,
        lambda c, f: (
            f'channel.item_choice: "{c.channel.item_choice}" chooses nothing without channel.item_share '
            "below 1; set it"
        ),
    ),
    Check(
        lambda c, f: _lossy(c) and c.data.user_features,
        lambda c, f: (
            f"{_lossy(c)}: what clients send of their features passes no channel; leave out "
            "data.user_features"
        ),
    ),
    Check(
        lambda c, f: c.model.objective == "bpr" and (c.channel.changes_rows or c.channel.item_share < 1),
        lambda c, f: (
            f"{_lossy(c)}: pairs have two rows each, which compression does not know; set model.objective = "
            '"squared" or "logistic", or leave it out'
        ),
    ),
    Check(
        lambda c, f: c.model.biases and _lossy(c),
        lambda c, f: (
            f"{_lossy(c)}: made for rows without biases, one of whose numbers is constant; set "
            "model.biases = false"
        ),
    ),
    Check(
        lambda c, f: (
            c.devices.is_asynchronous
            and (c.channel.item_share < 1 or (c.channel.upload_bits and c.channel.rounding == "feedback"))
        ),
        "channel.rounding: error feedback and items chosen for a round expect all uploads of a round at "
        "once; leave out channel.item_share, and set channel.rounding to nearest or random, or leave out "
        "devices.concurrency",
    ),
    Check(
        lambda c, f: _lossy(c),
        lambda c, f: f"{_lossy(c)}: the attacks expect uploads as they are; leave it out",
        commands=("audit",),
    ),
)
