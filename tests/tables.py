"""A small table and helpers for the tests of readers."""

import pytest

from fcf_jax.data import read_interactions

PLAIN = "user,item,rating\n10,b,2\n9,a,1\n10,a,3\n"  # sorted: user 9 is 0, item a is 0


def dense(interactions):
    return interactions.to_scipy().toarray().tolist()


def failure(path, **options):
    """Return the message of the expected ValueError after the path; it must be one line with a remedy."""
    with pytest.raises(ValueError, match=";") as caught:
        read_interactions(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and ";" in message
    return message.removeprefix(str(path))
