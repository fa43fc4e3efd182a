"""Facts decided by the user service."""

from typing import ClassVar
from uuid import UUID

from events.fact import Fact, Moment


class UserRegistered(Fact):
    SUBJECT: ClassVar[str] = "user_id"

    user_id: UUID
    login: str
    email: str


class SigningKeyPublished(Fact):
    """Tokens may be signed with this key, until `not_after`. The one fact that belongs to no user.

    Told of the same key again, it ends earlier: another one signs now.
    """

    SUBJECT: ClassVar[str] = "kid"
    KEY: ClassVar[str] = "kid"

    kid: str
    public_jwk: dict[str, str]
    not_after: Moment
