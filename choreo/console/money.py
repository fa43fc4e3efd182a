"""Money as people read it: 400.00, where facts, rows and refusals hold 40000."""

import json
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from choreo.chassis.database.tables import MinorUnits
from choreo.chassis.http.money import decimal_text
from choreo.chassis.service import Service
from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.decider import Refusal
from choreo.message.fact import MINOR_UNITS
from choreo.replay.sources.telling import cut_off, shown


class Money:
    """Knows by what the services declare which numbers are money. Where nothing says so, none is."""

    def __init__(self, services: Mapping[str, Service[Any]]) -> None:
        mappings = [(name, one.table) for name, there in services.items() for one in there.store.mappings]
        self._columns = {
            (name, table.name): {one.name for one in table.columns if isinstance(one.type, MinorUnits)}
            for name, table in mappings
        }
        self._refusals = {kind.__name__: _marked(kind) for kind in _all(Refusal)}

    def telling(self, type: str, data: Mapping[str, Any]) -> str:
        """Writes the fields that tell a fact's story, as the fact declares them."""
        if (fact := FACT_OF_TYPE.get(type)) is None:
            return ""
        told = {name: data.get(name) for name in fact.TELLS}
        money = {name for name, field in fact.model_fields.items() if MINOR_UNITS in field.metadata}
        return ", ".join(
            f"{name} {cut_off(_written(value, name in money))}"
            for name, value in told.items()
            if value is not None
        )

    def parked(self, event: Mapping[str, Any]) -> str:
        """The same of one as `choreo dlq` has it; nothing where it is none that can be read."""
        try:
            return self.telling(event["event"], json.loads(event["value"])) if event["tells"] else ""
        except ValueError:
            return str(event["tells"])

    def refusal(self, refusal: Mapping[str, Any]) -> Mapping[str, str]:
        """Returns its numbers, by name."""
        money = self._refusals.get(refusal.get("type", ""), ())
        return {name: _written(value, name in money) for name, value in refusal.items() if name != "type"}

    def cell(self, service: str, table: str, column: str, value: Any) -> str:
        return _written(value, column in self._columns.get((service, table), ()))


def _written(value: Any, is_money: bool) -> str:
    return decimal_text(value) if is_money and type(value) is int else shown(value)


def _marked(kind: type) -> Collection[str]:
    hints = get_type_hints(kind, include_extras=True)
    return {name for name, hint in hints.items() if MINOR_UNITS in getattr(hint, "__metadata__", ())}


def _all(kind: type[Refusal]) -> Collection[type[Refusal]]:
    return {kind, *(deeper for one in kind.__subclasses__() for deeper in _all(one))}
