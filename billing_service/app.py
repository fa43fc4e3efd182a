"""Billing put together."""

from fastapi import FastAPI

from billing_service import api
from billing_service.service import service
from billing_service.state import Billing
from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings


def build(
    settings: Settings, runtime_of: type[Runtime[Billing]] = Runtime
) -> tuple[Runtime[Billing], FastAPI]:
    runtime = runtime_of(service(settings), settings)
    return runtime, runtime.app(api.router(runtime))
