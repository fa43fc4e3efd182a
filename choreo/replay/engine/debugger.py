"""pdb in a service's own handlers: one input, and whoever debugs stands on the first line of each."""

import sys
from bdb import BdbQuit
from collections.abc import Callable
from dataclasses import replace
from pdb import Pdb
from types import FrameType
from typing import IO, Any

from choreo.replay.engine.in_memory_service import Taken
from choreo.replay.engine.sandbox import SideEffect, no_side_effects

_MACHINERY = ["bdb", "pdb", "functools", "choreo.*", "events.*"]
"""Modules one does not want to step into."""


class _Debugger(Pdb):
    left = False
    """Somebody has enough of it."""

    def set_quit(self) -> None:
        self.left = True
        super().set_quit()

    def user_call(self, frame: FrameType, argument_list: None) -> None:
        """Does not stop at the call: the function's first line is soon enough."""


def debug(taken: Taken[Any], stdin: IO[str] | None = None, stdout: IO[str] | None = None) -> None:
    """Takes the input. `continue` goes on to the next handler, `quit` leaves. Raises `SideEffect`.

    What a handler raises, or keeps the input from being read, is printed.
    """
    debugger = _Debugger(stdin=stdin, stdout=stdout, skip=_MACHINERY, nosigint=True)
    decider = taken.service.decider

    def halted(handler: Callable[..., Any]) -> Callable[..., Any]:
        def stepwise(*arguments: Any) -> Any:
            result = debugger.runcall(handler, *arguments)
            if debugger.left:
                raise BdbQuit
            return result

        return stepwise

    watched = replace(
        decider,
        decide=halted(decider.decide),
        evolve=halted(decider.evolve),
        react=decider.react and halted(decider.react),
    )
    try:
        with no_side_effects(by_hand=True):
            replace(taken, service=replace(taken.service, decider=watched)).run()
    except BdbQuit:
        return
    except SideEffect:
        raise
    except Exception as error:
        debugger.message(f"raises {error!r}")
    finally:
        sys.settrace(None)
