"""The user service put together."""

from functools import partial

from fastapi import FastAPI

from choreo.chassis import clock
from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings
from user_service import api
from user_service.authentication import Authentication
from user_service.service import service
from user_service.signing import Signer
from user_service.state import Users


def build(settings: Settings, runtime_of: type[Runtime[Users]] = Runtime) -> tuple[Runtime[Users], FastAPI]:
    runtime = runtime_of(service(settings), settings)
    signer = Signer(runtime.kernel, runtime.engine, clock.now)
    authentication = Authentication(runtime.engine, clock.now, runtime.kernel.waiters.turns)
    runtime.watch("timers", partial(signer.run, runtime.health.job("timers")))
    runtime.jobs.append(authentication.limit.sweep)
    return runtime, runtime.app(
        api.router(runtime, authentication), api.public_router(runtime, signer, authentication)
    )
