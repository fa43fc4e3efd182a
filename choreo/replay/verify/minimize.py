"""The smallest part of a recording that diverges as the whole does.

Delta debugging: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE Transactions
on Software Engineering 28 (2002), algorithm ddmin. What is left out is whole inputs, each with the record it
heard and those it decided, so that no candidate is refuted for what is missing.

An input that diverges for want of another would be found in nearly any candidate, and would diverge under the
right code as well. So a candidate counts only if the diverging input meets the very state it met in the whole
recording: a decision depends on nothing else, and the right code decides there what was recorded. What a
module remembers is something else, so it is forgotten before each candidate.
"""

from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count, pairwise
from typing import Any, TypeVar
from uuid import UUID

from choreo.chassis.service import Service
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode
from choreo.replay.engine.expressions import state_of
from choreo.replay.engine.in_memory_service import InMemoryService
from choreo.replay.engine.walk import Walk
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import Cut, Item, JournalEntry, OfRecordsAlone, Source, Span
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.forgetting import forgetting
from choreo.replay.verify.verify import verify

T = TypeVar("T")

Tell = Callable[[int, int, int], None]
"""Is told how many candidates were tried, how many more this round has at most, how many parts are left."""


Shows = Callable[[Source], Coroutine[Any, Any, Finding | None]]
"""Returns what a part of a recording shows, if that is what is looked for."""


class NotReproduced(Exception):
    """No part of the recording shows the divergence. The message is a sentence."""


@dataclass
class Input:
    """A line of a journal, and with it what it heard and decided."""

    entry: JournalEntry
    items: dict[int, Item]
    """By their number in the stream."""
    ids: set[UUID] = field(default_factory=set)
    """Of the entry and of what it decided."""


@dataclass(frozen=True)
class ReducedRecording(OfRecordsAlone):
    """A source of some inputs of a recording."""

    cut: Cut
    inputs: Sequence[Input]
    """In the order of the journal."""

    @property
    def items(self) -> list[Item]:
        return [item for _, item in sorted(chain(*(one.items.items() for one in self.inputs)))]

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        yield self.items


@dataclass(frozen=True)
class Minimum:
    reduced: ReducedRecording
    finding: Finding
    of: int
    """How many inputs its service took up of its key, or of all keys where others are needed."""
    tries: int


async def minimize(
    recording: Recording, service: Service[Any], finding: Finding, tell: Tell, shows: Shows | None = None
) -> Minimum:
    """Minimizes a recording. `finding` is what verifying it found of this service.

    `shows` looks for it in a part of the recording; without it the part is verified. Raises `NotReproduced`,
    and `Broken`.
    """
    InMemoryService(service)  # what it takes to read commands is made here, and not in each try
    shows = shows or _diverging(recording, service, finding)
    search = _Search(recording.cut, service, finding, tell, shows)
    own = await _inputs(recording, service.name, finding.key)
    position = next((number for number, one in enumerate(own) if search.is_target(one)), None)
    if position is None:
        raise NotReproduced(f"The journal of {service.name} has no input of which that could be shown alone.")
    for start in (own[: position + 1], own, None):
        # What comes later, and then other keys, are hardly ever needed: those only where a login was free.
        inputs = await _inputs(recording, service.name, None) if start is None else start
        if await search.diverges(inputs):
            return await _smallest(search, inputs, of=max(len(inputs), len(own)))
    raise NotReproduced("The divergence is not there once all that does not concern it is left out.")


async def _smallest(search: "_Search", inputs: Sequence[Input], of: int) -> Minimum:
    target = next(one for one in inputs if search.is_target(one))
    of_key: dict[str, list[Input]] = {}
    for one in inputs:
        if one is not target:
            of_key.setdefault(one.entry.key, []).append(one)

    async def fails(some: Sequence[Input]) -> bool:
        return await search.diverges([*some, target])

    async def keys_fail(keys: Sequence[list[Input]]) -> bool:
        return await fails(list(chain(*keys)))

    keys = await ddmin(list(of_key.values()), keys_fail, search.tell)
    left = await ddmin(list(chain(*keys)), fails, search.tell)
    assert await search.diverges([*left, target]) and search.found
    return Minimum(search.reduced, search.found, of, search.tries)


async def ddmin(
    parts: list[T], fails: Callable[[Sequence[T]], Awaitable[bool]], tell: Callable[[int, int], None]
) -> list[T]:
    """Returns a sublist that fails, and does not without any one of its parts. All of them together fail.

    `tell` hears how many candidates this round has yet at most, and how many parts are left.
    """
    if await fails([]):
        return []
    chunks = 2
    while len(parts) > 1:
        chunks = min(chunks, len(parts))
        edges = [number * len(parts) // chunks for number in range(chunks + 1)]
        pieces = [parts[start:end] for start, end in pairwise(edges)]
        others = [parts[:start] + parts[end:] for start, end in pairwise(edges)]
        for number, candidate in enumerate(pieces + others):
            tell(2 * chunks - number, len(parts))
            if await fails(candidate):
                parts, chunks = candidate, 2 if number < chunks else max(chunks - 1, 2)
                break
        else:
            if chunks == len(parts):
                break
            chunks *= 2
    return parts


class _Search:
    """Tells whether a candidate diverges in the same way, and keeps what was tried."""

    def __init__(self, cut: Cut, service: Service[Any], finding: Finding, tell: Tell, shows: Shows) -> None:
        self.found: Finding | None = None
        """What the latest candidate that diverges shows."""
        self.tries = 0
        self._cut = cut
        self._service = service
        self._finding = finding
        self._tell = tell
        self._shows = shows

    def tell(self, to_come: int, left: int) -> None:
        self._tell(self.tries, to_come, left)

    def is_target(self, one: Input) -> bool:
        return UUID(self._finding.event) in one.ids

    async def diverges(self, inputs: Sequence[Input]) -> bool:
        """Tells whether the one divergence is there, and keeps it."""
        self.tries += 1
        reduced = _reduced(self._cut, self._service.name, inputs)

        async def shown(tell: Callable[..., None]) -> dict[str, Any] | None:
            found = await self._shows(reduced)
            return asdict(found) if found else None

        found = forgetting(shown)
        if found is None:
            return False
        self.reduced, self.found = reduced, Finding.from_dict(found)
        return True


def _diverging(recording: Recording, service: Service[Any], finding: Finding) -> Shows:
    """Looks whether the one divergence is there, nothing else, and nothing is missing."""
    met = forgetting(lambda tell: _met(recording, service, finding))

    async def shows(reduced: Source) -> Finding | None:
        tally = await verify(reduced, {service.name: service})
        findings = [one for one in tally.findings if one.kind != "effect"]
        if not findings or not all(_same(one, finding) for one in findings):
            return None
        return findings[0] if await _met(reduced, service, finding) == met else None

    return shows


def _same(one: Finding, other: Finding) -> bool:
    """Tells whether both are about one input. Whether a step's or the topic's depends on what comes later."""
    return one.kind != "incomplete" and (one.service, one.key, one.event) == (
        other.service,
        other.key,
        other.event,
    )


async def _met(source: Source, service: Service[Any], finding: Finding) -> object:
    """Returns the state that the input meets, as JSON has it; None where today's code does not come to it."""
    walk = Walk(source, service, finding.key, today=True, compare=False)
    async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
        async for ahead in inputs:
            done = walk.take(ahead)
            led_to = [str(event.id) for event in done.events] if done else []
            if finding.event in (str(ahead.entry.id), *led_to):
                return state_of(service, ahead.taken.state)
    return None


def _reduced(cut: Cut, service: str, inputs: Sequence[Input]) -> ReducedRecording:
    """Makes a recording of these inputs. Steps and offsets stay those of the whole."""
    inputs = sorted(inputs, key=lambda one: one.entry.position)
    offsets: dict[TopicPartition, list[int]] = {}
    for one in inputs:
        for item in one.items.values():
            if isinstance(item, TopicRecord):
                offsets.setdefault((item.topic, item.partition), []).append(item.offset)
    spans = {
        place: Span(min(found), min(cut.spans[place].settled, max(found) + 1), max(found) + 1)
        for place, found in offsets.items()
    }
    keys = frozenset(one.entry.key for one in inputs)
    return ReducedRecording(replace(cut, spans=spans, services=(service,), keys=keys, reduced=True), inputs)


async def _inputs(recording: Recording, service: str, key: str | None) -> list[Input]:
    """Returns what the service took up, of one key or of all, in the order of its journal.

    What it parked or dropped had no effect. Raises `Broken`.
    """
    topic = recording.cut.topic_of(service)
    heard: dict[tuple[str | None, int | None, int | None], tuple[int, TopicRecord]] = {}
    decided: list[tuple[int, Item]] = []
    by_key: dict[str, list[Input]] = {}
    numbers = count()
    async for batch in recording.batches():
        for number, item in zip(numbers, batch, strict=False):
            if isinstance(item, JournalEntry):
                if item.service == service and key in (None, item.key) and item.outcome in _TAKEN:
                    by_key.setdefault(item.key, []).append(Input(item, {number: item}, {item.id}))
            elif key is not None and item.record.key != key.encode():
                continue
            elif isinstance(item, TopicRecord) and item.topic != topic:
                heard[item.topic, item.partition, item.offset] = number, item
            elif isinstance(item, TopicRecord) or item.service == service:
                decided.append((number, item))
    steps = {name: [one.entry.step_before for one in inputs] for name, inputs in by_key.items()}
    for number, item in decided:
        assert not isinstance(item, JournalEntry)
        try:
            event = decode(item.record)
        except (UnknownType, Undecodable):
            continue
        # The latest input before it: a refused one, and one that decides nothing, leave the step as it was.
        latest = bisect_left(steps.get(event.key, []), event.sequence) - 1
        if latest >= 0:
            by_key[event.key][latest].items[number] = item
            by_key[event.key][latest].ids.add(event.id)
    inputs = sorted(chain(*by_key.values()), key=lambda one: one.entry.position)
    for one in inputs:
        place = one.entry.topic, one.entry.partition, one.entry.offset
        if place in heard:
            number, record = heard[place]
            one.items[number] = record
    return inputs


_TAKEN = ("applied", "refused")
