"""`choreo minimize --expect`: the inputs that lead to what should not be, and a test that says what should.

A part of the recording will do if today's code violates the expectation there with the same fact, or, if it
does not, decides it as in the whole. What is expected of an input has to meet the same state: without what it
needs, the right code would not do what is expected either. Inputs of other keys are among them only where it
takes those, as where a module remembers what it was asked.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import chain
from typing import Any
from uuid import UUID

from choreo.chassis.registry import services
from choreo.chassis.service import Service
from choreo.errors import Incomplete, UsageError
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.replay.engine.expressions import BadExpression, names_at, state_of
from choreo.replay.engine.walk import Walk
from choreo.replay.history.expectations import Expectation, Judged
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import JournalEntry, Source
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.forgetting import forgetting
from choreo.replay.verify.minimize import Minimum, minimize

_TEST = '''\
"""{about}.

Written by `choreo minimize --expect`. It asserts what *should be*, and not what was recorded: it fails as
long as the code does otherwise.
"""

import asyncio
from pathlib import Path

from choreo.replay.history.expectations import violations
from choreo.replay.sources.recording import Recording
{imports}
RECORDING = Path(__file__).with_suffix(".ndjson")
EXPECTED = {expected!r}


def test_{name}_is_as_expected() -> None:
    assert asyncio.run(violations(Recording(RECORDING), EXPECTED)) == []
{steps}'''
_STEPS = """

def test_{name}_in_words() -> None:
    {line}
"""


@dataclass(frozen=True)
class Expected:
    """A violated expectation, and the fewest inputs that lead to it."""

    minimum: Minimum
    expectation: Expectation
    judged: Judged
    today: bool
    """Today's code violates it, too; else only what was recorded does."""
    words: "Words | str"
    """The steps, or why there are none."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, beside what is told of the smallest recording."""
        line, why = (self.words.line, None) if isinstance(self.words, Words) else (None, self.words)
        told = {"expected": self.expectation.text, "violated_today": self.today}
        return told | {"words": line, "not_in_words": why}

    def test(self) -> str:
        """Writes a test, which needs the recording beside it."""
        name = _snake(f"{self.minimum.finding.service}_{self.judged.type}")
        words = self.words if isinstance(self.words, Words) else None
        return _TEST.format(
            about=f"{self.judged.type} {self.judged.id} in {self.minimum.finding.service}",
            imports=f"from {words.module} import {', '.join(sorted(words.used))}\n" if words else "",
            expected=self.expectation.text,
            name=name,
            steps=_STEPS.format(name=name, line=words.line) if words else "",
        )


@dataclass(frozen=True)
class Words:
    module: str
    used: frozenset[str]
    line: str


async def expected(
    recording: Recording, text: str, name: str | None, words: str, tell: Callable[[int, int, int], None]
) -> Expected | None:
    """Returns None where all is as expected. Raises `Incomplete`, `NotReproduced` and `Broken`."""
    try:
        expectation = Expectation(text)
    except BadExpression as wrong:
        raise UsageError(str(wrong)) from None
    service = _service(recording, expectation.type, name)
    found = today = forgetting(lambda tell: _first(recording, service, expectation, today=True))
    found = found or forgetting(lambda tell: _first(recording, service, expectation, today=False))
    if found is None:
        return None
    violated = Judged(**found)
    whole = forgetting(lambda tell: _again(recording, service, expectation, violated))

    async def shows(reduced: Source) -> Finding | None:
        again = await _again(reduced, service, expectation, violated)
        if again is None or whole is None or not _is_same(again, whole, today=today is not None):
            return None
        return _finding(_judged(again) or violated, expectation, service.name)

    minimum = await minimize(recording, service, _finding(violated, expectation, service.name), tell, shows)
    again = forgetting(lambda tell: _again(minimum.reduced, service, expectation, violated))
    judged = _judged(again) or violated
    steps = await _in_words(minimum.reduced, service, judged, words)
    return Expected(minimum, expectation, judged, today is not None, steps)


def not_looked_at(recording: Recording, text: str, name: str | None) -> str:
    """Says which inputs are parked in the service that is asked: of those it decided nothing."""
    service = _service(recording, Expectation(text).type, name)
    parked: dict[UUID, str] = {}
    for item in chain.from_iterable(recording.read()):
        if isinstance(item, JournalEntry) and item.service == service.name:
            if item.outcome == "parked":
                parked[item.id] = item.type
            else:
                parked.pop(item.id, None)  # it was retried
    if not parked:
        return ""
    told = " and ".join(f"{count} {type_}" for type_, count in sorted(Counter(parked.values()).items()))
    return (
        f"Not looked at: {told} parked in {service.name}, of which it decided nothing. Mend the handler, "
        "retry, and record again."
    )


def _service(recording: Recording, type_: str, name: str | None) -> Service[Any]:
    """Returns the one that is asked. Raises `UsageError`, and `Incomplete` where its journal is missing."""
    known = services(recording.cut.settings)
    service = known[_owner(type_, name, known)]
    if service.name not in recording.cut.services:
        raise Incomplete(f"{recording.path} has no journal of {service.name}.")
    return service


def _owner(type_: str, name: str | None, known: Mapping[str, Service[Any]]) -> str:
    """Returns the name of the one that decides such facts, or takes such commands."""
    if name is None:
        asked = [one for one, service in known.items() if type_ in map(_name, service.commands)]
        name = SOURCE_OF_TYPE.get(type_) or next(iter(asked), None)
    if name is None or name not in known:
        raise UsageError(f"Nobody decides or is asked {type_}: no service here has such a fact or command.")
    return name


async def _first(
    source: Recording, service: Service[Any], expectation: Expectation, *, today: bool
) -> dict[str, Any] | None:
    """Returns the first that violates the expectation, by today's code or as recorded."""
    seen = 0
    walk = Walk(source, service, today=today, compare=not today)
    async with aclosing(expectation.judge(walk)) as found:  # type: ignore[type-var]
        async for judged in found:
            seen += 1
            if not judged.holds:
                return asdict(judged)
    if walk.lacks and not today:
        raise Incomplete(f"{service.name}: {walk.lacks[0]}.")
    if not (seen or today):
        if parked := not_looked_at(source, expectation.text, service.name):
            raise Incomplete(parked)
        why = next(iter(expectation.errors), f"{service.name} has none in {source.path}")
        raise UsageError(f"--expect cannot be told of any {expectation.type}: {why}.")
    return None


def _finding(judged: Judged, expectation: Expectation, service: str) -> Finding:
    input, lines = judged.input, tuple(judged.lines)
    what = "" if judged.fact is None else f" leads to a {judged.type} that"
    return Finding(
        "step",
        service,
        f"{input['type']} {input['id']}{what} is not as expected: {expectation.text}",
        input["key"],
        input["id"],
        input["type"],
        input["at"],
        input["time"],
        handler=lines[-1] if lines else "",
        expected=judged.should_be or None,
        got=judged.is_ or None,
        lines=lines,
    )


_Again = Mapping[str, Any]
"""What today's code makes of the input that violated the expectation: the `state` it meets, and what is
`judged`, if it decides the fact.
"""


def _judged(again: _Again | None) -> Judged | None:
    return Judged(**again["judged"]) if again and again["judged"] else None


async def _again(
    source: Source, service: Service[Any], expectation: Expectation, violated: Judged
) -> _Again | None:
    """Takes the input in today's code, after all that came before it; None where that does not get there, or
    raises.
    """
    walk = Walk(source, service, today=True, compare=False)
    async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
        async for ahead in inputs:
            done = walk.take(ahead)
            if done and str(ahead.entry.id) == violated.input["id"]:
                judged = [asdict(one) for one in expectation.judged_of(ahead, done) if one.id == violated.id]
                state = state_of(service, ahead.taken.state)
                return {"state": state, "judged": judged[0] if judged else None}
    return None


def _is_same(one: _Again, whole: _Again, *, today: bool) -> bool:
    """Tells whether a part of the recording shows what the whole does. Where `today` violates the expectation
    that is enough; else it is the very fact.
    """
    mine, its = _judged(one), _judged(whole)
    if mine is None or its is None:
        return mine is its and one["state"] == whole["state"]
    if mine.fact is None:
        return mine.holds == its.holds and one["state"] == whole["state"]
    if today:
        return not mine.holds
    return mine.holds and mine.is_ == its.is_


# -- words ---------------------------------------------------------------------------------------------


async def _in_words(source: Source, service: Service[Any], judged: Judged, module: str) -> Words | str:
    """Writes the inputs in the shop's own test words: see docs/replay.md."""
    try:
        words = import_module(module)
    except Exception as error:
        return f"{module} cannot be imported: {error!r}"
    if service.name not in words.SERVICES:
        return f"{module} has no words for {service.name}"
    if source.cut.keys is None or len(source.cut.keys) > 1:
        return "the inputs are of several keys"
    if judged.fact is None or not judged.should_be:
        return "the expectation gives no field of a fact a value"
    heard = {fact.__name__ for fact in service.consumes}
    told = _Told(words.WORDS, words.BEGINS_WITH if words.BEGINS_WITH[0] in heard else None)
    walk = Walk(source, service, today=True, compare=False)
    async for ahead in walk.inputs():
        told.given(ahead.entry.type, names_at(ahead))
        if walk.take(ahead) is None:
            return walk.lacks[-1]
    return told.line(module, words.SERVICES[service.name], judged)


class _Told:
    """Puts inputs into words. An id is its number, in the order in which ids come; the latest is not said."""

    def __init__(self, words: Mapping[str, tuple[str, ...]], begins_with: tuple[str, str] | None) -> None:
        """`begins_with` has happened before the first step, unless the other one is."""
        self._words = words
        self._begins_with = begins_with
        self._ids: dict[str, int] = {}
        self._types: list[str] = []
        self._steps: list[str] = []
        self._used: set[str] = set()
        self._unknown: list[str] = []

    def given(self, type_: str, fields: Mapping[str, Any]) -> None:
        self._types.append(type_)
        for name in (name for _, *names in self._words.values() for name in names):
            if _is_id(fields.get(name)):
                self._ids.setdefault(fields[name], len(self._ids) + 1)
        if len(self._types) > 1 or not self._begins_with or type_ != self._begins_with[0]:
            self._steps.append(self._word(type_, fields, ()))

    def line(self, module: str, service: str, judged: Judged) -> Words | str:
        assert judged.fact is not None
        fields = {**judged.fact, **judged.should_be}
        result = self._word(judged.type, fields, list(judged.should_be))
        if self._unknown:
            return f"{module} has no word for {', '.join(self._unknown)}"
        steps = list(self._steps)
        if self._begins_with and self._begins_with[0] not in self._types:
            self._used.add(self._begins_with[1])
            steps.insert(0, f"{self._begins_with[1]}()")
        line = f"{service}.given({', '.join(steps)}).then({result})"
        return Words(module, frozenset({service, *self._used}), line)

    def _word(self, type_: str, fields: Mapping[str, Any], named: Sequence[str]) -> str:
        if type_ not in self._words:
            self._unknown.append(type_)
            return ""
        word, *arguments = self._words[type_]
        self._used.add(word)
        told = [self._argument(fields[name]) for name in arguments]
        while told and not told[-1]:
            told.pop()
        more = [f"{name}={fields[name]!r}" for name in named if name not in arguments]
        return f"{word}({', '.join([*(one or 'None' for one in told), *more])})"

    def _argument(self, value: Any) -> str:
        """Writes a value; of the latest id nothing."""
        if not _is_id(value):
            return repr(value)
        number = self._ids.get(value, len(self._ids))
        return "" if number == len(self._ids) else str(number)


def _name(type_: type) -> str:
    return type_.__name__


def _is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def _snake(name: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name).replace("__", "_").strip("_")
