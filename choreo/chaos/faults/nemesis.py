"""Chance decides which fault comes next, on two kinds of systems in turn: one process of each service and one
broker; several processes of most services and three brokers.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from random import Random
from typing import NamedTuple

from choreo.chaos.faults.clean import FAULTS, disconnected, killed, leader_killed
from choreo.chaos.faults.fault import Fault
from choreo.chaos.faults.half import HALF_FAULTS
from choreo.chaos.faults.storm import storm
from choreo.chaos.load import Rates
from choreo.operations.replicas import replicas_of

_RATES = Rates(registrations=1.0, deposits=3.0, orders=10.0, cancels=1.5, others=1.5)
"""Where there are three brokers and several processes. Twice as much takes all of two cores, and whoever
comes back then waits for its turn: what would be measured is the machine.
"""
_PROCESSES = {"user": 1, "order": 2, "billing": 2, "notification": 2}
_FAULTS_OF_A_SYSTEM = 12
_STORMS = 3 / 4
"""This share of the faults on several processes."""

_SINGLE = [fault for fault in (*FAULTS, *HALF_FAULTS) if fault.judged and fault.brokers == 1]
_PARTS = [replica.name for replica in replicas_of(_PROCESSES)]
_STORM = storm(*_PARTS)
_REPLICATED = [
    *map(killed, _PARTS),
    leader_killed(),
    disconnected(),
    *(
        fault
        for fault in HALF_FAULTS
        if fault.judged and fault.name.startswith(("lock-", "mail-", "silent-l"))
    ),
]


class System(NamedTuple):
    arguments: Sequence[str]
    """What it is started with."""
    faults: Sequence[Fault]
    """What it is put through."""
    rates: Rates = Rates()


def systems(chance: Random, *, only_kills: bool = False) -> Iterator[System]:
    """Without end. Where only kills are wanted all of them have several processes."""
    replicated = [fault for fault in _REPLICATED if fault.kills or not only_kills]
    for several in cycle((True,) if only_kills else (False, True)):
        if several:
            faults = [
                _STORM if chance.random() < _STORMS else chance.choice(replicated)
                for _ in range(_FAULTS_OF_A_SYSTEM)
            ]
            counts = ",".join(f"{service}={count}" for service, count in _PROCESSES.items())
            yield System(("--brokers", "3", "--processes", counts), faults, _RATES)
        else:
            yield System((), chance.sample(_SINGLE, _FAULTS_OF_A_SYSTEM))
