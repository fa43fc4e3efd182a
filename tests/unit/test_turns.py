"""Who is next, and who reads next: each user in turn, however often he asks."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from choreo.chassis.waiting import turns as module
from choreo.chassis.waiting.turns import BEGUN_IN_A_ROUND, Pace, TooManyBefore, Turns


class Crowd:
    """Askers, and the order in which they had their turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []

    def ask(self, whose: str, times: int = 1) -> list["asyncio.Task[None]"]:
        return [asyncio.create_task(self._one(whose)) for _ in range(times)]

    async def _one(self, whose: str) -> None:
        async with self.turns.one(whose):
            self.order.append(whose)


async def test_who_asks_a_thousand_times_waits_for_himself() -> None:
    crowd = Crowd(Turns(1))
    async with crowd.turns.one("mallory"):
        asked = [*crowd.ask("mallory", 1000), *crowd.ask("ada", 2), *crowd.ask("eve")]
        await asyncio.sleep(0)
    await asyncio.gather(*asked)
    assert crowd.order[:6] == ["mallory", "ada", "eve", "mallory", "ada", "mallory"]
    assert len(crowd.order) == 1003


async def test_no_more_than_so_many_at_once_and_nobody_waits_while_there_is_room() -> None:
    crowd = Crowd(Turns(2))
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(crowd.turns.one("mallory"))
        waiting = crowd.ask("ada")
        await asyncio.sleep(0)
        assert not crowd.order
    await asyncio.gather(*waiting)
    async with crowd.turns.one("ada"), crowd.turns.one("eve"):
        pass


async def test_who_leaves_gives_his_turn_on() -> None:
    crowd = Crowd(Turns(1))
    async with crowd.turns.one("mallory"):
        early, late, ada = crowd.ask("mallory", 2) + crowd.ask("ada")
        await asyncio.sleep(0)
        early.cancel()
    late.cancel()  # whose turn it is by now
    await asyncio.wait([early, late, ada])
    assert crowd.order == ["ada"]
    async with crowd.turns.one("eve"):
        pass


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_TIMEOUT_SECONDS", 0.0)
    crowd = Crowd(Turns(1))
    async with crowd.turns.one("mallory"):
        with pytest.raises(TooManyBefore):
            await asyncio.gather(*crowd.ask("mallory"))
    await asyncio.gather(*crowd.ask("ada"))


async def test_of_what_is_ready_at_once_a_few_are_begun_and_others_are_not_last() -> None:
    pace, begun, rounds = Pace(), [], 0

    async def begin(whose: str) -> None:
        await pace.begin(whose)
        begun.append((rounds, whose))

    asking = [asyncio.create_task(begin("mallory")) for _ in range(1000)]
    asking.append(asyncio.create_task(begin("ada")))
    while not all(task.done() for task in asking):
        await asyncio.sleep(0)
        rounds += 1
    of_a_round = Counter(round for round, _ in begun)
    assert max(of_a_round.values()) <= BEGUN_IN_A_ROUND
    assert "ada" in dict.fromkeys(whose for _, whose in begun[: 3 * BEGUN_IN_A_ROUND]), "soon"
    assert len(begun) == 1001


async def test_who_leaves_the_line_takes_nobodys_place() -> None:
    pace = Pace()
    asking = [asyncio.create_task(pace.begin("mallory")) for _ in range(3 * BEGUN_IN_A_ROUND)]
    await asyncio.sleep(0)
    for task in asking[BEGUN_IN_A_ROUND:]:
        task.cancel()
    await asyncio.wait_for(pace.begin("ada"), 20)
    await asyncio.gather(*asking, return_exceptions=True)
    for _ in range(3):
        await asyncio.wait_for(pace.begin("ada"), 20)
