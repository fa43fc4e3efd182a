"""The notification service as the chassis needs to know it, with nothing that runs."""

from choreo.chassis.service import Service, Waiting
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.user import UserRegistered
from notification_service.commands import RecordDelivery
from notification_service.decide import SERVICE, decide
from notification_service.evolve import evolve
from notification_service.queries import PENDING
from notification_service.react import react
from notification_service.state import Notifications
from notification_service.store import STORE

HEARS = (UserRegistered, PaymentConfirmed, PaymentRejected, PaymentRefunded)
OBEYS = (RecordDelivery,)


def decider() -> Decider[Notifications]:
    return Decider(SERVICE, decide, evolve, react)


def service(settings: Settings) -> Service[Notifications]:
    return Service(decider(), STORE, HEARS, OBEYS, Waiting("mails to be sent", PENDING))
