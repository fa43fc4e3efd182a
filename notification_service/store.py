"""Which notifications a batch needs, and where they are kept."""

from choreo.chassis.http.signing_keys import SIGNING_KEYS
from choreo.chassis.transaction.state_store import Shelf, ShelvesByKey
from notification_service.state import Notification, Notifications, Recipient
from notification_service.tables import notifications, recipients

SHELVES = ShelvesByKey(
    Notifications,
    (
        Shelf("recipient", recipients, Recipient, key="user_id", single=True, with_key={}),
        Shelf("notifications", notifications, Notification, key="user_id", named_by="notification_id"),
        SIGNING_KEYS,
    ),
)
