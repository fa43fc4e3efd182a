"""One story, as the events it leaves: the examples of the documents.

Ada registers, deposits 450.00, withdraws 50.00, orders a violin for 300.00 and later cancels it; in between
she orders something too dear. In the end she ends her sessions. Every id is derived from another, so the
documents never change.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.envelope import Cause, Event, derived_id, event_id
from choreo.message.fact import Fact
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished
from events.billing import (
    AccountCreated,
    MoneyDeposited,
    MoneyWithdrawn,
    PaymentConfirmed,
    PaymentRefunded,
    PaymentRejected,
)
from events.notification import NotificationFailed, NotificationSent
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered

_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
_ACCOUNT, _PAYMENT = derived_id("example", "account"), derived_id("example", "payment")
_KEY = derived_id("example", "signing key").hex
_PUBLIC_JWK = {
    "kty": "OKP",
    "crv": "Ed25519",
    "kid": _KEY,
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "use": "sig",
    "alg": "EdDSA",
}


def story() -> list[Event[Fact]]:
    """In the order in which they happen."""
    told = _Story()
    told.root("signing key").tells(
        SigningKeyPublished(kid=_KEY, public_jwk=_PUBLIC_JWK, not_after=_NOON + timedelta(days=365))
    )
    ada = derived_id("user", told.root("registration").cause.id)
    told.tells(UserRegistered(user_id=ada, login="ada", email="ada@example.com"))
    told.tells(AccountCreated(account_id=_ACCOUNT, user_id=ada, currency="EUR"))
    entry = told.root("deposit").cause.id
    told.tells(MoneyDeposited(entry_id=entry, user_id=ada, amount=450_00, balance=450_00))
    entry = told.root("withdrawal").cause.id
    told.tells(MoneyWithdrawn(entry_id=entry, user_id=ada, amount=50_00, balance=400_00))
    violin = told.order(ada, 300_00, "one violin")
    told.tells(
        PaymentConfirmed(payment_id=_PAYMENT, order_id=violin, user_id=ada, amount=300_00, balance=100_00)
    )
    told.tells(
        NotificationSent(
            notification_id=derived_id("notification", told.cause.id),
            user_id=ada,
            order_id=violin,
            kind="order_confirmed",
            channel="email",
        )
    )
    cello = told.order(ada, 500_00, None)
    told.tells(
        PaymentRejected(
            order_id=cello, user_id=ada, amount=500_00, reason="insufficient_funds", balance=100_00
        )
    )
    told.tells(
        NotificationFailed(
            notification_id=derived_id("notification", told.cause.id),
            user_id=ada,
            order_id=cello,
            kind="order_rejected",
            channel="email",
        )
    )
    told.root("cancel").tells(OrderCancelled(order_id=violin, user_id=ada, reason="by_user"))
    told.tells(
        PaymentRefunded(payment_id=_PAYMENT, order_id=violin, user_id=ada, amount=300_00, balance=400_00)
    )
    ended = _NOON + timedelta(seconds=len(told.events))
    told.root("end of sessions").tells(SessionsEnded(user_id=ada, not_before=ended))
    return told.events


class _Story:
    def __init__(self) -> None:
        self.events: list[Event[Fact]] = []
        self.cause = Cause.root(UUID(int=0))

    def root(self, what: str) -> "_Story":
        """Somebody asks for something: a flow begins."""
        self.cause = Cause.root(derived_id("example", what))
        return self

    def order(self, user_id: UUID, price: int, description: str | None) -> UUID:
        order_id = derived_id("order", self.root(f"order for {price}").cause.id)
        decide_by = _NOON + timedelta(seconds=30 + len(self.events))
        self.tells(
            OrderCreated(
                order_id=order_id,
                user_id=user_id,
                price=price,
                description=description,
                decide_by=decide_by,
            )
        )
        return order_id

    def tells(self, fact: Fact) -> None:
        """It follows from what was told before in the same flow."""
        source, cause = SOURCE_OF_TYPE[type(fact).__name__], self.cause
        event = Event(
            id=event_id(source, cause.id, type(fact).__name__),
            source=source,
            time=_NOON + timedelta(seconds=len(self.events)),
            key=fact.key,
            sequence=1 + sum(event.key == fact.key for event in self.events),
            correlation_id=cause.correlation_id,
            causation_id=cause.id if cause.is_event else None,
            trace_id=cause.trace_id,
            data=fact,
        )
        self.events.append(event)
        self.cause = event.cause
