"""Which statements an order takes, and for how long: Postgres logs them for some seconds of a load.

Its log is what there is, since the server that comes with us has no pg_stat_statements. It costs something:
nothing else is measured meanwhile.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psycopg

from choreo.chassis.database.connection import session
from choreo.operations.acting.throwaway import ThrowawaySystem

_SECONDS = 4.0
_SETTLE_SECONDS = 0.5
"""Until every session knows that it is to log."""
_SWITCHES = {"log_min_duration_statement": "0", "log_parameter_max_length": "0"}
_STATEMENT = re.compile(
    rb"^\S+ \S+ \S+ \[\d+\] (?P<role>\w+)@\w+ LOG:  duration: (?P<ms>[\d.]+) ms  "
    rb"(?:(?P<prepares>parse|bind) [^:]*|execute [^:]*|statement): "
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
    ms_by_name: Mapping[str, Mapping[str, float]]
    """Milliseconds for each order, by the same: in Postgres, waiting for locks, disk and a core included."""


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
        {role: _each(sum(one.times for one in names.values()), orders) for role, names in counted.items()},
        {
            role: {name: _each(one.times, orders) for name, one in names.items()}
            for role, names in counted.items()
        },
        {
            role: {name: _each(one.ms, orders) for name, one in names.items()}
            for role, names in counted.items()
        },
    )


@dataclass
class Counted:
    times: int = 0
    ms: float = 0.0
    """To be prepared and bound included."""


def count(lines: Iterable[bytes]) -> dict[str, dict[str, Counted]]:
    """By role and name, what takes longest first. Later lines of one, and what else is logged, are none."""
    counted: dict[str, dict[str, Counted]] = defaultdict(lambda: defaultdict(Counted))
    for line in lines:
        if found := _STATEMENT.match(line):
            one = counted[found["role"].decode()][(found["name"] or found["word"]).decode()]
            one.times += not found["prepares"]
            one.ms += float(found["ms"])
    return {
        role: dict(sorted(names.items(), key=lambda item: item[1].ms, reverse=True))
        for role, names in counted.items()
    }


def _each(total: float, orders: int) -> float:
    return round(total / max(1, orders), 4)


def _switch(admin: psycopg.Connection, statement: str) -> None:
    for name, value in _SWITCHES.items():
        admin.execute(statement.format(name, value).encode())
    admin.execute("SELECT pg_reload_conf()")
