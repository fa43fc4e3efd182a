"""What a service decided, as it was recorded, and how what today's code decides differs from it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from choreo.chassis.source_lines import raised_at
from choreo.chassis.transaction.step import Outcome
from choreo.message.codec import Record, TopicRecord, Undecodable, UnknownType, decode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.deciding_lines import decided_at
from choreo.replay.engine.in_memory_service import Taken, refusal_as_dict
from choreo.replay.engine.sandbox import no_side_effects
from choreo.replay.sources.on_disk import OnDisk
from choreo.replay.sources.recording import pack_record, unpack_record
from choreo.replay.sources.records import Item, JournalEntry, sequence_of
from choreo.replay.sources.rows import plain


class NotRecorded(Exception):
    """A fact that was decided is in no record. The message is a sentence."""


@dataclass
class RecordedFacts:
    """A service's own facts, each with the input that led to it.

    A step of a key's journal ends where the next one begins, so both are read before anything is told.
    """

    _records: OnDisk[Record] = field(default_factory=lambda: OnDisk(pack_record, unpack_record))
    """By key and sequence."""
    _highest: dict[str, int] = field(default_factory=dict)
    """By key, the highest sequence of those."""
    _steps: dict[str, deque[int]] = field(default_factory=dict)
    """By key: the step that each input met, in the order of the journal."""

    def add(self, item: Item, service: str, own_topic: str, key: str | None) -> None:
        """Keeps what belongs to this service, and where one is given, to this key."""
        if isinstance(item, JournalEntry):
            if item.service == service and item.outcome == "applied" and key in (None, item.key):
                self._steps.setdefault(item.key, deque()).append(item.step_before)
        elif (item.topic == own_topic) if isinstance(item, TopicRecord) else (item.service == service):
            sequence, of = sequence_of(item.record), (item.record.key or b"").decode(errors="replace")
            if sequence is None or key not in (None, of):
                return
            if sequence > self._highest.get(of, 0):  # and so it was not there before
                self._highest[of] = sequence
                self._records[of, sequence] = item.record
            else:
                self._records.setdefault((of, sequence), item.record)

    def led_to(self, entry: JournalEntry, *, reduced: bool) -> tuple[Event[Fact], ...]:
        """Returns what was decided in the step of this entry. To be asked of each that was applied, in order.

        `reduced`: steps between two entries may have been left out. Raises `NotRecorded`.
        """
        steps = self._steps[entry.key]
        steps.popleft()
        last = steps[0] if steps else None
        facts: list[Event[Fact]] = []
        sequence = entry.step + 1
        while last is None or sequence <= last:
            record = self._records.get((entry.key, sequence))
            if record is None:
                if last is None or reduced:
                    break
                raise NotRecorded(f"step {sequence} of its key, which followed from it, is on no topic")
            try:
                fact = decode(record).applied_as(sequence)
            except (UnknownType, Undecodable) as error:
                raise NotRecorded(f"step {sequence} of its key cannot be read: {error}") from None
            if last is None and fact.time != entry.now:
                break  # it is another input's, younger than the journal that was read
            facts.append(fact)
            sequence += 1
        return tuple(facts)


@dataclass(frozen=True, slots=True)
class Differs:
    """A step in which today's code decides otherwise than was recorded."""

    entry: JournalEntry
    recorded: str
    today: str
    handler: str = ""
    """File and line where today's code decides."""

    @property
    def says(self) -> str:
        entry = self.entry
        at = f" at {self.handler}" if self.handler else ""
        return (
            f"today's code differs from {entry.type} {entry.id} on: {self.recorded} recorded, "
            f"{self.today} today{at}"
        )


def differing(
    entry: JournalEntry, taken: Taken[Any], facts: Sequence[Event[Fact]], today: Outcome[Any] | Exception
) -> Differs | None:
    """Compares what was recorded of a step with what today's code makes of it."""
    if isinstance(today, Exception):
        return Differs(entry, _told(facts, entry.refusal), f"{today!r} is raised", raised_at(today) or "")
    refusal = refusal_as_dict(today)
    if refusal != entry.refusal:
        told = _told(facts, entry.refusal), _told(today.events, refusal)
        return Differs(entry, *told, _line(taken, None))
    for was, is_ in zip_longest(facts, today.events):
        if was is None or is_ is None or was.type != is_.type:
            told = was.type if was else "no further fact", is_.type if is_ else "none"
        elif not is_same(was, is_):
            told = _differences(was, is_)
        else:
            continue
        return Differs(entry, *told, _line(taken, is_.data if is_ else None))
    return None


def _line(taken: Taken[Any], fact: Fact | None) -> str:
    with no_side_effects():
        return decided_at(taken, fact) or ""


def is_same(one: Event[Fact], other: Event[Fact]) -> bool:
    """Tells whether both are the same record, however many versions ago it was written."""
    return (
        one.id == other.id
        and one.time == other.time
        and _is_same_fact(one.data, other.data)
        and one.causation_id == other.causation_id
        and one.correlation_id == other.correlation_id
        and one.trace_id == other.trace_id
    )


def _is_same_fact(one: Fact, other: Fact) -> bool:
    """What `==` asks of facts, which have nothing but their fields."""
    return type(one) is type(other) and one.__dict__ == other.__dict__


def _told(facts: Sequence[Event[Fact]], refusal: dict[str, Any] | None) -> str:
    if refusal is not None:
        numbers = ", ".join(f"{name} {value}" for name, value in refusal.items() if name != "type")
        return f"{refusal['type']} ({numbers})" if numbers else str(refusal["type"])
    return " and ".join(fact.type for fact in facts) or "nothing"


def _differences(was: Event[Fact], is_: Event[Fact]) -> tuple[str, str]:
    """Returns what differs of two facts of one type: of their data, or else of what surrounds it."""
    before, after = was.data.model_dump(mode="json"), is_.data.model_dump(mode="json")
    if before == after:
        before, after = _envelope(was), _envelope(is_)
    names = [name for name in before if before[name] != after.get(name)]
    told, today = (", ".join(f"{name} {one.get(name)}" for name in names) for one in (before, after))
    return f"{was.type} {told}", today


def _envelope(event: Event[Fact]) -> dict[str, Any]:
    names = "id", "time", "causation_id", "correlation_id", "trace_id"
    return {name: plain(getattr(event, name)) for name in names}
