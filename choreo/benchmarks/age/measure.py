"""Whether an order costs more in a shop that is old: two systems in turn, of which one is given a past."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from choreo.benchmarks.age.past import Past
from choreo.benchmarks.costs.insight import Instruments
from choreo.benchmarks.observe import Journals
from choreo.benchmarks.rates import at_rate
from choreo.benchmarks.resources import LOAD, without_load
from choreo.benchmarks.results.judged import judged
from choreo.benchmarks.sustained import sustained
from choreo.benchmarks.users import OrderMaker, register_users
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress

ROUNDS = 3
USERS = 200
_FIRST_RATE, _FIRST_SECONDS = 50.0, 20.0
"""Of the orders that are there before anything is measured."""
_MOST_STATEMENTS = 5


@dataclass(frozen=True)
class Turn:
    """The closed loop of `sustained`, on one system."""

    accounts: int
    """When it began."""
    journal_rows: int
    """When it began, of all services."""
    orders_per_second: float
    cpu_ms_per_order: float
    """Of all parts, the load generator left out."""
    cpu_ms_per_order_of: Mapping[str, float]
    """By part."""
    wal_bytes_per_order: float
    statement_ms_per_order: Mapping[str, float]
    """By who asked and what a statement calls itself."""


@dataclass(frozen=True)
class Stage:
    """The young system and the old one, in turn."""

    what: str
    """Which past the old one has."""
    made_in_seconds: float
    young: Sequence[Turn]
    old: Sequence[Turn]
    ratio: float
    """Of CPU per order, the old one's to the young one's: the median of the rounds."""
    slower: Mapping[str, float]
    """Milliseconds an order that a statement takes longer, the worst first: who may be to blame."""


@dataclass(frozen=True)
class Age:
    rounds: int
    stages: Sequence[Stage]


async def age(
    accounts: int, journal_rows: int, seconds: float, progress: Progress
) -> tuple[Age, dict[str, dict[str, Any]]]:
    """And what the judge says of each system: what was made is taken away before it looks."""
    with ThrowawaySystem() as first, ThrowawaySystem() as second:
        young, old = await _open(first, progress), await _open(second, progress)
        stages = []
        for what in ("accounts", "journal rows"):
            since = time.monotonic()
            if what == "accounts":
                old.past.add_customers(accounts, [maker.user for maker in old.makers], progress)
            else:
                old.past.add_orders(journal_rows, progress)
            old.past.settle(progress)
            made = time.monotonic() - since
            turns = [[await _turn(shop, seconds, progress) for shop in (young, old)] for _ in range(ROUNDS)]
            stages.append(stage(what, made, [one for one, _ in turns], [one for _, one in turns]))
        old.past.remove(progress)
        verdicts = {
            name: asdict(await judged(shop.system.run_file, shop.makers, progress))
            for name, shop in (("age, young", young), ("age, old", old))
        }
        return Age(ROUNDS, stages), verdicts


def stage(what: str, made_in_seconds: float, young: Sequence[Turn], old: Sequence[Turn]) -> Stage:
    ratios = [other.cpu_ms_per_order / one.cpu_ms_per_order for one, other in zip(young, old, strict=True)]
    longer = {
        name: median(turn.statement_ms_per_order.get(name, 0.0) for turn in old)
        - median(turn.statement_ms_per_order.get(name, 0.0) for turn in young)
        for name in {name for turn in old for name in turn.statement_ms_per_order}
    }
    worst = sorted(longer.items(), key=lambda item: item[1], reverse=True)[:_MOST_STATEMENTS]
    slower = {name: round(ms, 4) for name, ms in worst if ms > 0}
    return Stage(what, round(made_in_seconds, 1), young, old, round(median(ratios), 3), slower)


@dataclass(frozen=True)
class _Shop:
    system: ThrowawaySystem
    makers: Sequence[OrderMaker]
    past: Past


async def _open(system: ThrowawaySystem, progress: Progress) -> _Shop:
    """With some orders in it, which a past can be made of."""
    progress.stage("age: starting a system")
    system.start()
    facts = system.run_file
    makers = await register_users(USERS, facts["ports"], progress.counting("age: users registered", USERS))
    journals, pids = Journals(facts["owner_urls"]), _pids(system)
    await at_rate(_FIRST_RATE, makers, facts, pids, journals, _FIRST_SECONDS, progress)
    return _Shop(system, makers, Past(facts["owner_urls"]))


async def _turn(shop: _Shop, seconds: float, progress: Progress) -> Turn:
    accounts, journal_rows = shop.past.accounts(), shop.past.journal_rows()
    facts, pids = shop.system.run_file, _pids(shop.system)
    journals, instruments = Journals(facts["owner_urls"]), Instruments(shop.system, pids)
    found = await sustained(shop.makers, facts["ports"], pids, journals, seconds, progress, instruments)
    more = found.more
    assert more is not None
    asked = more.statements.ms_by_name if more.statements else {}
    return Turn(
        accounts,
        journal_rows,
        found.orders_per_second,
        round(without_load(found.cpu_ms_per_order), 3),
        found.cpu_ms_per_order,
        more.costs.bytes_per_order["wal"],
        {f"{role} {name}": ms for role, names in asked.items() for name, ms in names.items()},
    )


def _pids(system: ThrowawaySystem) -> dict[str, int]:
    return {**system.pids, LOAD: os.getpid()}
