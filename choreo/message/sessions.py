"""A fact that every service hears: whose tokens of before are good no more."""

from typing import ClassVar
from uuid import UUID

from choreo.message.catalog import publishes
from choreo.message.fact import Fact, Moment


class SessionsEnded(Fact):
    """Tokens of this user that were signed at `not_before` or earlier are refused."""

    SUBJECT: ClassVar[str] = "user_id"
    TELLS: ClassVar[tuple[str, ...]] = ("not_before",)

    user_id: UUID
    not_before: Moment


publishes("user", SessionsEnded)
