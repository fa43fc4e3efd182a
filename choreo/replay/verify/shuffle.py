"""What a key heard, in other orders in which it could have come: whether any of them matters.

Between two topics Kafka promises no order, so what a service makes of their facts must not depend on one. A
gap is what a key heard without a break: it ends with the first fact that led to a decision, and before
whatever the service was asked. A legal order keeps every gap where it is, and in it the order of each topic.
So what was asked still meets what was heard before it, and what followed from a decision comes after it.

The facts of a gap are taken as of one moment, the latest of theirs, as if they had come in one batch: then no
time depends on their order. What is compared after each gap is what was decided and refused in it and what it
made of rows, without the numbers of steps.
"""

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from choreo.chassis.service import Service
from choreo.chassis.source_lines import raised_at
from choreo.chassis.transaction.state_store import TableMapping
from choreo.errors import HandlerMisbehaves
from choreo.message.codec import TopicRecord
from choreo.replay.engine.cases import case_of, case_taken
from choreo.replay.engine.in_memory_service import InMemoryService, Row
from choreo.replay.engine.sandbox import no_side_effects
from choreo.replay.engine.walk import Ahead, Walk
from choreo.replay.sources.recording import size_of
from choreo.replay.sources.records import Broken, Cut, Item, JournalEntry, OfRecordsAlone, Source, lacking
from choreo.replay.sources.rows import plain

_AT_ONCE = 200_000
"""Inputs in memory at most, but for those of a single key: for the next so many the stream is read again."""

Tell = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two facts that race."""

    type: str
    id: str
    at: str
    """Where it lies in Kafka."""
    time: str
    """When it was heard."""
    handler: str
    """File and line that take it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """In a decision, a refusal, or a row as it is after a gap, and of them only what differs."""

    what: str
    recorded: Any
    """None: there, nothing of the kind is decided, refused or written."""
    exchanged: Any


@dataclass(frozen=True, slots=True)
class Race:
    """Two facts that a key heard, and that lead to something else where they alone change places."""

    service: str
    key: str
    first: Side
    """It was heard before the other."""
    second: Side
    seed: int
    """Of the shuffle that showed it."""
    differences: tuple[Difference, ...]


@dataclass
class Tally:
    races: list[Race] = field(default_factory=list)
    """The earliest first, and of a key only one."""
    lacks: list[str] = field(default_factory=list)
    """Why of some keys nothing can be said: sentences."""
    counts: Counter[str] = field(default_factory=Counter)
    """By service: keys of which something can change places, gaps in which it can, other orders tried."""

    @property
    def exit_code(self) -> int:
        """0 no order matters, 1 a race, 3 incomplete."""
        return 1 if self.races else 3 if self.lacks else 0


async def shuffle(source: Source, services: Mapping[str, Service[Any]], shuffles: int, tell: Tell) -> Tally:
    """Shuffles what these services heard; the source must have their journals. Seeds are 1 to `shuffles`.

    Raises `SideEffect`.
    """
    tally = Tally()
    for name in services:
        tally.lacks += (await lacking(source, name)).values()
    found = await _survey(source, services, tally, partial(tell, "looking for gaps"))
    groups = list(_groups(found))
    for number, group in enumerate(groups, start=1):
        part = f"part {number} of {len(groups)}"
        gathered = await _gathered(source, services, group, tally, partial(tell, f"reading {part}"))
        for done, (name, key) in enumerate(group, start=1):
            of_key = _OfKey(source.cut, gathered.pop((name, key)))
            walk = Walk(of_key, services[name], key, today=True, compare=False)
            async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
                taken = [ahead async for ahead in inputs if walk.take(ahead)]
            if walk.lacks:
                tally.lacks += walk.lacks
            else:
                _try(_Replay(services[name], key, taken), shuffles, tally)
            tell(f"shuffling {part}", done, len(group))
    tally.races.sort(key=lambda race: race.second.time)
    return tally


# -- what is read ------------------------------------------------------------------------------------

ServiceKey = tuple[str, str]


@dataclass(slots=True)
class _KeyJournal:
    """What is known of a key, as far as its journal was read."""

    latest: JournalEntry
    inputs: int = 0
    movable: bool = False
    """Two facts of different topics lie in one gap."""


_Count = Callable[[int, int], None]
"""Is told how many items were read."""


async def _survey(
    source: Source, services: Collection[str], tally: Tally, tell: _Count
) -> dict[ServiceKey, int]:
    """Returns the keys of which something can change places, and how many inputs they have."""
    seen: dict[ServiceKey, _KeyJournal] = {}
    async for batch in _batches(source, tally, tell):
        for entry in batch:
            if isinstance(entry, JournalEntry) and entry.service in services and entry.outcome in _TAKEN:
                one = seen.setdefault((entry.service, entry.key), _KeyJournal(entry))
                one.movable |= entry.topic != one.latest.topic and _in_one_gap(one.latest, entry)
                one.latest = entry
                one.inputs += 1
    return {of: one.inputs for of, one in seen.items() if one.movable}


_TAKEN = ("applied", "refused")


def _in_one_gap(one: JournalEntry, next: JournalEntry) -> bool:
    """Tells whether both were heard and, as their steps say, nothing was decided in between."""
    return one.kind == next.kind == "fact" and next.step == one.step + 1


def _groups(found: Mapping[ServiceKey, int]) -> Iterator[list[ServiceKey]]:
    """Yields as many keys as may be in memory together."""
    group: list[ServiceKey] = []
    inputs = 0
    for of, more in found.items():
        if group and inputs + more > _AT_ONCE:
            yield group
            group, inputs = [], 0
        group.append(of)
        inputs += more
    if group:
        yield group


async def _gathered(
    source: Source,
    services: Mapping[str, Service[Any]],
    group: Sequence[ServiceKey],
    tally: Tally,
    tell: _Count,
) -> dict[ServiceKey, list[Item]]:
    """Reads the journals of these keys, and the records of the topics that were heard."""
    gathered: dict[ServiceKey, list[Item]] = {of: [] for of in group}
    hearers = {
        topic: [name for name, service in services.items() if owner in service.sources]
        for topic, owner in source.cut.service_of.items()
    }
    async for batch in _batches(source, tally, tell):
        for item in batch:
            if isinstance(item, JournalEntry):
                if (item.service, item.key) in gathered:
                    gathered[item.service, item.key].append(item)
            elif isinstance(item, TopicRecord):
                key = (item.record.key or b"").decode(errors="replace")
                for name in hearers.get(item.topic, ()):
                    if (name, key) in gathered:
                        gathered[name, key].append(item)
    return gathered


async def _batches(source: Source, tally: Tally, tell: _Count) -> AsyncIterator[Sequence[Item]]:
    """Reads to the end, or to where the stream breaks."""
    read = 0
    try:
        async with aclosing(source.batches()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                yield batch
                read += len(batch)
                tell(read, size_of(source))
    except Broken as broken:
        if str(broken) not in tally.lacks:
            tally.lacks.append(str(broken))


@dataclass(frozen=True)
class _OfKey(OfRecordsAlone):
    """A source of what was gathered of one key."""

    cut: Cut
    items: Sequence[Item]

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        yield self.items


# -- what comes of an order --------------------------------------------------------------------------

Gap = tuple[Ahead, ...]
"""Or one thing that was asked."""
Order = tuple[Gap, ...]
Outcome = dict[tuple[int, str], Any]
"""By the number of the gap: what was decided and refused in it, and each row that is another after it."""


class _Replay:
    """Replays one key of one service, as often as needed."""

    def __init__(self, service: Service[Any], key: str, inputs: Sequence[Ahead]) -> None:
        self.service = service
        self.key = key
        self.recorded = tuple(_gaps(inputs))
        self._mappings = {mapping.field: mapping for mapping in service.store.mappings}

    def outcome(self, order: Order) -> Outcome:
        """Returns what comes of an order; a handler that raises ends it. Raises `SideEffect`."""
        in_memory, outcome = InMemoryService(self.service, on_disk=False), Outcome()
        for number, gap in enumerate(order):
            try:
                with no_side_effects():
                    for what, came in self._take(in_memory, gap):
                        outcome[number, what] = came
            except HandlerMisbehaves:
                raise
            except Exception as error:
                outcome[number, "a handler"] = f"raises {error!r} at {raised_at(error)}"
                break
        return outcome

    def _take(self, in_memory: InMemoryService[Any], gap: Gap) -> Iterator[tuple[str, Any]]:
        """Yields what was decided and refused, and then each row that is another than before the gap."""
        now = max(ahead.entry.now for ahead in gap)
        before: dict[Row, Any] = {}
        for ahead in gap:
            taken = in_memory.take(self.key, ahead.taken.input, now)
            step = taken.run()
            if step.refusal is not None and ahead.entry.kind == "command":
                told = {"type": type(step.refusal).__name__, **step.refusal.numbers}
                yield f"{ahead.entry.type} {ahead.entry.id}", told
                continue
            for event in step.events:
                yield f"{event.type} {event.id}", event.data.model_dump(mode="json")
            for mapping in self._mappings.values():
                added, changed = mapping.differences(taken.state, step.state)
                for row in [*added, *(row for _, row in changed)]:
                    name = mapping.name_of(row)
                    before.setdefault((mapping.field, name), in_memory.memory.by_id(mapping, name))
            in_memory.keep(self.key, taken)
        for (of, name), old in before.items():
            mapping = self._mappings[of]
            row = _row_as_dict(mapping, in_memory.memory.by_id(mapping, name))
            if row != _row_as_dict(mapping, old):
                yield f"{mapping.table.name} {name}", row

    def side(self, ahead: Ahead) -> Side:
        """Names the line of evolve, or that of react where evolve leaves the fact alone."""
        entry, taken, decider = ahead.entry, ahead.taken, self.service.decider
        event, after = taken.trail[0]
        evolve = decider.evolve_of(type(event.data))
        if after is taken.state and decider.react:
            handler = case_of(decider.react, event.type)
        else:
            handler = case_taken(evolve, taken.state, event)
        return Side(entry.type, str(entry.id), ahead.at, plain(entry.now), handler)


_STEP = "step"


def _row_as_dict(mapping: TableMapping, row: Any | None) -> dict[str, Any] | None:
    if row is None:
        return None
    names = [column.name for column in mapping.table.columns if column.name != _STEP]
    return {name: _without_steps(getattr(row, name)) for name in names}


def _without_steps(value: Any) -> Any:
    match value:
        case Mapping():
            return {name: _without_steps(one) for name, one in value.items() if name != _STEP}
        case list() | tuple():
            return [_without_steps(one) for one in value]
    return plain(value)


def _gaps(inputs: Sequence[Ahead]) -> Iterator[Gap]:
    gap: list[Ahead] = []
    for ahead in inputs:
        if gap and not _in_one_gap(gap[-1].entry, ahead.entry):
            yield tuple(gap)
            gap = []
        gap.append(ahead)
    yield tuple(gap)


# -- other orders ------------------------------------------------------------------------------------


def _try(replay: _Replay, shuffles: int, tally: Tally) -> None:
    recorded, name = replay.recorded, replay.service.name
    expected = replay.outcome(recorded)
    tried = {_positions(recorded)}
    for seed in range(1, shuffles + 1):
        random = Random(f"{seed} {name} {replay.key}")
        order = tuple(_shuffled(gap, random) for gap in recorded)
        if _positions(order) not in tried:
            tried.add(_positions(order))
            if replay.outcome(order) != expected:
                tally.races.append(_race(replay, order, expected, seed))
                break
    tally.counts[f"{name} keys"] += 1
    tally.counts[f"{name} gaps"] += sum(len({ahead.entry.topic for ahead in gap}) > 1 for gap in recorded)
    tally.counts[f"{name} orders"] += len(tried) - 1


def _positions(order: Order) -> tuple[int, ...]:
    return tuple(ahead.entry.position for gap in order for ahead in gap)


def _shuffled(gap: Gap, random: Random) -> Gap:
    """Returns an order that keeps that of each topic; each such order is as likely as any other."""
    topics = [ahead.entry.topic for ahead in gap]
    of_topic = {topic: deque(ahead for ahead in gap if ahead.entry.topic == topic) for topic in set(topics)}
    random.shuffle(topics)
    return tuple(of_topic[topic].popleft() for topic in topics)


def _race(replay: _Replay, order: Order, expected: Outcome, seed: int) -> Race:
    """From the recorded order to this one neighbours change places, pair by pair. Before one such exchange
    the outcome is the recorded one, and after it another. Found by halving: there may be more such pairs.
    """
    exchanges = _exchanges(replay.recorded, order)
    same, other = 0, len(exchanges)
    while other - same > 1:
        middle = (same + other) // 2
        if replay.outcome(_after(replay.recorded, exchanges[:middle])) == expected:
            same = middle
        else:
            other = middle
    number, place = exchanges[same]
    first, second = _after(replay.recorded, exchanges[:same])[number][place - 1 : place + 1]
    outcome = replay.outcome(_after(replay.recorded, exchanges[:other]))
    return Race(
        replay.service.name,
        replay.key,
        replay.side(first),
        replay.side(second),
        seed,
        tuple(_differences(expected, outcome)),
    )


def _exchanges(recorded: Order, order: Order) -> list[tuple[int, int]]:
    """Returns gap numbers with an index: what is there changes places with what is before it."""
    found = []
    for number, (gap, wanted) in enumerate(zip(recorded, order, strict=True)):
        left = [ahead.entry.position for ahead in gap]
        for at, ahead in enumerate(wanted):
            place = left.index(ahead.entry.position)
            left.pop(place)
            found += [(number, at + back) for back in range(place, 0, -1)]
    return found


def _after(recorded: Order, exchanges: Sequence[tuple[int, int]]) -> Order:
    gaps = [list(gap) for gap in recorded]
    for number, place in exchanges:
        gap = gaps[number]
        gap[place - 1], gap[place] = gap[place], gap[place - 1]
    return tuple(map(tuple, gaps))


def _differences(recorded: Outcome, exchanged: Outcome) -> Iterator[Difference]:
    for at in exchanged | recorded:
        one, other = recorded.get(at), exchanged.get(at)
        if isinstance(one, dict) and isinstance(other, dict):
            names = [name for name in one | other if one.get(name) != other.get(name)]
            one, other = {name: one.get(name) for name in names}, {name: other.get(name) for name in names}
        if one != other:
            yield Difference(at[1], one, other)
