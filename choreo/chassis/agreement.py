"""What a service has to say twice, compared: each difference is one sentence, with its cure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from choreo.chassis.database.tables import NOT_REPLAYED
from choreo.chassis.installed import room_of
from choreo.chassis.registry import descriptions, examples
from choreo.chassis.service import Service
from choreo.errors import Unavailable
from choreo.message.catalog import SOURCE_OF_TYPE, published_by
from choreo.message.decider import types_of
from choreo.message.state import SHARED_FACTS


def require_agreement(told: Sequence[str]) -> None:
    """Raises `Unavailable` with the first thing that differs."""
    if told:
        raise Unavailable(told[0])


def all_disagreements() -> list[str]:
    """Those of all services there are: also whom they hear, and that there is an example of each fact."""
    services, there = descriptions(), examples()
    return [
        sentence
        for service in services.values()
        for sentence in (*_told(service, _sources(service, services)), *disagreements(service, there))
    ]


def disagreements(service: Service[Any], exemplified: Collection[str] | None = None) -> list[str]:
    """`exemplified` are the types of which there is one; where they are not given nobody asks for any."""
    told = [*_facts(service), *_commands(service), *_follows(service), *_ids(service), *_rows(service)]
    lacking = [
        fact.__name__
        for fact in published_by(service.name)
        if exemplified is not None and fact.__name__ not in exemplified
    ]
    told += [
        f"there is no example of {type}: name one in service.py (examples), or in events/examples.py"
        for type in lacking
    ]
    return _told(service, told)


def _told(service: Service[Any], sentences: Iterable[str]) -> list[str]:
    return [f"{service.name}: {sentence}." for sentence in sentences]


def _sources(service: Service[Any], there: Collection[str]) -> Iterator[str]:
    for fact in service.consumes:
        source = SOURCE_OF_TYPE[fact.__name__]
        if source not in there:
            shared = fact in SHARED_FACTS
            effect = ", so that every request with a token gets 503" if shared else ""
            cure = "install it" if shared else "install it, or take the fact out of Consumed"
            yield f"it hears {fact.__name__}, and no {source} service is installed{effect}: {cure}"


def _facts(service: Service[Any]) -> Iterator[str]:
    decided = {*published_by(service.name)} - {*SHARED_FACTS}
    given = {*service.own_consumed, *decided}
    for function in filter(None, (service.decider.evolve, service.decider.react)):
        where = _plain(function).__name__
        taken = _types(function, "event")
        if taken is None:
            continue
        for fact in _sorted(given - taken):
            whose = "Its events name" if fact in decided else "Consumed names"
            yield f"{whose} {fact.__name__} and {where} has no case for it: add one, or do not name it"
        for fact in _sorted(taken - given):
            yield (
                f"{where} has a case for {fact.__name__}, which is neither heard nor decided here: name it "
                "in Consumed or among its events, or take the case away"
            )


def _commands(service: Service[Any]) -> Iterator[str]:
    react = service.decider.react
    asked = {*service.commands, *((_types(react, "return") or ()) if react else ())}
    taken = _types(service.decider.decide, "command")
    if taken is None:
        return
    for command in _sorted(asked - taken):
        yield f"Commands or react name {command.__name__} and decide does not take it: add a case for it"
    for command in _sorted(taken - asked):
        yield f"decide takes {command.__name__} and nobody asks for it: name it in Commands, or take it out"


def _follows(service: Service[Any]) -> Iterator[str]:
    for follow in service.follows:
        if follow.heard not in service.consumes:
            yield f"it decides because of {follow.heard.__name__}, and does not hear it: name it in Consumed"
        for fact in _sorted({*follow.one_of} - {*published_by(service.name)}):
            yield (
                f"{fact.__name__} shall follow from {follow.heard.__name__}, and is not decided here: name "
                "it among its events, or take it out of follows"
            )
        for name in filter(None, (follow.about, follow.due)):
            if name not in follow.heard.model_fields:
                yield f"follows ask for {name} of {follow.heard.__name__}, which has none: correct it"


def _ids(service: Service[Any]) -> Iterator[str]:
    has = {field.name for command in service.commands for field in fields(command)}
    for id in service.ids:
        if id.in_commands and id.in_commands not in has:
            yield f"the {id.what} is looked for in {id.in_commands} of commands, and none has it: correct ids"


def _rows(service: Service[Any]) -> Iterator[str]:
    mappings = service.own_store.mappings
    for mapping in mappings:
        row, table = mapping.row, mapping.table
        has = [*row.model_fields] if issubclass(row, BaseModel) else [field.name for field in fields(row)]
        columns = [column.name for column in table.columns]
        for name in has:
            if name not in columns:
                yield (
                    f"{row.__name__} has the field {name} and the table {table.name} no such column: add it "
                    f"to tables.py and run `choreo migration {service.name}`, or take the field away"
                )
        for name in columns:
            if name not in has and not hasattr(row, name):
                yield f"the table {table.name} has the column {name} and {row.__name__} no such field: add it"
    mapped = {mapping.table.name for mapping in mappings}
    for table in room_of(service.name, "tables").metadata.tables.values():
        if table.name not in mapped and not table.info.get(NOT_REPLAYED):
            yield (
                f"no row of a state is kept in the table {table.name}: map it in store.py, or say "
                "NOT_REPLAYED of it in tables.py"
            )


def _types(function: Callable[..., Any], hinted: str) -> set[type[Any]] | None:
    """Of the parameter, or of what is returned; None where nothing is said of it."""
    hint = get_type_hints(_plain(function)).get(hinted)
    if hinted == "command":
        return set(types_of(hint)) if hint else None
    return set(types_of(get_args(hint)[0])) if get_args(hint) else None


def _plain(function: Any) -> Any:
    return function.func if isinstance(function, partial) else function


def _sorted(types: Iterable[type[Any]]) -> list[type[Any]]:
    return sorted(types, key=lambda one: one.__name__)
