"""What makes a service: everything the chassis has to be told, and nothing that runs."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from chassis.shelf import Shelves
from chassis.step import Decider
from events.fact import Fact

S = TypeVar("S")


@dataclass(frozen=True)
class Waiting:
    """What of a service's state lacks something that is still to come."""

    what: str
    """In the plural, as a person would say it."""
    query: str
    """Gives one row: how many, and since when the oldest."""


@dataclass(frozen=True)
class Service(Generic[S]):
    decider: Decider[S]
    shelves: Shelves[S]
    hears: tuple[type[Fact], ...] = ()
    waiting: Waiting | None = None

    @property
    def name(self) -> str:
        return self.decider.service
