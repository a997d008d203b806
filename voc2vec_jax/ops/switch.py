"""The one switch between the fast forms and the plain ones."""

import contextlib
import threading
from collections.abc import Iterator

import jax

# JAX keeps what it traced by the value of this, too. Its global value, not the one of a thread.
_plain = jax.make_user_context(default_value=False)
_lock = threading.Lock()
_open_blocks = 0


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Every operation has its plain form inside the block.

        with ops.plain():
            exported = export(model)

    The choice is made when a function is traced, and JAX keeps the programs of either choice
    apart: what ran before is traced anew inside the block and found again after it. Only what was
    taken out of `jax.jit` beforehand (a jaxpr, `lower(...)`, `compile()`, the pullback of
    `jax.vjp`) stays as it was.

    It holds for all threads, as those that fetch recordings trace programs as well; do not begin or
    end a block while another thread is tracing. Blocks may be nested, or overlap in several
    threads: the last one to end switches back, after an exception too.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def is_plain() -> bool:
    """Whether the plain forms are to be used."""
    return bool(_plain.value)


def _count(change: int) -> None:
    global _open_blocks
    with _lock:
        _open_blocks += change
        _plain.set_global(_open_blocks > 0)
