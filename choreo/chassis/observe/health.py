"""Whether this process is ready, part by part, each with a sentence for the person who looks."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

PROBE_SECONDS = 2.0


class NotReady(Exception):
    """Raised by a probe; its text is the sentence shown. It must hold no secret."""


@dataclass(frozen=True, slots=True)
class PartState:
    ready: bool
    detail: str


class Part:
    """One part's own word about itself, kept up to date by the task that runs it. At first not ready."""

    def __init__(self) -> None:
        self.state = PartState(False, "starting")

    def ready(self, detail: str = "works") -> None:
        self.state = PartState(True, detail)

    def not_ready(self, detail: str) -> None:
        self.state = PartState(False, detail)


Probe = Callable[[], Awaitable[str]]
"""Tries a part out and returns a sentence, or raises."""


class Health:
    """The parts of one process. A service without parts is ready."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._probes: dict[str, Probe] = {}

    def part(self, name: str) -> Part:
        """The part of this name, made at the first call."""
        return self._parts.setdefault(name, Part())

    def probe(self, name: str, probe: Probe) -> None:
        """Runs whenever readiness is asked for, for at most `PROBE_SECONDS`."""
        self._probes[name] = probe

    async def states(self) -> Mapping[str, PartState]:
        probed = await asyncio.gather(*map(_try, self._probes.values()))
        said = {name: part.state for name, part in self._parts.items()}
        return said | dict(zip(self._probes, probed, strict=True))


async def _try(probe: Probe) -> PartState:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return PartState(True, await probe())
    except NotReady as error:
        return PartState(False, str(error))
    except TimeoutError:
        return PartState(False, f"no answer within {PROBE_SECONDS:g} s")
    except Exception as error:
        # The text of a driver's error may hold a connection string.
        return PartState(False, f"failed with {type(error).__name__}")
