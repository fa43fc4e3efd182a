"""What every fact has in common."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

text_of = lru_cache(maxsize=1 << 12)(str)
"""Of an id, which `UUID` writes anew each time, four times as slowly as this finds it."""

MINOR_UNITS = "minor units"
"""Marks a number as money in cents: people are shown 400.00 for 40000."""

Amount = Annotated[int, Field(ge=1, le=999_999_999_99), MINOR_UNITS]
"""Money that moves, in minor units (cents)."""

Balance = Annotated[int, Field(ge=0, le=2**63 - 1), MINOR_UNITS]
"""Money that is there, in minor units (cents)."""


def _in_utc(moment: datetime) -> datetime:
    """Raises ValueError for a time that only its offset keeps within the years 1 to 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time is out of range in UTC") from None


Moment = Annotated[datetime, AwareDatetime, AfterValidator(_in_utc)]
"""A time, in UTC whichever zone it was written in."""


class Fact(BaseModel):
    """Something a service decided. Past tense, never changed, never taken back.

    A fact means exactly what its version says: another field or another type is another version.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    VERSION: ClassVar[int] = 1
    SUBJECT: ClassVar[str]
    """The field that names the thing this fact is about."""
    TELLS: ClassVar[tuple[str, ...]] = ()
    """The fields that tell its story in a few words: amounts, reasons, names. No ids."""
    KEY: ClassVar[str] = "user_id"
    """The field whose facts keep their order."""

    @property
    def key(self) -> str:
        return text_of(getattr(self, self.KEY))

    @property
    def subject(self) -> str:
        return text_of(getattr(self, self.SUBJECT))
