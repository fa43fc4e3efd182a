"""A service that is called, and calls: the product's, but for the ways by which facts go out and come in."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import httpx2
from fastapi import FastAPI
from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.routes import Router
from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.registry import port_of, services
from choreo.chassis.runtime import Runtime, build_of, serve
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.inputs import Respond, SideWrite
from choreo.message.decider import Command
from choreo.styles.composition import COMPOSITIONS, Composition
from choreo.styles.http.api import router
from choreo.styles.http.callee import CALL_TIMEOUT_SECONDS, Callee
from choreo.styles.http.calls import Calls, Recipient
from choreo.styles.http.door import Door

S = TypeVar("S")


class CallSettings(BaseSettings):
    """What a service needs to call, and to know who calls."""

    model_config = SettingsConfigDict(env_prefix="CHOREO_", env_ignore_empty=True, frozen=True)

    service_credential: SecretStr
    caller_digests: Mapping[str, str] = Field(description="of the credentials of those that may call")


class HttpRuntime(Runtime[S]):
    composition: ClassVar[Composition] = COMPOSITIONS["http"]

    def connect(self, service: Service[S]) -> None:
        told = self.told()
        credential = told.service_credential.get_secret_value()
        callers = self.composition.callers_of(service.name)
        self.door = Door(
            self.kernel, self.engine, service.consumes, self.partition_of, self.settings.partitions
        )
        self.calls = Calls(
            service.name,
            [
                Callee(name, self.client(name), credential)
                for name in self.composition.calls.get(service.name, ())
            ],
            self.topics(),
            callers,
            consumers(self.settings),
            self.door,
            self.engine,
            job=self.health.job("calls"),
            meter=self.meter,
        )
        digests = {name: digest for name, digest in told.caller_digests.items() if name in callers}
        self._internal = router(self.door, self.calls, digests)
        self.watch("calls", self.calls.run)
        self.kernel.on_facts.append(self.calls.wake)

    def told(self) -> CallSettings:
        return CallSettings()  # from the environment

    def client(self, callee: str) -> httpx2.AsyncClient:
        url = f"http://127.0.0.1:{port_of(callee, self.settings)}"
        return httpx2.AsyncClient(base_url=url, timeout=CALL_TIMEOUT_SECONDS, trust_env=False)

    def topics(self) -> Sequence[Recipient]:
        """Where facts go beside those that are called."""
        return ()

    async def ask(
        self,
        command: Command,
        respond: Respond,
        *,
        body: BaseModel | None = None,
        side_write: SideWrite | None = None,
        admit: bool = True,
    ) -> Answer:
        """What is decided is stored first, and then those that are called are called: the client waits."""
        answer = await super().ask(command, respond, body=body, side_write=side_write, admit=admit)
        await self.calls.through(command.key)
        return answer

    def catch_up_of(self, other: str) -> CatchUp:
        return AskedAgain(self.service, self.engine, self.calls, self.partition_of, self.settings.partitions)

    async def unpublished_since(self, conn: Connection) -> Mapping[int, datetime]:
        """None: what waits for a mail keeps no order undecided, and what does is undecided itself."""
        return {}

    def app(self, *routers: Router) -> FastAPI:
        return super().app(*routers, self._internal)


class AskedAgain(CatchUp):
    """Everybody who was to be called is called once more. Whoever is away cannot be waited for."""

    def __init__(
        self,
        service: str,
        engine: AsyncEngine,
        calls: Calls,
        partition_of: Callable[[str], int],
        partitions: int,
    ) -> None:
        super().__init__(service, "", engine, describe=_no_topic, partition_of=partition_of)
        self._calls = calls
        self._all = frozenset(range(partitions))

    async def read(self, seconds: float) -> frozenset[int]:
        await self._calls.sweep(seconds)
        return self._all


async def _no_topic() -> Any:
    raise LookupError("there is no topic to be read")


def consumers(settings: Settings) -> Mapping[str, Collection[str]]:
    """By type, the services that hear of it."""
    found: dict[str, set[str]] = {}
    for name, service in services(settings).items():
        for fact in service.consumes:
            found.setdefault(fact.__name__, set()).add(name)
    return found


def main(runtime: type[HttpRuntime[Any]]) -> None:
    """Runs the service that is named first on the command line."""
    name = sys.argv[1]
    serve(name, build_of(name, runtime))
