"""Holds what was recorded against today's code: every step, row and record; docs/replay.md says how."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.chassis.service import Service
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import Undecodable, UnknownType, decode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.collector import no_collector
from choreo.replay.sources.records import Broken, Cut, Item, JournalEntry, Source, TopicRecord, lacking
from choreo.replay.verify.compare_rows import compare_rows
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.verifier import Lying, Verifier


@dataclass
class Tally:
    """What a service's verification has looked at."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


async def verify(
    source: Source,
    services: Mapping[str, Service[Any]],
    *,
    sample: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Of these services, whose journals must be in the source. `sample` is a share of the keys."""
    cut = source.cut
    verifiers = {name: Verifier(service, cut, sample) for name, service in services.items()}
    log = _Log(cut, verifiers)
    whole = Tally()
    for name, verifier in verifiers.items():
        verifier.lacks(await lacking(source, name))
    read = 0
    broken = ""
    try:
        with no_collector():
            async for batch in source.batches():
                log.take(batch)
                read += len(batch)
                if progress:
                    progress(read)
    except Broken as error:
        broken = str(error)
    whole.findings += log.finish(broken)
    for verifier in verifiers.values():
        if not broken:
            verifier.finish(log.gaps_of(verifier.name))
            await compare_rows(source, verifier)
        whole.findings += verifier.findings
        whole.counts.update({f"{verifier.name} {what}": n for what, n in verifier.counts.items()})
    whole.findings.sort(key=lambda finding: finding.time)
    whole.counts["items"] = read
    return whole


class _Log:
    """Hands every item to whom it concerns, and sees that no offset is missing."""

    def __init__(self, cut: Cut, verifiers: Mapping[str, Verifier]) -> None:
        self._cut = cut
        self._verifiers = verifiers
        self._next: dict[TopicPartition, int] = dict.fromkeys(cut.spans, 0)
        self._settled = {place: span.settled for place, span in cut.spans.items()}
        self._owners = {topic: verifiers.get(service) for topic, service in cut.service_of.items()}
        self._hearers: dict[str, list[Verifier]] = {
            topic: [verifier for verifier in verifiers.values() if verifier.hears_from(service)]
            for topic, service in cut.service_of.items()
        }
        self.findings: list[Finding] = []

    def take(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, TopicRecord):
                self._take_record(item)
            elif isinstance(item, JournalEntry):
                if verifier := self._verifiers.get(item.service):
                    verifier.take(item)
            elif verifier := self._verifiers.get(item.service):
                verifier.take_unpublished(item)

    def _take_record(self, record: TopicRecord) -> None:
        place = record.topic, record.partition
        expected = self._next.get(place)
        if expected is None:
            return
        if record.offset < expected or (self._cut.is_whole and record.begin > expected):
            found = record.offset if record.offset < expected else record.begin
            self._gap(record.topic, record.partition, expected, found)
        self._next[place] = record.offset + 1
        owner, hearers = self._owners[record.topic], self._hearers[record.topic]
        if owner is None and not hearers:
            return
        event: Event[Fact] | None = None
        error = ""
        try:
            event = decode(record.record)
        except (UnknownType, Undecodable) as undecodable:
            error = str(undecodable)
        if event is not None:
            for hearer in hearers:
                if type(event.data) in hearer.hears:
                    hearer.hold(record, event)
        if owner is not None:
            if event is None:
                owner.alien(record, error)
            else:
                owner.lies(Lying(event, record.at, record.offset < self._settled[place]), record.record.value)

    def finish(self, broken: str) -> list[Finding]:
        if broken:
            return [*self.findings, Finding("incomplete", "", broken)]
        if self._cut.is_whole:
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
