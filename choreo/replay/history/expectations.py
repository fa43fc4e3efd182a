"""What should have been decided, as somebody says it.

`PaymentRefunded: amount == state.payments[order_id].amount` is about every fact of this type that a service
decides, or every input of this type that it takes. It knows what `choreo replay --break` knows, and what the
fact holds.
"""

import ast
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from choreo.chassis.registry import services
from choreo.errors import HandlerMisbehaves
from choreo.message.fact import Fact
from choreo.replay.engine.deciding_lines import decided_through
from choreo.replay.engine.expressions import BadExpression, Expression, names_at, names_of_fact
from choreo.replay.engine.walk import Ahead, Done, Walk
from choreo.replay.sources.records import Source
from choreo.replay.sources.rows import plain


@dataclass(frozen=True, slots=True)
class Judged:
    """A fact, or an input, of which something is expected. Values are what JSON can hold."""

    holds: bool
    id: str
    type: str
    input: Mapping[str, str]
    """The `id`, `type`, `key`, place (`at`) and `time` of the input."""
    fact: Mapping[str, Any] | None
    """What it holds; None of an input."""
    should_be: Mapping[str, Any]
    """Fields of the fact that the expectation gives a value, with that value."""
    lines: Sequence[str]
    """Of today's code that lead to it, where it does not hold."""

    @property
    def is_(self) -> Mapping[str, Any]:
        """Those fields as they were decided."""
        return {name: (self.fact or {})[name] for name in self.should_be}


class Expectation:
    def __init__(self, text: str) -> None:
        """Reads `TYPE: EXPRESSION`. Raises `BadExpression`."""
        self.type, colon, expression = (part.strip() for part in text.partition(":"))
        if not (colon and self.type.isidentifier()):
            raise BadExpression(f"--expect takes TYPE: EXPRESSION, such as Deposit: amount > 0, not {text}.")
        self.text = text
        self.errors: Counter[str] = Counter()
        """Why it could not be evaluated."""
        self._expression = Expression(expression, "--expect")

    async def judge(self, walk: Walk[Any]) -> AsyncIterator[Judged]:
        """Yields what is of its type, in the order of the journal. Raises `HandlerMisbehaves`."""
        async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
            async for ahead in inputs:
                done = walk.take(ahead)
                for judged in self.judged_of(ahead, done) if done else ():
                    yield judged

    def judged_of(self, ahead: Ahead, done: Done) -> list[Judged]:
        """Judges the input, if it is of the type, and each of its facts that is."""
        found = []
        if ahead.entry.type == self.type:
            found.append(self._judge(ahead, str(ahead.entry.id), None, names_at(ahead, done)))
        found += [
            self._judge(ahead, str(event.id), event.data, names_of_fact(ahead, done, event))
            for event in done.events
            if event.type == self.type
        ]
        return [judged for judged in found if judged]

    def _judge(self, ahead: Ahead, id: str, fact: Fact | None, names: dict[str, Any]) -> Judged | None:
        """Returns None where it cannot be evaluated, and notes why."""
        try:
            holds = bool(self._expression.value(names))
            should_be = self._should_be(fact, names)
        except HandlerMisbehaves:
            raise
        except Exception as error:
            self.errors[f"{type(error).__name__}: {error}"] += 1
            return None
        lines = () if holds else decided_through(ahead.taken, fact)
        entry = ahead.entry
        return Judged(
            holds,
            id,
            self.type,
            {
                "id": str(entry.id),
                "type": entry.type,
                "key": entry.key,
                "at": entry.at,
                "time": plain(entry.now),
            },
            fact.model_dump(mode="json") if fact else None,
            should_be,
            lines,
        )

    def _should_be(self, fact: Fact | None, names: dict[str, Any]) -> dict[str, Any]:
        """Evaluates what the expression says a field of the fact is equal to."""
        tree = ast.parse(self._expression.text.strip(), mode="eval").body
        all_of = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
        fields = type(fact).model_fields if fact else {}
        told = {}
        for part in all_of:
            match part:
                case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()], comparators=[value]):
                    pass
                case ast.Compare(left=value, ops=[ast.Eq()], comparators=[ast.Name(id=name)]):
                    pass
                case _:
                    continue
            if name in fields:
                told[name] = Expression(ast.unparse(value), "--expect").value(names)
        return told


async def violations(source: Source, text: str) -> list[str]:
    """Takes the inputs of a recording in today's code; returns sentences on what is not as expected.

    For a test that `choreo minimize` wrote. Raises `BadExpression`, and `HandlerMisbehaves`.
    """
    expectation, told = Expectation(text), []
    for name in source.cut.services:
        walk = Walk(source, services(source.cut.settings)[name], today=True, compare=False)
        wrong = [judged async for judged in expectation.judge(walk) if not judged.holds]
        told += [f"{one.type} {one.id} is not as expected: {text}" for one in wrong]
        told += walk.lacks
    return told + [f"It cannot be told whether {text}: {error}" for error in expectation.errors]
