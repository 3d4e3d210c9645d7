"""Exported rounds: written, read back and run, with states and infos as records."""

import jax
import numpy as np
import optax
import pytest
from jax import export
from references import NUM_FACTORS
from small_data import MODEL

import fcf_jax as fcf
from fcf_jax._exported import exported_records


def test_every_record_of_a_round_is_registered():
    names = {record.__name__ for record in exported_records()}
    assert {"ServerState", "RoundInfo", "PackedClients", "ClientData", "GuardedState", "AlsInfo"} <= names
    for record in exported_records():
        with pytest.raises(ValueError, match=r"[Dd]uplicate|already"):
            export.register_namedtuple_serialization(record, serialized_name=f"another {record.__name__}")


def test_a_round_read_back_equals_the_round(small):
    pytest.importorskip("flatbuffers")
    federation = fcf.federated_cf(
        MODEL, optax.adam(0.1), num_items=17, num_factors=NUM_FACTORS, cohort_size=4
    )
    key, step = jax.random.key(0), jax.jit(federation.round)
    arguments = key, federation.init(key), small.clients
    read = export.deserialize(export.export(step)(*arguments).serialize())
    (state, info), (expected, expected_info) = read.call(*arguments), step(*arguments)
    assert isinstance(state, fcf.ServerState) and isinstance(info, fcf.RoundInfo)
    np.testing.assert_allclose(state.item_factors, expected.item_factors, atol=1e-6)
    np.testing.assert_array_equal(info.client_ids, expected_info.client_ids)
