"""What the pinboard service can be asked to do."""

from dataclasses import dataclass
from typing import ClassVar

from choreo.message.decider import Refusal, UserCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPinboard(UserCommand):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PinNote(UserCommand):
    text: str


Commands = PinNote
"""From outside."""
Reactions = OpenPinboard
"""What a fact moves the service to decide."""


@dataclass(frozen=True, slots=True)
class NoPinboard(Refusal):
    """It is not there yet: the registration is on its way."""

    remembered: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class PinboardFull(Refusal):
    notes: int
