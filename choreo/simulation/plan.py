"""What one seed draws before anything begins: how small the world is, and which faults it has.

Swarm testing, after Groce and others: a run that has few kinds of faults meets more of each than one that has
all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Self

FAULTS = {
    "crash": "a process is killed, all of its memory gone, and started again",
    "stop": "a process is stopped, and continued when others may have taken over",
    "cut": "a session's next statement, or the answer to its commit, is lost with the connection",
    "slow": "a statement takes long, so that its client gives up and it is carried out all the same",
    "database": "a service's database is restarted: all of its sessions end",
    "lock": "somebody from outside holds rows of keys",
    "broker": "the broker is away",
    "acknowledgement": "a batch is in the log, and its acknowledgement is lost",
    "late": "a batch whose sender has given up is appended after all",
    "election": "a partition has a new leader",
    "truncation": "a partition has a new leader who lacks what was acknowledged, and may have other things",
    "retention": "a partition begins later than it did, whoever has not read what was there",
    "offsets": "somebody sets a group's offsets, which are nobody's truth, to the ends",
    "marker": "a transaction of somebody else ends in a topic, after a while or with nothing but its end",
    "garbage": "somebody writes what is no event, with the key of a customer",
    "deaf": "a consumer reads no more, and nobody tells it so",
    "hole": "a consumer loses a chunk that it has fetched, and goes on behind it",
    "rebalance": "a group is divided anew while records are on their way",
    "answer": "a client's answer is lost",
    "unfit": "a customer wants something written that no database takes",
    "mail": "the mail server takes a mail, and its answer is lost",
    "no mail": "the mail server takes nobody's mail",
    "clock": "a process's clock is wrong by up to ten seconds",
}
"""By name, what happens."""

_WEIGHTS = {
    **dict.fromkeys(FAULTS, 1),
    **dict.fromkeys(("hole", "answer"), 2),
    **dict.fromkeys(("mail", "no mail"), 3),
}
"""How often each is drawn, against the others. Drawn alike, these were met in the fewest of 1,500 worlds."""
_CRASHES = 0.4
"""So often processes are killed, whatever else happens: there are many places to die at."""
_WATCHED = 0.1
_CROWDS = 0.15
_OF_ONE_NAME = 0.2
_KNOWN = 0.7


@dataclass(frozen=True)
class Plan:
    faults: tuple[str, ...]
    most_faults: int
    steps_between_faults: int
    replicas: int
    partitions: int
    customers: int
    is_one_name: bool
    """Whether all customers want the same."""
    orders: int
    """Of each customer."""
    stays: float
    """How often whoever has just run goes on."""
    deadline_seconds: float
    """Of an order."""
    is_watched: bool = True
    """Whether handlers that try to reach outside are found out."""
    hurries: float = 0.02
    """How often somebody's time is up although others have something to do."""
    look_seconds: float = 1.0
    """How often those look for news who are told of them. As the services do it, or seldom: most looks find
    nothing, and a world with few of them is played several times as fast.
    """
    knows_customers: bool = False
    """Whether they were there before, and have paid in: then that is not played."""
    takes_time: float = 0.0
    """This share of commits and of batches takes a moment: who was first may be overtaken by who was not."""

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> Self:
        """From JSON, as `choreo simulate --keep` writes it."""
        return cls(**{**told, "faults": tuple(told["faults"])})


def drawn(chance: Random) -> Plan:
    """Most worlds are one order's, in one process of each service. In some there is a crowd: two processes of
    each, and what they do at once concerns one customer, or two whose facts share a partition. More befalls
    these: what nobody had thought of was mostly found in them.
    """
    kinds: list[str] = []
    crowd = chance.random() < _CROWDS
    number = chance.choice((2, 3, 4, 5) if crowd else (1, 2, 3, 4))
    while len(kinds) < number:
        (kind,) = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        if kind not in kinds:
            kinds.append(kind)
    if "crash" not in kinds and chance.random() < _CRASHES:
        kinds.append("crash")
    one_name = chance.random() < _OF_ONE_NAME
    return Plan(
        faults=tuple(kinds),
        most_faults=chance.choice((2, 4, 8) if crowd else (1, 2, 2, 4, 8)),
        steps_between_faults=chance.choice((20, 60, 160)),
        replicas=2 if crowd else chance.choice((1, 1, 1, 1, 1, 1, 2)),
        partitions=1 if crowd else chance.choice((1, 1, 1, 2)),
        customers=chance.choice((1, 2, 2)) if crowd else 1,
        is_one_name=one_name,
        knows_customers=not one_name and chance.random() < _KNOWN,
        orders=chance.choice((2, 3)) if crowd else 1,
        stays=chance.choice((0.0, 0.5, 0.9)),
        takes_time=chance.choice((0.0, 0.8)) if crowd else 0.0,
        deadline_seconds=chance.choice((4.0, 30.0)),
        is_watched=chance.random() < _WATCHED,
        hurries=chance.choice((0.0, 0.002, 0.02)),
        look_seconds=chance.choice((1.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)),
    )
