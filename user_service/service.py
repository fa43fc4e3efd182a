"""The user service as the chassis needs to know it, with nothing that runs. It hears nobody."""

from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from user_service.commands import PublishSigningKey, Register, RetireSigningKey
from user_service.decide import SERVICE, decide
from user_service.evolve import evolve
from user_service.react import react
from user_service.state import Users
from user_service.store import STORE

OBEYS = (Register, PublishSigningKey, RetireSigningKey)


def decider() -> Decider[Users]:
    return Decider(SERVICE, decide, evolve, react)


def service(settings: Settings) -> Service[Users]:
    return Service(decider(), STORE, commands=OBEYS)
