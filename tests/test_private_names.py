"""Private names of other packages, each used in one place, and a test that says when they move."""

import pytest
from jax._src import distributed
from jax._src.lib import _jax

from voc2vec_jax.distributed import processes


def test_jax_keeps_words_between_processes_where_it_did() -> None:
    """If this fails after an update of JAX: `processes._client` is the one place to mend.

    Runs of one process go on working without it; those of several need the three calls.
    """
    assert distributed.global_state.client is None, "no process was joined here"
    for call in ("wait_at_barrier", "key_value_set", "blocking_key_value_get"):
        assert callable(getattr(_jax.DistributedRuntimeClient, call)), call
    with pytest.raises(RuntimeError, match="has not joined any"):
        processes._client()
