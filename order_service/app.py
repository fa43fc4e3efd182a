"""The order service put together."""

from fastapi import FastAPI

from choreo.chassis import clock
from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings
from order_service import api
from order_service.admission import Admission
from order_service.expiry import Expiry
from order_service.service import deadline, service
from order_service.state import Orders


def build(settings: Settings, runtime_of: type[Runtime[Orders]] = Runtime) -> tuple[Runtime[Orders], FastAPI]:
    runtime = runtime_of(service(settings), settings)
    expiry = Expiry(
        runtime.kernel,
        runtime.engine,
        runtime.catch_up_of("billing"),
        clock.now,
        deadline(settings),
        runtime.health.job("timers"),
    )
    admission = Admission(
        runtime.engine,
        clock.now,
        deadline(settings),
        runtime.partition_of,
        runtime.health.job("admission"),
        runtime.unpublished_since,
    )
    runtime.watch("timers", expiry.run)
    runtime.watch("admission", admission.run)
    return runtime, runtime.app(api.router(runtime, admission))
