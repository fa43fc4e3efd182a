"""What somebody asks of every step, in Python: no builtins, over plain data as JSON has it."""

from collections.abc import Mapping
from dataclasses import fields
from types import CodeType
from typing import Any

import orjson

from choreo.chassis.service import Service
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.codec import Undecodable
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.sandbox import no_side_effects
from choreo.replay.engine.walk import Ahead, Done
from choreo.replay.sources.rows import name_as_text, plain, values


class BadExpression(ValueError):
    """The message is a sentence with the place."""


class Plain(dict[str, Any]):
    """`state.account.balance` and `state["account"]["balance"]` are the same."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is {', '.join(self) or 'nothing'}, and no {name}") from None


class Expression:
    def __init__(self, text: str, option: str) -> None:
        """Raises `BadExpression`."""
        self.text, self._option = text, option
        try:
            self._code: CodeType = compile(text.strip(), option, "eval")
        except SyntaxError as error:
            raise BadExpression(
                f"{option} is no Python expression at column {error.offset}: {error.msg}: {text}"
            ) from None
        except (ValueError, MemoryError, RecursionError) as error:
            raise BadExpression(f"{option} is no Python expression: {error or 'it is too deep'}.") from None

    def value(self, names: Mapping[str, Any]) -> Any:
        """Evaluates the expression. Raises whatever it raises, and `SideEffect`."""
        with no_side_effects(self._option):
            return eval(self._code, {**names, "__builtins__": {}})


SURROUNDING = frozenset(
    {"type", "key", "id", "service", "now", "topic", "partition", "offset", "state", "after", "decided"}
)
"""What is known of a step beside the fields of its input."""


def names_at(ahead: Ahead, done: Done | None = None) -> dict[str, Any]:
    """Returns every field of the event's or command's data, and what surrounds it."""
    entry, input = ahead.entry, ahead.taken.input
    if isinstance(input, Event):
        data = input.data.model_dump(mode="json")
    elif isinstance(input, Undecodable):
        data = {}
    else:
        told = {field.name: getattr(input, field.name) for field in fields(input) if field.name != "cause"}
        data = orjson.loads(orjson.dumps(told))
    return {
        **{name: _plain(value) for name, value in data.items()},
        "type": entry.type,
        "key": entry.key,
        "id": str(entry.id),
        "service": entry.service,
        "now": plain(entry.now),
        "topic": entry.topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "state": state_of(ahead.taken.service, ahead.taken.state),
        "after": state_of(ahead.taken.service, done.after) if done else None,
        "decided": [_decided(event) for event in done.events] if done else [],
    }


def names_of_fact(ahead: Ahead, done: Done, event: Event[Fact]) -> dict[str, Any]:
    """Returns the same with every field of one of the facts that were decided, over those of the input."""
    return names_at(ahead, done) | _decided(event)


def _decided(event: Event[Fact]) -> Plain:
    """A fact with its type: `decided[0].type`, `decided[0].balance`."""
    data = {name: _plain(value) for name, value in event.data.model_dump(mode="json").items()}
    return Plain(data | {"type": event.type, "id": str(event.id)})


def state_of(service: Service[Any], state: Any) -> Plain:
    """Returns the rows that the handlers are given, by the state's field and by primary key as text."""
    told = Plain()
    for mapping in service.store.mappings:
        held = getattr(state, mapping.field)
        if mapping.single:
            told[mapping.field] = None if held is None else row_of(mapping, held)
        else:
            told[mapping.field] = Plain(
                {name_as_text(name): row_of(mapping, row) for name, row in held.items()}
            )
    return told


def row_of(mapping: TableMapping, row: Any) -> Plain:
    told = zip((column.name for column in mapping.table.columns), values(mapping.table, row), strict=True)
    return Plain({name: _plain(plain(value)) for name, value in told})


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return Plain({name: _plain(inner) for name, inner in value.items()})
        case list():
            return [_plain(inner) for inner in value]
    return value
