"""Flows as a list: how each stands, which of them are wanted, and the newest first.

A flow begins with a request, which is in the journal of the service that was asked. The newest are read from
its end back, some positions at a time.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from heapq import nlargest
from typing import Any, Literal
from uuid import UUID

from choreo.chassis.database.connection import Connection
from choreo.errors import UsageError
from choreo.replay.sources.records import Item, JournalEntry
from choreo.replay.trace.trace import Gap, Tree

State = Literal["finished", "refused", "in-flight", "missing"]

MOST_LOOKED_AT = 2000
"""So many flows are looked through for those that are wanted."""
_ON_THE_WAY = ("unread", "waiting", "unsent", "unpublished")
"""States of a gap that pass by themselves, while there is time."""
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,2})?")

_PAGE = 1000
"""Positions of a journal that are read at a time."""

_END = """/* flows.end: of the journal */
SELECT coalesce(max(position), 0) + 1 FROM journal"""

_REQUESTS = """/* flows.requests: with which flows began, in some of the journal */
SELECT id, key, coalesce(received_at, decided_at) FROM journal
WHERE position >= %(begin)s AND position < %(end)s AND kind = 'command' AND id = correlation_id
    AND (%(until)s::timestamptz IS NULL OR coalesce(received_at, decided_at) < %(until)s)
ORDER BY 3 DESC"""


@dataclass(frozen=True, order=True, slots=True)
class Began:
    """The beginning of a flow."""

    at: datetime
    flow: UUID
    key: str


@dataclass(frozen=True, kw_only=True)
class FlowFilter:
    state: State | None = None
    outcome: str | None = None
    """In the name of a fact or a refusal, or a value of a fact, such as a reason; capitals do not count."""
    amount: int | None = None
    """In minor units: one that a fact or a refusal names."""
    since: datetime | None = None
    until: datetime | None = None
    """It began earlier."""
    slower_ms: float | None = None

    def includes(self, tree: Tree) -> bool:
        return (
            self.state in (None, state_of(tree))
            and (self.outcome is None or _has(tree, self.outcome.casefold()))
            and (self.amount is None or self.amount in _numbers(tree))
            and (self.since is None or tree.began_at >= self.since)
            and (self.until is None or tree.began_at < self.until)
            and (self.slower_ms is None or took_ms(tree) > self.slower_ms)
        )


@dataclass(frozen=True)
class Listed:
    flows: Sequence[Tree]
    """The newest first."""
    looked_at: int
    """How many flows, wanted or not."""
    next_until: datetime | None
    """To be asked again until then, for what is older; None where nothing is."""


def state_of(tree: Tree) -> State:
    """Returns how it stands: its request was refused; something is on its way, or has to be looked after."""
    if tree.asked and tree.asked.outcome == "refused":
        return "refused"
    gaps = list(gaps_of(tree))
    if any(gap.state not in _ON_THE_WAY or gap.overdue_ms is not None for gap in gaps):
        return "missing"
    unread = any(
        hearing.outcome == "unread" for _, node in tree.everything() for hearing in node.way.hearings
    )
    return "in-flight" if gaps or unread else "finished"


def gaps_of(tree: Tree) -> Iterator[Gap]:
    yield from tree.gaps
    for _, node in tree.everything():
        yield from node.gaps


def took_ms(tree: Tree) -> float:
    """Returns the time from its beginning to its last decision."""
    return max((node.after_ms for _, node in tree.everything()), default=0.0)


def _said(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Yields what its facts and its refusal say, by the name of what says it."""
    refusal = tree.asked.refusal if tree.asked else None
    for name, value in (refusal or {}).items():
        yield str((refusal or {}).get("type", "")), None if name == "type" else value
    for _, node in tree.everything():
        for value in node.way.event.data.values():
            yield node.way.event.type, value


def _has(tree: Tree, outcome: str) -> bool:
    return any(
        outcome in name.casefold() or (isinstance(value, str) and outcome == value.casefold())
        for name, value in _said(tree)
    )


def _numbers(tree: Tree) -> set[int]:
    return {value for _, value in _said(tree) if type(value) is int}


def minor_units(amount: str) -> int:
    """Reads 500.00 as 50000. Raises `UsageError`."""
    if not _AMOUNT.fullmatch(amount):
        raise UsageError(f"{amount} is no amount: give one like 500.00.")
    return int(Decimal(amount) * 100)


async def listed(
    pages: AsyncIterator[Sequence[Began]],
    trees_of: Callable[[Sequence[Began]], Awaitable[Iterable[Tree]]],
    filter: FlowFilter,
    limit: int,
) -> Listed:
    """Looks through pages, the newest first, until there are so many flows that are wanted."""
    found: list[Tree] = []
    looked_at, last = 0, None
    async for page in pages:
        wanted = {one.flow for one in page}
        trees = {tree.flow: tree for tree in await trees_of(page) if tree.flow in wanted}
        for one in page:
            if filter.since and one.at < filter.since:
                return Listed(found, looked_at, None)
            if len(found) == limit or looked_at == MOST_LOOKED_AT:
                return Listed(found, looked_at, last)
            looked_at, last = looked_at + 1, one.at
            if (tree := trees.get(one.flow)) and filter.includes(tree):
                found.append(tree)
    return Listed(found, looked_at, None)


async def newest(
    conns: Sequence[Connection], until: datetime | None, page_size: int
) -> AsyncIterator[Sequence[Began]]:
    """Yields flows that began earlier, the newest first, by pages."""
    journals = [_FromTheEnd(conn, until) for conn in conns]
    page: list[Began] = []
    while True:
        heads = [(head, journal) for journal in journals if (head := await journal.head())]
        if not heads:
            break
        head, journal = max(heads, key=lambda one: one[0])
        journal.begun.pop()
        page.append(head)
        if len(page) == page_size:
            yield page
            page = []
    if page:
        yield page


@dataclass
class _FromTheEnd:
    """The requests in one journal, the newest first."""

    conn: Connection
    until: datetime | None
    begun: list[Began] = field(default_factory=list)
    """The newest last."""
    unread: int | None = None
    """What stands before this position is still to be read; None: nobody has asked where the journal ends."""

    async def head(self) -> Began | None:
        if self.unread is None:
            row = await (await self.conn.execute(_END.encode())).fetchone()
            self.unread = int(row[0]) if row else 0
        while not self.begun and self.unread:
            begin = max(0, self.unread - _PAGE)
            values = {"begin": begin, "end": self.unread, "until": self.until}
            rows = await (await self.conn.execute(_REQUESTS.encode(), values)).fetchall()
            self.begun = [Began(at, flow, key) for flow, key, at in reversed(rows)]
            self.unread = begin
        return self.begun[-1] if self.begun else None


def newest_recorded(items: Iterable[Item], filter: FlowFilter) -> list[Began]:
    """Returns those that began earlier than the filter says, the newest first: as many as are looked at."""
    begun = (
        Began((item.received_at or item.now).astimezone(UTC), item.id, item.key)
        for item in items
        if isinstance(item, JournalEntry) and item.kind == "command" and item.id == item.correlation_id
    )
    return nlargest(MOST_LOOKED_AT + 1, (one for one in begun if not filter.until or one.at < filter.until))
