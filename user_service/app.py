"""The user service put together. It hears nobody."""

from fastapi import FastAPI

from chassis import clock
from chassis.runtime import Runtime
from chassis.service import Service
from chassis.settings import Settings
from chassis.step import Decider
from user_service import api
from user_service.decide import SERVICE, decide
from user_service.evolve import evolve
from user_service.passwords import Passwords
from user_service.react import react
from user_service.signing import Signer
from user_service.state import Users
from user_service.store import SHELVES


def decider() -> Decider[Users]:
    return Decider(SERVICE, decide, evolve, react)


def service(settings: Settings) -> Service[Users]:
    return Service(decider(), SHELVES)


def build(settings: Settings) -> tuple[Runtime[Users], FastAPI]:
    runtime = Runtime(service(settings), settings)
    signer = Signer(runtime.kernel, runtime.engine, clock.now)
    runtime.jobs.append(signer.run)
    return runtime, runtime.app(api.router(runtime), api.public_router(runtime, signer, Passwords()))
