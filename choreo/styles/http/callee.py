"""A service as its callers see it: told facts, it answers with what it has decided and they consume."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import httpx2
import orjson

from choreo.chassis.transaction.outbox import OutboxRow
from choreo.styles.http.wire import from_wire, to_wire

FACTS_PATH, SETTLED_PATH = "/internal/facts", "/internal/settled"
CALL_TIMEOUT_SECONDS = 2.0
AWAY_SECONDS = 1.0
"""So long nobody asks again where there was no answer."""
_ATTEMPTS = 2
"""Where the connection was of no use. A call that takes too long is not repeated by whoever waits for it."""
_AT_ONCE = 32
_BODY_BYTES = 40 * 1024
"""Of facts in a call; a body may have 64 KiB."""


logging.getLogger("httpx2").setLevel(logging.WARNING)  # the callee's log has every call, and how long it took


class CalleeAway(Exception):
    """It does not answer, or not with what was asked for. What it was told it may have taken."""


class Reached:
    """Somebody who is told, and for a moment is not asked again where there was no answer."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        """Why the last attempt failed."""
        self._away_until = 0.0

    @property
    def is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def _require(self) -> None:
        if self.is_away:
            raise CalleeAway(self.trouble)

    def _away(self, trouble: str) -> CalleeAway:
        """To be raised."""
        self._away_until, self.trouble = time.monotonic() + AWAY_SECONDS, trouble
        return CalleeAway(trouble)


class Callee(Reached):
    """Every call may be repeated: what it brings has ids, and the callee knows those it has seen."""

    def __init__(self, name: str, http: httpx2.AsyncClient, credential: str) -> None:
        """`http` knows where it is."""
        super().__init__()
        self.name = name
        self._http = http
        self._headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def tell(
        self, key: str, facts: Sequence[OutboxRow], after: UUID | None = None
    ) -> Sequence[OutboxRow]:
        """Returns once all of them are committed there, with what the callee has for us: of this key; or of
        all where there is none, and then the first that come after this fact. Raises `CalleeAway`.
        """
        answer: Any = {}
        for part in _parts(facts):
            asked = {"key": key, "facts": part, "after": str(after) if after else None}
            answer = await self._post(FACTS_PATH, asked)
        return [from_wire(fact) for fact in answer["facts"]]

    async def settle(self, ids: Sequence[UUID]) -> None:
        """We have these, and whoever must hear of them through us. Raises `CalleeAway`."""
        await self._post(SETTLED_PATH, {"ids": [str(id) for id in ids]})

    async def _post(self, path: str, content: dict[str, Any]) -> Any:
        body = orjson.dumps(content)
        async with self._turns:
            self._require()
            try:
                async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                    answer = await self._answer(path, body)
                if answer.status_code != 200:
                    raise CalleeAway(f"it answered {answer.status_code}")
            except (CalleeAway, TimeoutError, httpx2.HTTPError) as error:
                reason = str(error) or type(error).__name__
                raise self._away(f"{self.name} cannot be called: {reason}") from error
        self.trouble = None
        return orjson.loads(answer.content)

    async def _answer(self, path: str, body: bytes) -> httpx2.Response:
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._http.post(path, content=body, headers=self._headers)
            except (httpx2.ConnectError, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
                continue  # a connection that was kept open and is of no use any more
        return await self._http.post(path, content=body, headers=self._headers)


def _parts(facts: Sequence[OutboxRow]) -> Iterator[list[dict[str, Any]]]:
    """In their order, each as large as a body may be; one at least, which may be empty."""
    part: list[dict[str, Any]] = []
    size = 0
    for fact in facts:
        if part and size + len(fact.value) + len(fact.headers) > _BODY_BYTES:
            yield part
            part, size = [], 0
        part.append(to_wire(fact))
        size += len(fact.value) + len(fact.headers)
    yield part
