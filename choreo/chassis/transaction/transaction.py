"""What happens between BEGIN and COMMIT: lock, look, decide, write; in this order.

Locks and looks are statements of one round trip, and so are writes and the commit.

Nothing here begins or ends a transaction; that, and trying again, is its caller's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import structlog

from choreo.chassis.database.round_trip import Later
from choreo.chassis.transaction import journal, outbox, parked
from choreo.chassis.transaction.inputs import (
    Asked,
    Decided,
    Failed,
    Heard,
    Input,
    KeyReused,
    PositionGap,
    Reply,
    SideWrite,
)
from choreo.chassis.transaction.positions import Expected, Reached, TopicPartition
from choreo.chassis.transaction.step import Decider, hear, obey
from choreo.chassis.transaction.store import StoreTransaction
from choreo.message.envelope import Event
from choreo.message.fact import Fact

S = TypeVar("S")

log = structlog.get_logger()


@dataclass
class Work(Generic[S]):
    """What one transaction writes, and whom it answers once it is committed."""

    now: datetime
    before: dict[str, S]
    sequences: dict[str, int]
    seen: dict[Any, journal.SeenInput] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    expected: dict[TopicPartition, Expected] = field(default_factory=dict)
    after: dict[str, S] = field(default_factory=dict)
    advanced: dict[TopicPartition, Reached] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    entries: list[journal.JournalRow] = field(default_factory=list)
    unpublished: list[outbox.OutboxRow] = field(default_factory=list)
    to_park: list[parked.Parked] = field(default_factory=list)
    side_writes: list[tuple[SideWrite, Decided]] = field(default_factory=list)
    answers: list[tuple[Input, Reply | Exception | None]] = field(default_factory=list)
    commands: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """By type and outcome; likewise `heard`. Counted for the metrics, once all is committed."""
    heard: Counter[tuple[str, ...]] = field(default_factory=Counter)
    decided: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.after = dict(self.before)

    @property
    def writes(self) -> bool:
        return bool(self.entries or self.advanced)


class Transaction(Generic[S]):
    """How one service takes inputs. Holds nothing between two transactions."""

    def __init__(
        self,
        decider: Decider[S],
        *,
        partition_of: Callable[[str], int],
        clock: Callable[[], datetime],
    ) -> None:
        self._decider = decider
        self._partition_of = partition_of
        self._clock = clock

    async def lock_and_load(self, store: StoreTransaction[S], batch: Sequence[Input]) -> Work[S]:
        """Locks first and looks afterwards: one statement for both would look at what was before its wait."""
        places = {input.place for input in batch if isinstance(input, Heard)}
        inputs = [input for input in batch if not isinstance(input, Heard) or input.concerns]
        expected = store.lock_positions(sorted(places))
        sequences = store.lock_keys(sorted({key for input in inputs for key in input.keys}))
        before = self._load(store, inputs)
        seen = store.seen([input.id for input in inputs])
        blocked = store.blocked({input.key for input in inputs if isinstance(input, Heard)})
        await store.send()
        return Work(
            now=self._clock(),
            before=before(),
            sequences=sequences(),
            seen=seen(),
            blocked=blocked(),
            expected=expected(),
        )

    async def load_key(self, store: StoreTransaction[S], heard: Heard, sequence: int) -> Work[S]:
        """For one fact whose key the caller has locked."""
        before = self._load(store, [heard])
        await store.send()
        return Work(now=self._clock(), before=before(), sequences={heard.key: sequence})

    def _load(self, store: StoreTransaction[S], inputs: Sequence[Input]) -> Later[dict[str, S]]:
        wanted: dict[str, list[object]] = {}
        for input in inputs:
            wanted.setdefault(input.key, []).append(input.content)
        return store.load(wanted) if wanted else dict

    def take(self, work: Work[S], input: Input) -> None:
        """Decides what becomes of this input, and what is to be written for it."""
        match input:
            case Heard():
                self._take_heard(work, input)
            case Asked():
                self._take_asked(work, input)

    def _take_heard(self, work: Work[S], heard: Heard) -> None:
        place = heard.place
        expected = work.expected.get(place)
        fetched_from = heard.offset if heard.fetched_from is None else heard.fetched_from
        if expected is None or fetched_from > expected.next_offset:
            gap = (
                f"{heard.topic}[{heard.partition}]: got offset {heard.offset}, next is "
                f"{expected.next_offset if expected else None}, and it was read from {fetched_from} on"
            )
            work.answers.append((heard, PositionGap(gap)))
            return
        if not _matches(heard, fetched_from, expected):
            other = f"{heard.topic}[{heard.partition}] is another log at {heard.offset} than was read"
            work.answers.append((heard, PositionGap(other)))
            del work.expected[place]  # nor is what comes behind it the next
            return
        work.answers.append((heard, None))
        if heard.offset < expected.next_offset:
            _count(work, heard, "stale")
            return
        work.expected[place] = Expected(heard.offset + 1, heard.leader_epoch)
        before = work.advanced.get(place)
        if heard.is_marker:
            last = before or Reached(0, -1, -1, heard.record, -1)
            work.advanced[place] = last._replace(next_offset=heard.offset + 1, end_epoch=heard.leader_epoch)
            return
        epoch = heard.leader_epoch
        work.advanced[place] = Reached(heard.offset + 1, heard.offset, epoch, heard.record, epoch)
        if not heard.concerns:
            _count(work, heard, "skipped")
        elif heard.id in work.seen:
            _count(work, heard, "duplicate")
        elif heard.key in work.blocked:
            self._park(work, heard, "queued", "queued behind an earlier event of its key")
        elif heard.event is None or heard.rejected:
            self._park(
                work,
                heard,
                "database" if heard.rejected else "undecodable",
                heard.rejected or heard.error or "",
            )
        else:
            try:
                self.apply(work, heard, heard.event)
            except Exception as error:
                self._park(work, heard, "handler", error)

    def apply(self, work: Work[S], heard: Heard, event: Event[Fact]) -> tuple[Event[Fact], ...]:
        """What follows from it. Raises what a handler raises, and then nothing of it is in `work`."""
        number = work.sequences[heard.key]
        step = hear(self._decider, work.after[heard.key], event, work.now, number)
        unpublished = [outbox.row_of(own, self._partition_of(own.key)) for own in step.events]
        entry = journal.row_of(heard, step=number + 1, now=work.now, outcome="applied", refusal=step.refusal)
        self._record(work, heard, entry)
        work.after[heard.key] = step.state
        work.sequences[heard.key] = work.moved[heard.key] = step.sequence
        work.unpublished += unpublished
        for own in step.events:
            work.decided[own.type,] += 1
        return step.events

    def _take_asked(self, work: Work[S], asked: Asked) -> None:
        before = work.seen.get(asked.id)
        if before is not None:
            _count(work, asked, "duplicate")
            same = before.fingerprint == asked.fingerprint
            work.answers.append((asked, before.reply if same else KeyReused()))
            return
        number = work.sequences[asked.key]
        try:
            step = obey(self._decider, work.after[asked.key], asked.command, work.now, number)
            unpublished = [outbox.row_of(event, self._partition_of(event.key)) for event in step.events]
            decided = Decided(step.state, step.events, step.refusal)
            reply = asked.respond(decided) if asked.respond else None
        except Exception as error:
            log.exception("a handler raised", command=type(asked.command).__name__, id=str(asked.id))
            _count(work, asked, "failed")
            work.answers.append((asked, Failed(repr(error))))
            return
        work.answers.append((asked, reply))
        outcome = "refused" if step.refusal else "applied"
        if step.refusal and not step.refusal.remembered:
            _count(work, asked, outcome)
            return
        self._record(
            work,
            asked,
            journal.row_of(
                asked, step=number, now=work.now, outcome=outcome, refusal=step.refusal, reply=reply
            ),
        )
        if step.refusal:
            return
        if step.events:
            work.after[asked.key] = step.state
            work.sequences[asked.key] = work.moved[asked.key] = step.sequence
            work.unpublished += unpublished
            for event in step.events:
                work.decided[event.type,] += 1
        if asked.side_write:
            work.side_writes.append((asked.side_write, decided))

    def _park(self, work: Work[S], heard: Heard, reason: str, error: BaseException | str) -> None:
        row = parked.park(heard, reason, error, work.now)
        log.warning(
            "parked",
            event_id=str(row.id),
            key=row.key,
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
            reason=reason,
            error=row.error,
            place=row.place,
        )
        work.to_park.append(row)
        work.blocked.add(heard.key)
        number = work.sequences[heard.key]
        self._record(work, heard, journal.row_of(heard, step=number, now=work.now, outcome="parked"))

    def _record(self, work: Work[S], input: Input, entry: journal.JournalRow) -> None:
        """The same input later in this batch is a repeat."""
        _count(work, input, entry.outcome)
        log.debug(entry.outcome, id=entry.id, type=entry.type, key=entry.key, flow=entry.correlation_id)
        work.entries.append(entry)
        work.seen[input.id] = journal.SeenInput(
            entry.id,
            entry.outcome,
            entry.fingerprint,
            entry.answer_status,
            entry.answer_body,
            entry.answer_headers,
        )

    async def write(self, store: StoreTransaction[S], work: Work[S]) -> None:
        """What is written is sent with the commit."""
        store.save(work.before, work.after)
        store.add_to_journal(work.entries)
        store.add_to_outbox(work.unpublished)
        store.park(work.to_park)
        store.advance_keys(work.moved)
        store.advance_positions(work.advanced)
        for side_write, decided in work.side_writes:
            await store.write_beside(side_write, decided)


def _matches(heard: Heard, fetched_from: int, read: Expected) -> bool:
    """Whether it can be of the log that was read so far, as Raft asks for the term of the entry before.

    Else that was cut meanwhile, and somebody who held the partition before has written what he had read of it
    until then. Whoever holds it now has compared an earlier position with the log. What one leader has
    appended is of one log; with what a newer one has, what lies before it has to be what was read.
    """
    if -1 in (heard.leader_epoch, read.leader_epoch) or heard.leader_epoch == read.leader_epoch:
        return True
    if heard.offset < read.next_offset:
        return heard.leader_epoch < read.leader_epoch
    is_known = fetched_from == read.next_offset and heard.epoch_before == read.leader_epoch
    return is_known and heard.leader_epoch > read.leader_epoch


def _count(work: Work[S], input: Input, outcome: str) -> None:
    match input:
        case Asked():
            work.commands[type(input.command).__name__, outcome] += 1
        case Heard():
            work.heard[input.event.type if input.event else "other", outcome] += 1
