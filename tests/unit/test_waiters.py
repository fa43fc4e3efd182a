"""Who waits for the same thing looks once for each wake, and never at what was before it."""

import asyncio
from contextlib import AsyncExitStack

from choreo.chassis.waiting.turns import AT_ONCE
from choreo.chassis.waiting.waiters import Waiters

PATIENCE = 20.0


class Look:
    """Counted, and slow until it is let go on."""

    def __init__(self) -> None:
        self.value = 0
        self.begun = 0
        self.go_on = asyncio.Event()
        self.begins = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.begins.set()
        seen = self.value
        await self.go_on.wait()
        return seen

    async def begin(self) -> None:
        """Returns once another has begun."""
        self.begins.clear()
        async with asyncio.timeout(PATIENCE):
            await self.begins.wait()


async def everybody(waiters: Waiters, look: Look, number: int, enough: int) -> list["asyncio.Task[int]"]:
    """Waiting, after their first look, which they share."""
    look.go_on.set()
    tasks = [
        asyncio.create_task(waiters.until("key", PATIENCE, look, lambda seen: seen >= enough, of="it"))
        for _ in range(number)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert (look.begun, len(waiters)) == (1, number)
    look.go_on.clear()
    return tasks


async def test_all_who_are_woken_share_a_look() -> None:
    waiters, look = Waiters(), Look()
    tasks = await everybody(waiters, look, 40, enough=1)
    look.value, look.begun = 1, 0
    waiters.wake(["key"])
    await look.begin()
    look.go_on.set()
    assert await asyncio.gather(*tasks) == [1] * 40
    assert look.begun == 1


async def test_a_look_that_began_before_the_wake_is_nobodys_answer_to_it() -> None:
    waiters, look = Waiters(), Look()
    tasks = await everybody(waiters, look, 40, enough=2)
    look.value, look.begun = 1, 0
    waiters.wake(["key"])
    await look.begin()
    look.value = 2
    waiters.wake(["key"])
    look.go_on.set()
    assert await asyncio.gather(*tasks) == [2] * 40
    assert look.begun == 2


async def test_nobody_is_told_what_was_looked_at_before_he_asked() -> None:
    waiters, look = Waiters(), Look()
    first = asyncio.create_task(waiters.look("key", look, "it"))
    await look.begin()
    look.value = 1
    late = [asyncio.create_task(waiters.look("key", look, "it")) for _ in range(40)]
    await asyncio.sleep(0)
    look.go_on.set()
    assert (await first, await asyncio.gather(*late)) == (0, [1] * 40)
    assert look.begun == 2
    assert not waiters._under_way


async def test_who_waits_looks_by_turns_with_all_who_read() -> None:
    waiters, look = Waiters(), Look()
    async with AsyncExitStack() as held:
        for _ in range(AT_ONCE):
            await held.enter_async_context(waiters.turns.one("another"))
        waiting = asyncio.create_task(waiters.until("key", PATIENCE, look, bool, of="it"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not look.begun
    look.value = 1
    look.go_on.set()
    assert await waiting == 1


async def test_a_look_that_fails_fails_for_all_and_the_next_is_a_new_one() -> None:
    waiters, look = Waiters(), Look()
    tasks = await everybody(waiters, look, 3, enough=1)

    async def broken() -> int:
        raise OSError("away")

    looking = [asyncio.create_task(waiters.look("key", broken, "it")) for _ in range(2)]
    done = await asyncio.gather(*looking, return_exceptions=True)
    assert [type(each) for each in done] == [OSError] * 2
    look.value = 1
    waiters.wake(["key"])
    look.go_on.set()
    assert await asyncio.gather(*tasks) == [1] * 3
    assert not waiters._next and not waiters._under_way


async def test_who_gives_up_takes_nobodys_look_away() -> None:
    waiters, look = Waiters(), Look()
    one, other = await everybody(waiters, look, 2, enough=1)
    look.value = 1
    waiters.wake(["key"])
    await look.begin()
    one.cancel()
    await asyncio.wait([one])
    look.go_on.set()
    assert await other == 1
