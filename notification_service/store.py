"""Which notifications a batch needs, and where they are kept."""

from choreo.chassis.transaction.state_store import StateStore, TableMapping
from notification_service.state import Notification, Notifications, Recipient
from notification_service.tables import notifications, recipients

STORE = StateStore(
    Notifications,
    (
        TableMapping("recipient", recipients, Recipient, key="user_id", single=True, loaded_with_key={}),
        TableMapping(
            "notifications", notifications, Notification, key="user_id", loaded_by_id="notification_id"
        ),
    ),
)
