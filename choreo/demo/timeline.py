"""What a client asked, and what came of it on Kafka: requests, and beneath each the events it caused."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import httpx2

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import LogReader, describe_retrying
from choreo.replay.trace.published_events import PublishedEvent, event_in


@dataclass
class Asked:
    """A request, or several that were alike and directly followed each other (`times`)."""

    service: str
    method: str
    path: str
    status: int
    ms: float
    at: float
    """When it was sent, in seconds since the epoch; of several the first."""
    flow: UUID | None
    times: int = 1

    def is_repeated_by(self, other: "Asked") -> bool:
        """Only of looking somebody grows tired."""
        return (self.method, self.service, self.path) == ("GET", other.service, other.path)


class RecordingTransport(httpx2.AsyncBaseTransport):
    """HTTP as usual; `note` is told of each request that was answered."""

    def __init__(self, service: str, note: Callable[[Asked], None]) -> None:
        self._service, self._note = service, note
        self._http = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        at, since = time.time(), time.perf_counter()
        answer = await self._http.handle_async_request(request)
        await answer.aread()
        ms = 1000 * (time.perf_counter() - since)
        flow = answer.headers.get("Flow-Id")
        path = request.url.raw_path.decode()
        self._note(
            Asked(
                self._service, request.method, path, answer.status_code, ms, at, UUID(flow) if flow else None
            )
        )
        return answer

    async def aclose(self) -> None:
        await self._http.aclose()


class EventReader:
    """Reads all topics from their present ends on. Joins no group and commits nothing. Use as a context."""

    def __init__(self, access: KafkaAccess, topics: Sequence[str]) -> None:
        self._access, self._topics = access, topics
        self._reader = LogReader(access)
        self._flows: dict[UUID, list[PublishedEvent]] = {}
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> "EventReader":
        log = await describe_retrying(self._access, self._topics)
        await self._reader.__aenter__()
        self._reader.assign({place: there.latest for place, there in log.items()})
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
        await self._reader.__aexit__(*error)

    def of(self, flow: UUID) -> list[PublishedEvent]:
        """What was seen of this flow so far."""
        return list(self._flows.get(flow, ()))

    async def until(
        self, flow: UUID, enough: Callable[[list[PublishedEvent]], bool], seconds: float
    ) -> list[PublishedEvent]:
        """The events of this flow, as soon as they are enough or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not enough(self.of(flow)):
                    if self._reading.done():
                        self._reading.result()
                    self._arrived.clear()
                    await self._arrived.wait()
        return self.of(flow)

    async def _read(self) -> None:
        while True:
            for fetched in await self._reader.poll():
                for record in fetched.records:
                    if seen := event_in(record):
                        self._flows.setdefault(seen.flow, []).append(seen)
            self._arrived.set()


@dataclass
class Timeline:
    """Requests in order, since the last time they were taken."""

    asked: list[Asked] = field(default_factory=list)

    def note(self, new: Asked) -> None:
        last = self.asked[-1] if self.asked else None
        if last and last.is_repeated_by(new):
            new.at, new.times = last.at, last.times + 1
            self.asked[-1] = new
        else:
            self.asked.append(new)

    def take(self) -> list[Asked]:
        taken, self.asked = self.asked, []
        return taken
