"""Which of billing's rows a batch needs, and where they are kept."""

from billing_service.state import Account, Billing, Leg, Payment
from billing_service.tables import accounts, ledger, payments
from chassis.key_source import SIGNING_KEYS
from chassis.shelf import Shelf, ShelvesByKey

SHELVES = ShelvesByKey(
    Billing,
    (
        Shelf("account", accounts, Account, key="user_id", single=True, with_key={}),
        Shelf(
            "payments",
            payments,
            Payment,
            key="user_id",
            with_key={"outcome": "waiting"},
            named_by="order_id",
        ),
        Shelf("ledger", ledger, Leg, key="user_id"),
        SIGNING_KEYS,
    ),
)
