"""Work after which this process is as it was: whatever a service's modules remember of it is forgotten.

A handler with a cache decides otherwise the second time. Who tries many parts of a recording, one after the
other, would find what the parts before have left behind, and not what is in the recording.
"""

import asyncio
import gc
import json
import os
from collections.abc import Callable, Coroutine
from typing import IO, Any

from choreo.chassis.source_lines import read_installed
from choreo.errors import HandlerMisbehaves, Incomplete, UsageError
from choreo.replay.sources.records import Broken

Work = Callable[[Callable[..., None]], Coroutine[Any, Any, Any]]
"""Is given whom to tell how far it is; returns what JSON can hold."""

_RAISED = {error.__name__: error for error in (HandlerMisbehaves, Incomplete, UsageError, Broken)}


def forgetting(work: Work, tell: Callable[..., None] = lambda *what: None) -> Any:
    """Runs it in a fork; returns its result. Raises what it raises, if that is one of ours."""
    read_installed()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        with os.fdopen(sender, "w") as answer:
            _answer(work, answer)
    os.close(sender)
    try:
        with os.fdopen(receiver) as answers:
            for line in answers:
                kind, told = json.loads(line)
                if kind == "told":
                    tell(*told)
                elif kind == "result":
                    return told
                else:
                    raise _RAISED.get(kind, RuntimeError)(told)
        raise HandlerMisbehaves("A handler ended the process in which it was tried.")
    finally:
        os.waitpid(child, 0)


def _answer(work: Work, answer: IO[str]) -> None:
    """Does not return: the rest of the program is the parent's, and so is what is printed."""

    def send(kind: str, told: Any) -> None:
        answer.write(json.dumps((kind, told), default=str) + "\n")
        answer.flush()

    gc.disable()  # a look at all there is would copy all there is
    try:
        asyncio.events._set_running_loop(None)  # that one is the parent's, too
        try:
            send("result", asyncio.run(work(lambda *what: send("told", what))))
        except Exception as error:
            ours = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _RAISED), "raised")
            send(ours, str(error) if ours in _RAISED else repr(error))
    finally:
        os._exit(0)
