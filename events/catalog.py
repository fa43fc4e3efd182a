"""Every fact there is, and the topic it travels on."""

from events.billing import (
    AccountCreated,
    MoneyDeposited,
    MoneyWithdrawn,
    PaymentConfirmed,
    PaymentRefunded,
    PaymentRejected,
)
from events.fact import Fact
from events.notification import NotificationFailed, NotificationSent
from events.order import OrderCancelled, OrderCreated
from events.user import SigningKeyPublished, UserRegistered

FACTS: dict[str, tuple[type[Fact], ...]] = {
    "user": (UserRegistered, SigningKeyPublished),
    "order": (OrderCreated, OrderCancelled),
    "billing": (
        AccountCreated,
        MoneyDeposited,
        MoneyWithdrawn,
        PaymentConfirmed,
        PaymentRejected,
        PaymentRefunded,
    ),
    "notification": (NotificationSent, NotificationFailed),
}
"""By the service that alone decides them."""

TOPICS: dict[str, str] = {service: f"{service}-events" for service in FACTS}
"""By the service that alone writes them."""

FACT_OF_TYPE: dict[str, type[Fact]] = {fact.__name__: fact for facts in FACTS.values() for fact in facts}
SOURCE_OF_TYPE: dict[str, str] = {
    fact.__name__: service for service, facts in FACTS.items() for fact in facts
}
