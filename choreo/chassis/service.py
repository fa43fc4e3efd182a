"""What makes a service: everything the chassis has to be told, and nothing that runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.kafka.grants import Grant, reading, writing
from choreo.chassis.settings import OwnSettings
from choreo.chassis.shared_state import WithSharedState
from choreo.chassis.transaction.state_store import ReplayableStore
from choreo.chassis.transaction.step import Decider
from choreo.message.catalog import SOURCE_OF_TYPE, topic_of
from choreo.message.decider import Command
from choreo.message.fact import Fact
from choreo.message.state import SHARED_FACTS

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
    of_events: str = ""
    """Gives those that lack a prerequisite of the events whose ids it is given; empty: none can."""


@dataclass(frozen=True)
class End:
    """What somebody outside sees of a table's rows: for "what if", which compares how it ends."""

    columns: tuple[str, ...]
    name: Callable[[Any], str] | None = None
    """What a row is called; as any other, where nothing is said."""
    value: Callable[[Any], str] | None = None
    """What it comes to, where that is all there is to say."""
    shows: str = ""
    """The column that is shown where a row differs; empty: the sentence says it all."""
    traced_by: str = ""
    """The column with the id by which its story is asked for, where that is not its own."""


@dataclass(frozen=True)
class Follow:
    """What a service decides sooner or later because of a fact it hears: any one of these."""

    heard: type[Fact]
    one_of: tuple[type[Fact], ...]
    about: str = ""
    """The field of both that says what they are about, where another input may lead to it."""
    rules_out: Mapping[type[Fact], type[Fact]] = field(default_factory=dict)
    """By what was decided about it: what cannot follow any more."""
    must: Callable[[Mapping[str, Any]], bool] = lambda data: True
    """Whether anything has to follow from a fact with these data."""
    waits: str = ""
    """For what, where that may not be there yet."""
    waits_for: type[Fact] | None = None
    """The fact because of which what has waited is decided."""
    later: str = ""
    """How it stands meanwhile, where it is not decided in the transaction that hears it."""
    due: str = ""
    """The field of what is heard that says until when it must be decided."""

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(fact.__name__ for fact in self.one_of)


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
class Check:
    """What of a service's state needs a person, for `choreo doctor`."""

    name: str
    query: str
    """Gives a row of one text for each."""
    cure: str


@dataclass(frozen=True)
class Id:
    """By what people ask for a thing of the service's: its id, or a name with a way to compare it.

    Ids of events, commands, flows and keys every service has: the chassis' journal knows them.
    """

    what: str
    query: str
    """Gives of each thing its id, its key, and its flow, or NULL where it is about all flows of its key.

    Of ids from `%(first)s` to `%(last)s`; of a name that is, compared, `%(name)s`.
    """
    compared: Callable[[str], str] | None = None
    """Of a name: the form in which two are compared."""
    said_in: tuple[type[Fact], str] | None = None
    """Of a name: the fact and its field that say it. What is a UUID is found in whatever fact names it."""
    in_commands: str = ""
    """The field of the service's commands that names it: all that was asked about one is told together."""


@dataclass(frozen=True)
class Service(Generic[S]):
    """`own_store` and `own_consumed` are the service's; `store` and `consumes` have what the chassis adds."""

    decider: Decider[S]
    own_store: ReplayableStore[S]
    own_consumed: tuple[type[Fact], ...] = ()
    commands: tuple[type[Command], ...] = ()
    """What can be asked of it from outside, and so what its journal holds."""
    waiting: Waiting | None = None
    signer: "SignerOf[S] | None" = None
    """Of the one service that signs the tokens which all verify."""
    checks: tuple[Check, ...] = ()
    ids: tuple[Id, ...] = ()
    """What it can be asked for by id, besides what lies in its journal."""
    examples: tuple[Fact, ...] = ()
    """One of each fact that it decides, for the documents, where no story has one."""
    follows: tuple[Follow, ...] = ()
    ends: Mapping[str, End] = field(default_factory=dict)
    """By table. Rows of others follow from the facts."""
    needs_all_keys: bool = False
    """What it decides about a key depends on others, so no replay may leave any out."""
    sends_mail: bool = False
    """It is told where the mail server is, and nobody else is."""
    settings: OwnSettings = field(default_factory=OwnSettings)
    """Its own, as it was told them."""
    port_offset: int = 0
    """From the port base, 1 to 24: its own among the installed services."""

    @property
    def name(self) -> str:
        return self.decider.service

    @cached_property
    def store(self) -> ReplayableStore[S]:
        return WithSharedState(self.own_store)

    @cached_property
    def consumes(self) -> tuple[type[Fact], ...]:
        """The facts of other services that it hears: those it asks for, and those every service keeps."""
        shared = [fact for fact in SHARED_FACTS if SOURCE_OF_TYPE[fact.__name__] != self.name]
        return (*self.own_consumed, *shared)

    @property
    def sources(self) -> frozenset[str]:
        """The services whose facts it hears."""
        return frozenset(SOURCE_OF_TYPE[fact.__name__] for fact in self.consumes)

    def heard_topics(self, prefix: str) -> list[str]:
        return sorted(prefix + topic_of(source) for source in self.sources)

    def group(self, prefix: str) -> str:
        return f"{prefix}{self.name}-service"

    def grants(self, prefix: str) -> frozenset[Grant]:
        """What Kafka must let it do, and no more than that."""
        heard = self.heard_topics(prefix)
        return writing(prefix + topic_of(self.name)) | (
            reading(heard, self.group(prefix)) if heard else set()
        )
