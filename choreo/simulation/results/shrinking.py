"""A world that breaks a promise, made smaller: fewer faults, processes, partitions, customers and orders."""

import dataclasses
from collections.abc import Callable, Iterator

from choreo.simulation.plan import Plan
from choreo.simulation.world import Outcome, play

_SEEDS = 4
"""So many seeds are tried for a plan that is smaller: its world is another one."""
_MOST = 100
"""Worlds that are tried."""


def shrunk(outcome: Outcome, tell: Callable[[int], None] = lambda tried: None) -> Outcome:
    """The smallest that still breaks the same promise. `tell` is told how many worlds were tried."""
    promises, tried = {violation.promise for violation in outcome.violations}, 0
    smaller: Iterator[Plan] = _smaller(outcome.plan)
    while tried < _MOST and (plan := next(smaller, None)) is not None:
        for seed in range(outcome.seed, outcome.seed + _SEEDS):
            found, tried = play(seed, plan=plan), tried + 1
            tell(tried)
            if promises & {violation.promise for violation in found.violations}:
                outcome, smaller = found, _smaller(plan)
                break
    return outcome


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Each by one thing."""
    for fault in plan.faults if len(plan.faults) > 1 else ():
        yield dataclasses.replace(plan, faults=tuple(one for one in plan.faults if one != fault))
    for name in ("most_faults", "replicas", "partitions", "customers", "orders"):
        if (value := getattr(plan, name)) > 1:
            yield dataclasses.replace(plan, **{name: value // 2})
    if plan.takes_time:
        yield dataclasses.replace(plan, takes_time=0.0)
    if plan.is_one_name:
        yield dataclasses.replace(plan, is_one_name=False)
