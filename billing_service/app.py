"""Billing put together."""

from fastapi import FastAPI

from billing_service import api
from billing_service.service import service
from billing_service.state import Billing
from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings


def build(settings: Settings) -> tuple[Runtime[Billing], FastAPI]:
    runtime = Runtime(service(settings), settings)
    return runtime, runtime.app(api.router(runtime))
