"""The notification service put together."""

from fastapi import FastAPI

from chassis import clock
from chassis.runtime import Runtime
from chassis.service import Service, Waiting
from chassis.settings import Settings
from chassis.step import Decider
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.user import SigningKeyPublished, UserRegistered
from notification_service import api
from notification_service.decide import SERVICE, decide
from notification_service.evolve import evolve
from notification_service.mailer import Mailer
from notification_service.queries import PENDING
from notification_service.react import react
from notification_service.state import Notifications
from notification_service.store import SHELVES

HEARS = (UserRegistered, SigningKeyPublished, PaymentConfirmed, PaymentRejected, PaymentRefunded)


def decider() -> Decider[Notifications]:
    return Decider(SERVICE, decide, evolve, react)


def service(settings: Settings) -> Service[Notifications]:
    return Service(decider(), SHELVES, HEARS, Waiting("mails to be sent", PENDING))


def build(settings: Settings) -> tuple[Runtime[Notifications], FastAPI]:
    runtime = Runtime(service(settings), settings)
    if settings.smtp_url:
        mailer = Mailer(runtime.kernel, runtime.engine, settings.smtp_url, clock.now)
        runtime.kernel.on_commit.append(lambda keys: mailer.wake())
        runtime.jobs.append(mailer.run)
    return runtime, runtime.app(api.router(runtime))
