"""Rows, their changes and their causes as JSON has them: what `choreo state` and `choreo blame` print."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from choreo.chassis.transaction.journal import CODE_VERSION
from choreo.chassis.transaction.state_store import TableMapping
from choreo.replay.engine.recorded import Differs
from choreo.replay.engine.walk import Walk, Write
from choreo.replay.history.blame import RowChange
from choreo.replay.history.causes import Cause
from choreo.replay.history.state import Difference, difference_made_by
from choreo.replay.sources.records import JournalEntry
from choreo.replay.sources.rows import name_as_text, plain


def today_as_dict(walk: Walk[Any]) -> dict[str, Any]:
    return {
        "differs": [differs_as_dict(one) for one in walk.differs],
        "printed": walk.printed,
        "code": {"recorded": sorted(walk.versions), "today": CODE_VERSION},
    }


def differs_as_dict(found: Differs | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "id": str(found.entry.id),
        "type": found.entry.type,
        "key": found.entry.key,
        "recorded": found.recorded,
        "today": found.today,
        "handler": found.handler,
    }


def cause_as_dict(cause: Cause | None) -> dict[str, Any] | None:
    if cause is None:
        return None
    return {name: plain(value) for name, value in asdict(cause).items()}


def write_as_dict(write: Write) -> dict[str, Any]:
    return difference_as_dict(difference_made_by(write)) | {
        "cause": {"fact": write.event.type, "handler": write.case}
    }


def difference_as_dict(found: Difference) -> dict[str, Any]:
    return {
        "change": found.change,
        "table": found.table.name,
        "primary_key": name_as_text(found.name),
        "columns": {column: {"old": plain(old), "new": plain(new)} for column, old, new in found.columns},
        "cause": cause_as_dict(found.cause),
    }


def row_change_as_dict(change: RowChange) -> dict[str, Any]:
    data = change.write.event.data.model_dump(mode="json")
    made = difference_as_dict(difference_made_by(change.write)) | {"cause": cause_as_dict(change.cause)}
    return {"time": plain(change.cause.time), **made, "data": data, "line": change.line}


def input_as_dict(entry: JournalEntry) -> dict[str, Any]:
    return {
        "id": str(entry.id),
        "type": entry.type,
        "kind": entry.kind,
        "at": entry.at,
        "time": plain(entry.now),
        "outcome": entry.outcome,
    }


def row_as_dict(mapping: TableMapping, row: Sequence[Any], cause: Cause | None) -> dict[str, Any]:
    columns = (column.name for column in mapping.table.columns)
    told = {name: plain(value) for name, value in zip(columns, row, strict=True)}
    return {"row": told, "cause": cause_as_dict(cause)}
