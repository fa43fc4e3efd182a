"""The notification service as the chassis needs to know it, with nothing that runs."""

from choreo.chassis.service import End, Follow, Id, Service, Waiting
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from choreo.message.fact import Fact
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.notification import NotificationFailed, NotificationSent
from events.user import UserRegistered
from notification_service.commands import Commands
from notification_service.decide import SERVICE, decide
from notification_service.evolve import Consumed, evolve
from notification_service.queries import BY_ID, LACK_A_RECIPIENT, PENDING
from notification_service.state import Notifications
from notification_service.store import STORE

NOTIFICATIONS = End(
    ("kind", "status", "subject", "text"),
    lambda row: f"notification {row.kind} of order {row.order_id}",
    shows="text",
    traced_by="order_id",
)


def decider() -> Decider[Notifications]:
    return Decider(SERVICE, decide, evolve)


def service(settings: Settings) -> Service[Notifications]:
    waiting = Waiting("mails to be sent", PENDING, LACK_A_RECIPIENT)
    return Service(
        decider(),
        STORE,
        types_of(Consumed),
        types_of(Commands),
        waiting,
        follows=tuple(_told(fact) for fact in (PaymentConfirmed, PaymentRejected, PaymentRefunded)),
        ids=(Id("notification", BY_ID),),
        ends={"notifications": NOTIFICATIONS},
        sends_mail=True,
        port_offset=4,
    )


def _told(heard: type[Fact]) -> Follow:
    return Follow(
        heard,
        (NotificationSent, NotificationFailed),
        waits="waits for the user's address",
        waits_for=UserRegistered,
        later="the mail is not sent yet",
    )
