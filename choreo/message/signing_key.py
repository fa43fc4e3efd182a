"""A fact that every service hears: with which key tokens are signed."""

from typing import ClassVar

from choreo.message.catalog import publishes
from choreo.message.fact import Fact, Moment


class SigningKeyPublished(Fact):
    """Tokens may be signed with this key, until `not_after`. The one fact that belongs to no user.

    Told of the same key again, it ends earlier: another one signs now.
    """

    SUBJECT: ClassVar[str] = "kid"
    KEY: ClassVar[str] = "kid"
    TELLS: ClassVar[tuple[str, ...]] = ("not_after",)

    kid: str
    public_jwk: dict[str, str]
    not_after: Moment


publishes("user", SigningKeyPublished)
