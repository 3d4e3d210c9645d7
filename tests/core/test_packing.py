"""Packing: nothing lost, nothing doubled, every user its own rows, little padding."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcf_jax.core.packing import (
    cut_chunks,
    fill_up,
    one_chunk_each,
    pack_clients,
    pack_items,
    padding_factor,
    present_ids,
    stack_clients,
)
from fcf_jax.data import Interactions, read_interactions, with_pairs


def unpack(clients):
    """The interactions in a packed batch: sorted (user, item, strength) of every filled slot."""
    owners, ids = np.asarray(clients.owners), np.append(np.asarray(clients.client_ids), 0)
    rows = clients.rows
    item_ids, strengths, mask = (np.asarray(leaf) for leaf in (rows.item_ids, rows.strengths, rows.mask))
    chunk = np.arange(owners.shape[0])[:, None]
    owner_is_client = owners < clients.client_ids.shape[1]
    assert not mask[~owner_is_client].any()
    flat = np.where(owner_is_client, chunk * clients.client_ids.shape[1] + owners, ids.size - 1)
    users = np.broadcast_to(ids[flat][..., None], mask.shape)
    return sorted(zip(users[mask].tolist(), item_ids[mask].tolist(), strengths[mask].tolist(), strict=True))


def contents(interactions):
    users = np.repeat(np.arange(interactions.num_users), interactions.history_lengths)
    columns = users.tolist(), interactions.item_ids.tolist(), interactions.strengths.tolist()
    return sorted(zip(*columns, strict=True))


def with_lengths(lengths, num_items=40):
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.concatenate([np.arange(length) for length in lengths] or [[]]).astype(int)
    strengths = 1.0 + np.arange(users.size) % 7
    return Interactions.from_arrays(users, items, strengths, num_users=len(lengths), num_items=num_items)


def check_layout(clients, num_users):
    ids = np.asarray(clients.client_ids)
    assert sorted(ids[ids < num_users].tolist()) == list(range(num_users))  # every user once
    owners = np.asarray(clients.owners)
    assert (np.diff(owners, axis=1) >= 0).all()  # what segment_sum is told
    flat, width = owners.ravel(), clients.client_ids.shape[1]
    for user in range(num_users):
        rows = int(clients.first_row[user]) + np.arange(int(clients.row_counts[user]))
        chunk = rows // owners.shape[1]
        assert (ids[chunk, np.minimum(flat[rows], width - 1)] == user).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    row_width=st.sampled_from([None, 1, 3, 8]),
    chunk_slots=st.sampled_from([8, 64, 8192]),
    chunk_clients=st.sampled_from([1, 4, 512]),
)
def test_every_interaction_appears_once_with_its_owner(lengths, row_width, chunk_slots, chunk_clients):
    interactions = with_lengths(lengths)
    clients = pack_clients(
        interactions, row_width=row_width, chunk_slots=chunk_slots, chunk_clients=chunk_clients
    )
    assert unpack(clients) == contents(interactions)
    check_layout(clients, len(lengths))


def test_a_single_very_long_history_fits_one_chunk():
    interactions = with_lengths([3000, 0, 1], num_items=3000)
    clients = pack_clients(interactions, row_width=8, chunk_slots=64)
    assert unpack(clients) == contents(interactions)
    check_layout(clients, 3)


def test_items_are_the_transposed_interactions():
    interactions = with_lengths([3, 0, 7, 40])
    assert unpack(pack_items(interactions)) == sorted((i, u, r) for u, i, r in contents(interactions))


@pytest.mark.parametrize("row_width", [0, -1])
def test_a_row_width_below_one_is_named(row_width):
    with pytest.raises(ValueError, match=f"row_width of at least 1, got {row_width}"):
        pack_clients(with_lengths([1]), row_width=row_width)


def test_filled_up_nothing_is_lost_and_every_row_keeps_its_owner(small):
    filled = fill_up(small.clients, num_chunks=7, num_rows=19, num_clients=6)
    assert filled.owners.shape == (7, 19) and filled.client_ids.shape == (7, 6)
    assert unpack(filled) == contents(small.interactions)
    check_layout(filled, 13)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_chunks_cut_from_a_packing_hold_all_of_it(small, size):
    num_chunks = small.clients.owners.shape[0]
    parts = [cut_chunks(small.clients, start, size) for start in range(0, num_chunks, size)]
    assert {part.owners.shape[0] for part in parts} == {size}
    assert sorted(one for part in parts for one in unpack(part)) == contents(small.interactions)


def test_chunks_one_by_one_hold_all_of_it(small):
    parts = list(one_chunk_each(small.clients))
    assert sorted(one for part in parts for one in unpack(part)) == contents(small.interactions)
    users = np.concatenate([present_ids(part) for part in parts])
    np.testing.assert_array_equal(users, present_ids(small.clients))
    assert sorted(users.tolist()) == list(range(13))


def test_stacked_packings_of_other_sizes_hold_what_each_held(small):
    wide = pack_clients(small.interactions, row_width=4, chunk_slots=1000)
    stacked = stack_clients([small.clients, wide])
    for run in range(2):
        one = jax.tree.map(lambda leaf, run=run: leaf[run], stacked)
        assert unpack(one) == contents(small.interactions)
        check_layout(one, 13)


def test_packings_of_other_row_widths_are_not_stacked(small):
    with pytest.raises(ValueError, match="row_width"):
        stack_clients([small.clients, pack_clients(small.interactions, row_width=8)])


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("ml-100k", 1.25), ("ml-1m", 1.25), ("hetrec2011-lastfm-2k", 1.25), ("ml-latest-small", 1.25),
        ("filmtrust", 1.25), ("jester5k.npz", 1.25), ("ciaodvd", 2.0), ("amazon-video", 2.0),
    ],
)  # fmt: skip
def test_real_histories_waste_few_slots(name, limit, data_folder):
    path = data_folder / name
    if not path.exists():
        pytest.skip(f"no {path}")
    interactions, _ = read_interactions(path, implicit=name != "jester5k.npz")
    clients = pack_clients(interactions)
    assert int(np.asarray(clients.rows.mask).sum()) == interactions.num_interactions
    assert padding_factor(clients) <= limit  # asked of sets with mean history >= 20; short ones have 2


def test_negatives_of_pairs_count_as_items_that_have_been_met():
    pairs = with_pairs(with_lengths([2, 1], num_items=5), num_negatives=3)
    counts = np.asarray(pack_clients(pairs).item_counts)
    assert counts.sum() == 2 * 9 and set(pairs.negative_ids) <= set(np.flatnonzero(counts))
