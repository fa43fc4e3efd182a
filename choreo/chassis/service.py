"""What makes a service: everything the chassis has to be told, and nothing that runs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.kafka.grants import Grant, reading, writing
from choreo.chassis.settings import TOPICS
from choreo.chassis.transaction.state_store import ReplayableStore
from choreo.chassis.transaction.step import Decider
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.decider import Command
from choreo.message.fact import Fact

if TYPE_CHECKING:
    from choreo.chassis.transaction.kernel import Kernel

S = TypeVar("S")


@dataclass(frozen=True)
class Waiting:
    """What of a service's state lacks something that is still to come."""

    what: str
    """In the plural, as a person would say it."""
    query: str
    """Gives one row: how many, and since when the oldest."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a new signing key, and what becomes of those before it."""

    kid: str
    acknowledged: bool
    """Kafka has it."""
    signs_from: datetime
    before: tuple[str, ...]
    """The keys that go on signing until then."""
    then_verify_for: timedelta
    """So long those before it are good after that."""


class Signer(Protocol):
    async def rotate(self) -> Rotation:
        """Publishes a new key through its service's kernel; returns once Kafka has it, or is late."""


SignerOf: TypeAlias = "Callable[[Kernel[S], AsyncEngine, Callable[[], datetime]], Signer]"
"""Makes a signer over this service's kernel, its database and a clock."""


@dataclass(frozen=True)
class Service(Generic[S]):
    decider: Decider[S]
    store: ReplayableStore[S]
    hears: tuple[type[Fact], ...] = ()
    obeys: tuple[type[Command], ...] = ()
    """What can be asked of it from outside, and so what its journal holds."""
    waiting: Waiting | None = None
    signer: "SignerOf[S] | None" = None
    """Of the one service that signs the tokens which all verify."""

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
