"""What makes a service: everything the chassis has to be told, and nothing that runs."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from choreo.chassis.kafka.grants import Grant, reading, writing
from choreo.chassis.settings import TOPICS
from choreo.chassis.transaction.state_store import ReplayableStore
from choreo.chassis.transaction.step import Decider
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.decider import Command
from choreo.message.fact import Fact

S = TypeVar("S")


@dataclass(frozen=True)
class Waiting:
    """What of a service's state lacks something that is still to come."""

    what: str
    """In the plural, as a person would say it."""
    query: str
    """Gives one row: how many, and since when the oldest."""


@dataclass(frozen=True)
class Check:
    """What of a service's state needs a person, for `choreo doctor`."""

    name: str
    query: str
    """Gives a row of one text for each."""
    cure: str


@dataclass(frozen=True)
class Service(Generic[S]):
    decider: Decider[S]
    store: ReplayableStore[S]
    hears: tuple[type[Fact], ...] = ()
    obeys: tuple[type[Command], ...] = ()
    """What can be asked of it from outside, and so what its journal holds."""
    waiting: Waiting | None = None
    checks: tuple[Check, ...] = ()

    @property
    def name(self) -> str:
        return self.decider.service

    def heard_topics(self, prefix: str) -> list[str]:
        return sorted({prefix + TOPICS[SOURCE_OF_TYPE[fact.__name__]] for fact in self.hears})

    def group(self, prefix: str) -> str:
        return f"{prefix}{self.name}-service"

    def grants(self, prefix: str) -> frozenset[Grant]:
        """What Kafka must let it do, and no more than that."""
        heard = self.heard_topics(prefix)
        return writing(prefix + TOPICS[self.name]) | (reading(heard, self.group(prefix)) if heard else set())
