"""What one seed draws before anything begins: how small the world is, and which faults it has.

Swarm testing, after Groce and others: a run that has few kinds of faults meets more of each than one that has
all of them.
"""

from dataclasses import dataclass
from random import Random

FAULTS = {
    "crash": "a process is killed, all of its memory gone, and started again",
    "stop": "a process is stopped, and continued when others may have taken over",
    "cut": "a session's next statement, or the answer to its commit, is lost with the connection",
    "slow": "a statement takes long, so that its client gives up and it is carried out all the same",
    "database": "a service's database is restarted: all of its sessions end",
    "lock": "somebody from outside holds rows of keys",
    "broker": "the broker is away",
    "acknowledgement": "a batch is in the log, and its acknowledgement is lost",
    "rebalance": "a group is divided anew while records are on their way",
    "answer": "a client's answer is lost",
    "mail": "the mail server takes a mail, and its answer is lost",
    "clock": "a process's clock is wrong by up to ten seconds",
}
"""By name, what happens."""


@dataclass(frozen=True)
class Plan:
    faults: tuple[str, ...]
    most_faults: int
    steps_between_faults: int
    replicas: int
    partitions: int
    customers: int
    orders: int
    """Of each customer."""
    stays: float
    """How often whoever has just run goes on."""
    deadline_seconds: float
    """Of an order."""


def drawn(chance: Random) -> Plan:
    kinds = [name for name in FAULTS if chance.random() < 0.4]
    return Plan(
        faults=tuple(kinds) or ("crash",),
        most_faults=chance.choice((1, 2, 4, 8)),
        steps_between_faults=chance.choice((20, 60, 150)),
        replicas=chance.choice((1, 1, 2)),
        partitions=chance.choice((1, 1, 2)),
        customers=chance.choice((1, 1, 2)),
        orders=chance.choice((1, 1, 2, 3)),
        stays=chance.choice((0.0, 0.5, 0.9)),
        deadline_seconds=chance.choice((4.0, 30.0)),
    )
