"""Who says that it is ready gets on with what there is: seen by looking again and again."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

Work = tuple[str, str]
"""A service, and what it has to do, in words."""

LOOKS = 15
"""In so many looks, one each second, work may stay as it is while its service says that it is ready."""


@dataclass(frozen=True)
class Look:
    """What is seen at about one moment."""

    ready: frozenset[str]
    """The services of which every process says so."""
    work: Mapping[Work, Hashable]
    """What is to be done, and how far it is: something else as soon as any of it is done."""


class Stalls:
    def __init__(self) -> None:
        self._seen: dict[Work, tuple[Hashable, int]] = {}
        """How far each is, and in how many looks it was, while its service said that it is ready."""

    def judge(self, look: Look) -> Iterator[str]:
        """A sentence for all that has not moved, once."""
        before, self._seen = self._seen, {}
        for work, place in look.work.items():
            service, what = work
            if service not in look.ready:
                continue
            was, looks = before.get(work, (place, 0))
            self._seen[work] = place, looks + 1 if was == place else 1
            if self._seen[work][1] == LOOKS:
                yield f"{service} said for {LOOKS} s that it is ready, and did not get on with {what}"
