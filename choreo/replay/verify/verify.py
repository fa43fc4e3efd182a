"""Holds what was recorded against today's code: every step, row and record; docs/replay.md says how.

Read it in this order: here the stream is handed out, `Verifier` replays a service's journal,
`DecisionComparison` holds its decisions against its topic, `compare_rows` its rows against the tables.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from choreo.chassis.registry import descriptions
from choreo.chassis.service import Service
from choreo.chassis.transaction.positions import TopicPartition
from choreo.collector import no_collector
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode
from choreo.replay.engine.sandbox import SideEffect
from choreo.replay.sources.recording import narrowed
from choreo.replay.sources.records import (
    PASSED_OVER,
    Broken,
    Cut,
    Item,
    JournalEntry,
    Source,
    lacking,
)
from choreo.replay.verify.compare_rows import compare_rows
from choreo.replay.verify.decisions import Published, effect_beside_steps
from choreo.replay.verify.findings import Finding, ServiceTally, Tally
from choreo.replay.verify.verifier import Verifier


async def verify(
    source: Source,
    services: Mapping[str, Service[Any]],
    *,
    sample: float = 1.0,
    progress: Callable[[int], None] | None = None,
    second: "Second | None" = None,
) -> Tally:
    """Verifies these services; the source must have their journals. `sample` is a share of the keys.

    `second`: the same once more, where all that must not matter is otherwise.
    """
    cut = source.cut
    verifiers = {
        name: Verifier(service, cut, sample, reads=second is not None) for name, service in services.items()
    }
    stream = Stream(cut, verifiers)
    whole = Tally()
    for name, verifier in verifiers.items():
        verifier.add_lacking(await lacking(source, name))
    read = 0
    broken = ""

    def going_on() -> None:
        if progress:
            progress(read)

    try:
        with no_collector():
            async for batch in stream.of(source).batches():
                for part in second.parts(batch, read) if second else (batch,):
                    stream.take(_other_keys_first(part) if second else part)
                    read += len(part)
                    if second and read in second.places:
                        for name, service in second.import_anew().items():
                            verifiers[name].go_on_with(service)
                going_on()
    except Broken as error:
        broken = str(error)
    whole.findings += stream.finish(broken)
    for name, verifier in verifiers.items():
        tally = verifier.tally
        if not broken:
            verifier.finish(stream.gaps_of(name))
            try:
                await compare_rows(source, verifier.in_memory, tally, going_on)
            except SideEffect as error:  # at a row's property
                tally.has_effect(effect_beside_steps(name, error.effect))
        whole.findings += tally.findings
        whole.counts.update({f"{name} {what}": n for what, n in tally.counts.items()})
    whole.findings.sort(key=lambda finding: finding.time)
    whole.counts["items"] = read
    return whole


@dataclass(frozen=True)
class Second:
    """How a second replay differs: keys come in another order, and services are imported anew on the way."""

    places: Collection[int]
    """After so many items."""
    import_anew: Callable[[], Mapping[str, Service[Any]]]

    def parts(self, items: Sequence[Item], read: int) -> Iterator[Sequence[Item]]:
        """Cuts what follows on so many items at those places."""
        cuts = [place - read for place in sorted(self.places) if 0 < place - read < len(items)]
        for begin, end in pairwise([0, *cuts, len(items)]):
            yield items[begin:end]


def _other_keys_first(items: Sequence[Item]) -> list[Item]:
    """Changes the order of keys, and nothing that a service could have a right to.

    Whether a login is free depends on other keys, so what knows of such things stays as it is.
    """
    records = [item for item in items if not isinstance(item, JournalEntry)]
    entries = [item for item in items if isinstance(item, JournalEntry)]
    kept = {name for name, service in descriptions().items() if service.needs_all_keys}
    return [
        *records,
        *(entry for entry in entries if entry.service in kept),
        *sorted(
            (entry for entry in entries if entry.service not in kept),
            key=lambda entry: entry.key,
            reverse=True,
        ),
    ]


def _is_asked_by(tallies: Sequence[ServiceTally], key: str) -> bool:
    return any(tally.is_asked(key) for tally in tallies)


class Stream:
    """Hands every item to whom it concerns, and sees that no offset is missing."""

    def __init__(self, cut: Cut, verifiers: Mapping[str, Verifier]) -> None:
        self._cut = cut
        self._verifiers = verifiers
        self._next: dict[TopicPartition, int] = dict.fromkeys(cut.spans, 0)
        self._settled = {place: span.settled for place, span in cut.spans.items()}
        self._owners = {topic: verifiers.get(service) for topic, service in cut.service_of.items()}
        self._hearers: dict[str, list[Verifier]] = {
            topic: [verifier for verifier in verifiers.values() if service in verifier.sources]
            for topic, service in cut.service_of.items()
        }
        self.findings: list[Finding] = []

    def of(self, source: Source) -> Source:
        """Returns it, or where something is asked about a part of it, so that no more of it is looked at."""
        tallies = {name: [verifier.tally] for name, verifier in self._verifiers.items()}
        everything = all(tally.sample >= 1 and tally.keys is None for (tally,) in tallies.values())
        if everything and tallies.keys() >= set(self._cut.services):
            return source
        wanted = {name: tallies.get(name, []) for name in self._cut.services}
        for topic, owner in self._owners.items():
            asking = [owner, *self._hearers[topic]]
            wanted[topic] = [verifier.tally for verifier in asking if verifier]
        return narrowed(source, {name: partial(_is_asked_by, asking) for name, asking in wanted.items()})

    def take(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, TopicRecord):
                self._take_record(item)
            elif verifier := self._verifiers.get(item.service):
                if isinstance(item, JournalEntry):
                    verifier.take(item)
                elif item.record is not PASSED_OVER:
                    verifier.decisions.add_unpublished(item)

    def _take_record(self, record: TopicRecord) -> None:
        place = record.topic, record.partition
        expected = self._next.get(place)
        if expected is None:
            return
        if record.offset < expected or (self._cut.has_every_offset and record.begin > expected):
            found = record.offset if record.offset < expected else record.begin
            self._gap(record.topic, record.partition, expected, found)
        self._next[place] = record.offset + 1
        owner, hearers = self._owners[record.topic], self._hearers[record.topic]
        if record.record is PASSED_OVER or (owner is None and not hearers):
            return
        try:
            event = decode(record.record)
        except (UnknownType, Undecodable) as error:
            if owner is not None:
                owner.decisions.add_undecodable(record, error)
            return
        for hearer in hearers:
            if type(event.data) in hearer.consumes:
                hearer.add_heard(record, event)
        if owner is not None:
            published = Published(event, record.at, record.offset < self._settled[place])
            owner.decisions.add_published(published, record.record.value)

    def finish(self, broken: str) -> list[Finding]:
        if broken:
            return [*self.findings, Finding("incomplete", "", broken)]
        if self._cut.has_every_offset:
            for (topic, partition), span in self._cut.spans.items():
                if self._next[topic, partition] < span.end:
                    self._gap(topic, partition, self._next[topic, partition], span.end)
        return self.findings

    def gaps_of(self, service: str) -> bool:
        return any(finding.service == service for finding in self.findings)

    def _gap(self, topic: str, partition: int, expected: int, found: int) -> None:
        service = self._cut.service_of[topic]
        if found < expected:
            says = (
                f"{topic}[{partition}] has offset {found} after offset {expected - 1}: records changed places"
            )
        else:
            says = f"{topic}[{partition}] lacks offsets {expected} to {found - 1}"
        self.findings.append(
            Finding("incomplete", service, says, at=f"{topic}[{partition}]@{min(expected, found)}")
        )
