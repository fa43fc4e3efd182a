"""Server-sent events: what is known of a thing, and then what becomes of it, until nothing can follow."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from random import uniform

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from choreo.chassis.waiting.waiters import Look, Waiters

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = 15.0
"""Seconds of silence after which, at the latest, a comment shows that the stream is alive, and finds out who
is gone: not in all streams at once, though they were opened or woken at once.
"""


@dataclass(frozen=True, slots=True)
class Story:
    """Numbered events, the numbers rising, and whether that was all there can ever be."""

    events: Sequence[tuple[int, BaseModel]]
    over: bool

    def after(self, number: int) -> "Story":
        return Story([event for event in self.events if event[0] > number], self.over)


async def event_stream(waiters: Waiters, key: str, look: Look[Story], after: int, of: Hashable) -> Response:
    """The events after this number, then those to come. `look` is asked again whenever the key was woken, and
    each time once for all streams `of` the same.

    204 where nothing can follow any more, which tells a browser not to connect again. Raises what the first
    `look` raises.
    """
    first = (await waiters.look(key, look, of)).after(after)
    if first.over and not first.events:
        return Response(status_code=204)
    told = _told(waiters, key, look, after, of)
    return StreamingResponse(told, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})


async def _told(
    waiters: Waiters, key: str, look: Look[Story], after: int, of: Hashable
) -> AsyncIterator[bytes]:
    with waiters.watching(key) as signal:
        seen = await waiters.look(key, look, of)
        while True:
            story = seen.after(after)
            for after, data in story.events:
                yield b"id: %d\ndata: %b\n\n" % (after, data.model_dump_json().encode())
            if story.over or waiters.closed:
                return
            while not signal.is_set():
                try:
                    async with asyncio.timeout(HEARTBEAT * uniform(0.5, 1)):
                        await signal.wait()
                except TimeoutError:
                    yield b": \n\n"
            signal.clear()
            seen = await waiters.look(key, look, of)
