"""Facts decided by the pinboard service."""

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from choreo.message.catalog import publishes
from choreo.message.decider import types_of
from choreo.message.fact import Fact


class PinboardOpened(Fact):
    """A user has one from now on, which takes so many notes."""

    SUBJECT: ClassVar[str] = "user_id"
    TELLS: ClassVar[tuple[str, ...]] = ("most_notes",)

    user_id: UUID
    most_notes: Annotated[int, Field(ge=1, le=10_000)]


class PinboardNoted(Fact):
    """`notes` is how many there are with this one."""

    SUBJECT: ClassVar[str] = "note_id"
    TELLS: ClassVar[tuple[str, ...]] = ("text", "notes")

    note_id: UUID
    user_id: UUID
    text: Annotated[str, Field(min_length=1, max_length=200)]
    notes: Annotated[int, Field(ge=1, le=10_000)]


PinboardFact = PinboardOpened | PinboardNoted
publishes("pinboard", *types_of(PinboardFact))
