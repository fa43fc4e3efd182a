"""Which of billing's rows a batch needs, and where they are kept."""

from billing_service.state import Account, Billing, Leg, Payment
from billing_service.tables import accounts, ledger, payments
from choreo.chassis.http.signing_keys import SIGNING_KEYS
from choreo.chassis.transaction.state_store import Shelf, ShelvesByKey

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
