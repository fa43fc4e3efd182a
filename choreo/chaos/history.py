"""What the judge is given: what anybody could have seen from outside, and nothing else.

Ids are strings as they appear in JSON; amounts are minor units. Topics are named without a test's prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
"""By column. Ids are strings, times carry a zone, JSON is parsed."""
Place = tuple[str, int]
"""Topic and partition."""
Kind = Literal["register", "deposit", "order", "cancel", "other"]
"""Of a request. `other`: of a service of which the judge knows nothing."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic, as it lies in Kafka."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(slots=True)
class Request:
    """One request of a client, which may have been sent several times under one idempotency key.

    `ok`: answered 2xx. `failed`: answered with a definite no, so it has no effect. `unknown`: the client
    never learned which; it has its effect once or not at all.
    """

    kind: Kind
    marker: str
    """Unique, and found again in the fact: the login; the order's description, or its id where it has none;
    the id of the order that is cancelled. A deposit's entry has none. Of another service's: what is asked.
    """
    user_id: str | None
    """Whose; of a registration the one it made, once that is known."""
    amount: int
    """Of a deposit unique among those of its user; of a cancel 0."""
    invoked: float
    """Seconds since the epoch."""
    returned: float | None = None
    outcome: Literal["ok", "failed", "unknown"] = "unknown"
    status: int | None = None
    id: str | None = None
    """Of the user, the entry or the order, as the answer named it."""
    sent: int = 0
    """How many times."""


@dataclass(frozen=True)
class History:
    """Everything, read when all is handled."""

    records: Sequence[Record]
    """Of all topics, per partition in the order of offsets."""
    ends: Mapping[Place, int]
    """Kafka's end offsets."""
    tables: Mapping[str, Mapping[str, Sequence[Row]]]
    """By service and table: all rows of all tables but those marked as secret."""
    requests: Sequence[Request]
    mails: Sequence[tuple[str, str]] = field(default=())
    """Of each delivered mail: Message-ID and recipient."""
    read: Mapping[Place, int] = field(default_factory=dict)
    """Where the reading of `records` ended, where that is behind the last of them: what comes between is the
    marker of a transaction, or was aborted.
    """
