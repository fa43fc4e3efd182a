"""I5: every row of every service equals the fold of the log."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from choreo.chaos.judging.case import CONSUMED, Case
from choreo.chaos.judging.fold import TABLES, TOLD, Id, Table, money


def follow_from_the_log(case: Case) -> Iterator[str]:
    steps = {applied: rows[0]["step"] for applied, rows in case.applied.items()}
    for table in TABLES:
        yield from _differences(case, table, steps)
    yield from _texts_name_what_they_tell(case)
    for service in CONSUMED:
        yield from _counters_stand_at_the_last_step(case, service)


def _differences(case: Case, table: Table, steps: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Columns the model knows nothing of are not compared."""
    name = f"{table.service}.{table.name}"
    expected = table.fold(case.log, steps)
    actual = {table.id_of(row): row for row in case.rows(table.service, table.name)}
    for id, wanted in expected.items():
        if wanted[table.key] in case.excepted:
            continue
        row = actual.get(id)
        if row is None:
            yield f"{name} has no row {_shown(id)} of {wanted[table.key]}"
            continue
        for column, value in wanted.items():
            if row.get(column) != value:
                yield (
                    f"{name} {_shown(id)} of {wanted[table.key]} has {column} {_shown(row.get(column))}, "
                    f"and by the log it is {_shown(value)}"
                )
    for id, row in actual.items():
        if id not in expected and row.get(table.key) not in case.excepted:
            yield f"{name} has a row {_shown(id)} of {row.get(table.key)}, and the log has none"


def _texts_name_what_they_tell(case: Case) -> Iterator[str]:
    for row in case.rows("notification", "notifications"):
        told = case.by_id.get(row["event_id"])
        if told is None or told.type not in TOLD:
            continue
        amount, balance = money(told.data["amount"]), money(told.data["balance"])
        for column, words in (("subject", [amount]), ("text", [told.data["order_id"], amount, balance])):
            if missing := [word for word in words if word not in row[column]]:
                yield f"notification {row['id']} does not name {', '.join(missing)} in its {column}"


def _counters_stand_at_the_last_step(case: Case, service: str) -> Iterator[str]:
    """A counter ahead of them is a fact that was applied and is nowhere."""
    counters = {row["key"]: row["sequence"] for row in case.rows(service, "keys") if row["sequence"]}
    last = {key: max(steps) for (name, key), steps in case.steps.items() if name == service}
    for key in sorted(counters.keys() | last.keys()):
        if counters.get(key) != last.get(key):
            yield (
                f"{service}.keys has {key} at step {counters.get(key)}, "
                f"and the last fact applied there has {last.get(key)}"
            )


def _shown(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case tuple():
            parts: Id = value
            return " ".join(map(str, parts))
    return repr(value)
