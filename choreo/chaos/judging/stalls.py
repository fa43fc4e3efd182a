"""Whether who says that it is ready gets on with what there is: seen by looking again and again."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

Work = tuple[str, str]
"""A service, and what it has to do, in words."""

STALLED_SECONDS = 15.0
"""For so long work may stay as it is while its service says that it is ready."""
_BLINK_SECONDS = 10.0
"""Who did not look for longer does not know what was meanwhile."""


@dataclass(frozen=True)
class Look:
    """What is seen at about one moment."""

    at: float
    """Seconds, by any clock that only goes forward."""
    ready: frozenset[str]
    """The services of which every process says so."""
    work: Mapping[Work, Hashable]
    """What is to be done, and how far it is: something else as soon as any of it is done."""


class Stalls:
    def __init__(self) -> None:
        self._seen: dict[Work, tuple[Hashable, float]] = {}
        """How far each is, and since when, while its service says that it is ready."""
        self._told: set[tuple[Work, Hashable]] = set()
        self._looked_at = 0.0

    def judge(self, look: Look) -> Iterator[str]:
        """A sentence for all that has not moved, once."""
        before = self._seen if look.at < self._looked_at + _BLINK_SECONDS else {}
        self._seen, self._looked_at = {}, look.at
        for work, place in look.work.items():
            service, what = work
            if service not in look.ready:
                continue
            was, since = before.get(work, (place, look.at))
            since = since if was == place else look.at
            self._seen[work] = place, since
            if look.at >= since + STALLED_SECONDS and (work, place) not in self._told:
                self._told.add((work, place))
                yield (
                    f"{service} said for {look.at - since:.0f} s that it is ready, "
                    f"and did not get on with {what}"
                )
