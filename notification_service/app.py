"""The notification service put together."""

from fastapi import FastAPI

from choreo.chassis.instance import owner_of
from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings
from notification_service import api
from notification_service.mailer import Mailer
from notification_service.service import service
from notification_service.state import Notifications


def build(
    settings: Settings, runtime_of: type[Runtime[Notifications]] = Runtime
) -> tuple[Runtime[Notifications], FastAPI]:
    runtime = runtime_of(service(settings), settings)
    if settings.smtp_url:
        job, owner = runtime.health.job("mailer"), owner_of(settings.instance)
        mailer = Mailer(runtime.kernel, runtime.engine, settings.smtp_url, job, owner)
        runtime.kernel.on_commit.append(lambda keys: mailer.wake())
        runtime.watch("mailer", mailer.run)
    return runtime, runtime.app(api.router(runtime))
