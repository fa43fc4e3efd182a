"""Which statements an order takes: Postgres logs them for some seconds, under a load that goes on.

Its log is what there is, since the server that comes with us has no pg_stat_statements. It costs something:
nothing else is measured meanwhile.
"""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psycopg

from choreo.chassis.database.connection import session
from choreo.operations.acting.throwaway import ThrowawaySystem

_SECONDS = 4.0
_SETTLE_SECONDS = 0.5
"""Until every session knows that it is to log."""
_SWITCHES = {"log_statement": "'all'", "log_parameter_max_length": "0"}
_STATEMENT = re.compile(
    rb"^\S+ \S+ \S+ \[\d+\] (?P<role>\w+)@\w+ LOG:  (?:execute [^:]*|statement): "
    rb"(?:/\* (?P<name>[\w.]+)|(?P<word>\w+))"
)


@dataclass(frozen=True)
class Statements:
    """Of everybody who asks Postgres, in seconds of their own after the measured ones."""

    orders: int
    """Finished meanwhile."""
    per_order: Mapping[str, float]
    """By role: a service, or who looks at it."""
    by_name: Mapping[str, Mapping[str, float]]
    """The same, by what a statement calls itself, or by its first word."""


async def statements(system: ThrowawaySystem, finished: Callable[[], int]) -> Statements | None:
    """Raises psycopg.Error. None where Postgres' log was emptied meanwhile, as it is where it is too long."""
    log = system.home / "logs" / "postgres.log"
    with psycopg.connect(**session(system.admin_url), autocommit=True) as admin:
        _switch(admin, "ALTER SYSTEM SET {} = {}")
        try:
            await asyncio.sleep(_SETTLE_SECONDS)
            begin, before = log.stat().st_size, finished()
            await asyncio.sleep(_SECONDS)
            end, orders = log.stat().st_size, finished() - before
        finally:
            _switch(admin, "ALTER SYSTEM RESET {}")
    if end < begin:
        return None
    with log.open("rb") as file:
        file.seek(begin)
        counted = count(file.read(end - begin).splitlines())
    return Statements(
        orders,
        {role: _each(names.total(), orders) for role, names in counted.items()},
        {
            role: {name: _each(times, orders) for name, times in names.most_common()}
            for role, names in counted.items()
        },
    )


def count(lines: Iterable[bytes]) -> dict[str, Counter[str]]:
    """By role and name. A statement's later lines, and what else is logged, are none."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        if found := _STATEMENT.match(line):
            counted[found["role"].decode()][(found["name"] or found["word"]).decode()] += 1
    return counted


def _each(times: int, orders: int) -> float:
    return round(times / max(1, orders), 4)


def _switch(admin: psycopg.Connection, statement: str) -> None:
    for name, value in _SWITCHES.items():
        admin.execute(statement.format(name, value).encode())
    admin.execute("SELECT pg_reload_conf()")
