"""One service's journal, replayed by today's code: what each input leads to, is compared as it comes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from choreo.chassis.service import Service
from choreo.chassis.source_lines import raised_through
from choreo.chassis.transaction.step import Outcome
from choreo.message.codec import TopicRecord
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.deciding_lines import decided_through, path_of
from choreo.replay.engine.hidden_inputs import Sample
from choreo.replay.engine.in_memory_service import InMemoryService, Put, refusal_as_dict
from choreo.replay.engine.row_digests import digest_of_facts, digest_of_rows, first_otherwise, wrote_in
from choreo.replay.engine.sandbox import SideEffect, take
from choreo.replay.engine.walk import Ahead
from choreo.replay.sources.records import Cut, JournalEntry, Wrote
from choreo.replay.verify.decisions import DecisionComparison, of_effect, of_entry, of_row
from choreo.replay.verify.findings import Finding, ServiceTally

_NO_REFUSAL = {"type": "no refusal"}
"""What was decided instead is told as facts, if it is asked for."""


class Verifier:
    """Is handed what one service heard, and its journal; hands what is decided to the comparison."""

    def __init__(
        self, service: Service[Any], cut: Cut, sample: float, *, reads: bool = False, digests: bool = False
    ) -> None:
        """`reads`: where a handler reads clock, chance or environment is found, too. `digests`: of what each
        step makes of rows, one is made."""
        self.in_memory = InMemoryService(service)
        self.consumes = frozenset(service.consumes)
        self.sources = service.sources
        self.tally = ServiceTally(
            service=service.name,
            sample=1.0 if service.needs_all_keys else sample,
            keys=cut.chosen_of(service.name),
        )
        self.decisions = DecisionComparison(self.tally)
        self.wrote: Wrote | None = None
        """The digest of the latest input, where it has one."""
        self._name = service.name
        self._reduced = cut.reduced
        self._columns = cut.columns.get(service.name, {})
        self._digests = digests
        self._decided_otherwise: set[str] = set()
        """Keys of which today's code does not decide what that decided which made the digests."""
        self._sample = Sample() if reads else None
        self._heard: dict[tuple[str | None, int | None, int | None], Event[Fact]] = {}
        """Events that no entry has asked for yet, by topic, partition and offset."""

    def go_on_with(self, service: Service[Any]) -> None:
        """Hands its rows to the same service, imported anew: what it remembered beside them is gone."""
        self.in_memory = self.in_memory.afresh(service)

    def add_lacking(self, keys: Mapping[str, str]) -> None:
        """Notes keys of which the journal lacks something, with the sentence that says so."""
        for key in filter(self.tally.includes, keys):
            self.tally.diverges(Finding("incomplete", self._name, keys[key], key))

    def add_heard(self, record: TopicRecord, event: Event[Fact]) -> None:
        if self.tally.includes(event.key):
            self._heard[record.topic, record.partition, record.offset] = event

    def take(self, entry: JournalEntry) -> None:
        """Replays the next entry of the journal."""
        self.wrote = None
        if not self.tally.includes(entry.key):
            return
        self.tally.counts["inputs"] += 1
        event = None
        if entry.kind == "fact":
            event = self._heard.pop((entry.topic, entry.partition, entry.offset), None)
            if entry.outcome != "applied":
                self.tally.counts[entry.outcome] += 1
                return
            if event is None or event.id != entry.id:
                says = f"what {self._name} heard at {entry.at} is not there: {entry.type} {entry.id}"
                self.tally.diverges(of_entry("incomplete", entry, says))
                return
        try:
            input = event or self.in_memory.command(entry.type, entry.command or {})
        except (LookupError, ValueError) as error:
            says = f"today's code knows no such command: {entry.type} {entry.id}: {error}"
            self.tally.diverges(of_entry("step", entry, says))
            return
        if self._reduced:
            self.in_memory.skip(entry.key, entry.step_before)
        taken = self.in_memory.take(entry.key, input, entry.now)
        if taken.sequence != entry.step_before:
            self.decisions.add_contradiction(entry)
            return
        kind = entry.type, entry.outcome, (entry.refusal or {}).get("type")
        ran = take(taken, reads=self._sample is not None and self._sample.takes(kind))
        for effect in ran.effects:
            self.tally.has_effect(of_effect(entry, effect))
        if isinstance(ran.result, SideEffect):
            self.tally.excluded_keys.add(entry.key)  # nobody knows what would have come of it
        elif isinstance(ran.result, Exception):
            says = f"{entry.type} {entry.id} raises {type(ran.result).__name__}: {ran.result}"
            lines, got = raised_through(ran.result), repr(ran.result)
            self.tally.diverges(replace(of_entry("step", entry, says, lines, got=got), path=path_of(taken)))
        else:
            self._keep(Ahead(entry, taken), ran.result)

    def _keep(self, input: Ahead, outcome: Outcome[Any]) -> None:
        entry = input.entry
        self.tally.counts["steps"] += 1
        self.tally.counts["decisions"] += len(outcome.events)
        self.decisions.add_input(input)
        refusal = refusal_as_dict(outcome)
        if refusal != entry.refusal:
            says = f"{entry.type} {entry.id} is answered differently"
            lines = decided_through(input.taken, None)
            was, is_ = entry.refusal or _NO_REFUSAL, refusal or _NO_REFUSAL
            finding = of_entry("step", entry, says, lines, expected=was, got=is_)
            self.tally.diverges(replace(finding, path=path_of(input.taken)))
            return
        if entry.outcome != "refused":
            puts = self.in_memory.keep(entry.key, input.taken)
            if self._digests:
                self.wrote = wrote_in(input.taken, puts)
            self.decisions.add_decided(input, outcome.events)
            if entry.wrote is not None and self.tally.includes(entry.key):
                self._compare_rows(input, entry.wrote, puts)

    def _compare_rows(self, input: Ahead, wrote: Wrote, puts: Sequence[Put[Any]]) -> None:
        """Compares rows up to where the decisions differ: that is told, or will be once they are read."""
        entry, taken = input.entry, input.taken
        self.tally.counts["digests"] += 1
        if entry.key in self._decided_otherwise or digest_of_rows(puts) == wrote.rows:
            return
        if digest_of_facts(taken) != wrote.facts:
            self._decided_otherwise.add(entry.key)
        elif found := first_otherwise(wrote, taken, puts, self._columns):
            self.tally.diverges(of_row(entry, found))

    def finish(self, gaps: bool) -> None:
        """Settles what could not be told before everything was read. `gaps`: its topic has some."""
        self.decisions.finish(self.in_memory.sequences, gaps)
