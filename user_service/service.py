"""The user service as the chassis needs to know it, with nothing that runs. It consumes nothing."""

from choreo.chassis.service import Check, End, Id, Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from events.user import UserRegistered
from user_service.commands import Commands
from user_service.decide import SERVICE, decide
from user_service.evolve import evolve
from user_service.queries import BY_EMAIL, BY_LOGIN, NAMED_TWICE
from user_service.signing import Signer
from user_service.state import Users, compared
from user_service.store import STORE

NAMES = Check("names", NAMED_TWICE, "see docs/operations.md, Names: ask who lost a name to register another")

IDS = (
    Id("login", BY_LOGIN, compared, (UserRegistered, "login")),
    Id("e-mail address", BY_EMAIL, compared, (UserRegistered, "email")),
)


def decider() -> Decider[Users]:
    return Decider(SERVICE, decide, evolve)


def service(settings: Settings) -> Service[Users]:
    return Service(
        decider(),
        STORE,
        commands=types_of(Commands),
        checks=(NAMES,),
        signer=Signer,
        ids=IDS,
        ends={"users": End(("login", "email"))},
        needs_all_keys=True,
        port_offset=1,
    )
