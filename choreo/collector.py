"""Python's collector of cycles, put off while nothing is there for it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collector() -> Iterator[None]:
    """Switches it off for the block. What is folded from a log has no cycles, and looking costs a third of
    the time; what is imported stays, and looking costs a tenth.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
