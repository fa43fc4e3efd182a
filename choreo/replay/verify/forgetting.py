"""Work after which this process is as it was: whatever a service's modules remember of it is forgotten.

A handler with a cache decides otherwise the second time. Who tries many parts of a recording, one after the
other, would find what the parts before have left behind, and not what is in the recording.
"""

import asyncio
import gc
import os
import pickle
from collections.abc import Callable, Coroutine
from typing import IO, Any, TypeVar

from choreo.chassis.source_lines import read_installed
from choreo.errors import HandlerMisbehaves

T = TypeVar("T")

Work = Callable[[Callable[..., None]], Coroutine[Any, Any, T]]
"""Is given whom to tell how far it is."""


def forgetting(work: Work[T], tell: Callable[..., None] = lambda *what: None) -> T:
    """Runs it in a fork; returns its result, or raises what it raises: both are pickled."""
    read_installed()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        with os.fdopen(sender, "wb") as answer:
            _answer(work, answer)
    os.close(sender)
    try:
        with os.fdopen(receiver, "rb") as answers:
            while True:
                kind, told = pickle.load(answers)
                if kind == "told":
                    tell(*told)
                elif kind == "raised":
                    raise told
                else:
                    return told  # type: ignore[no-any-return]
    except EOFError:
        raise HandlerMisbehaves("A handler ended the process in which it was tried.") from None
    finally:
        os.waitpid(child, 0)


def _answer(work: Work[T], answer: IO[bytes]) -> None:
    """Does not return: the rest of the program is the parent's, and so is what is printed."""

    def send(kind: str, told: Any) -> None:
        answer.write(pickle.dumps((kind, told)))
        answer.flush()

    gc.disable()  # a look at all there is would copy all there is
    try:
        asyncio.events._set_running_loop(None)  # that one is the parent's, too
        try:
            send("result", asyncio.run(work(lambda *what: send("told", what))))
        except Exception as error:
            send("raised", error)
    finally:
        os._exit(0)
