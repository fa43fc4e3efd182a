"""The notification service as the chassis needs to know it, with nothing that runs."""

from choreo.chassis.service import Id, Service, Waiting
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from notification_service.commands import Commands
from notification_service.decide import SERVICE, decide
from notification_service.evolve import Consumed, evolve
from notification_service.queries import BY_ID, PENDING
from notification_service.state import Notifications
from notification_service.store import STORE


def decider() -> Decider[Notifications]:
    return Decider(SERVICE, decide, evolve)


def service(settings: Settings) -> Service[Notifications]:
    waiting = Waiting("mails to be sent", PENDING)
    ids = (Id("notification", BY_ID),)
    return Service(decider(), STORE, types_of(Consumed), types_of(Commands), waiting, ids=ids)
