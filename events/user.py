"""Facts decided by the user service."""

from typing import ClassVar
from uuid import UUID

from choreo.message.catalog import publishes
from choreo.message.fact import Fact


class UserRegistered(Fact):
    SUBJECT: ClassVar[str] = "user_id"
    TELLS: ClassVar[tuple[str, ...]] = ("login",)

    user_id: UUID
    login: str
    email: str


publishes("user", UserRegistered)
