"""A fact that has had a past version. Facts stay what they are where a replay imports services anew."""

from typing import ClassVar
from uuid import UUID

from choreo.message.fact import Amount, Fact


class GoodwillGranted(Fact):
    """Version 1 had whole `euros` in the place of `amount`."""

    VERSION: ClassVar[int] = 2
    SUBJECT: ClassVar[str] = "user_id"

    user_id: UUID
    amount: Amount
