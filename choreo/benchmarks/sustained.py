"""How many orders a second are finished for as long as one likes: a closed loop."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from choreo.benchmarks.costs.insight import Insight, Instruments
from choreo.benchmarks.load import ClosedLoop
from choreo.benchmarks.observe import OUTCOMES, Applied, Journals, until
from choreo.benchmarks.resources import cpu_seconds
from choreo.benchmarks.users import OrderMaker, with_lasting_tokens
from choreo.progress import Progress

CONNECTIONS = 64
WINDOW = 500
_WARM_UP_SECONDS = 5.0
_TICK = 0.1
_DRAIN_TIMEOUT_SECONDS = 60.0
_MAIL_TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True)
class Sustained:
    """Closed loop: customers order again once answered, while less than `window` orders are on their way."""

    connections: int
    window: int
    seconds: float
    orders_per_second: float
    """The least of the three below."""
    accepted_per_second: float
    decided_per_second: float
    notified_per_second: float
    on_their_way_at_begin: int
    """Accepted, but not yet both decided and notified, as the metrics had it at most 0.1 s before."""
    on_their_way_at_end: int
    drained_after_seconds: float
    mails_waiting_at_end: int
    """When the last order that counts had been sent."""
    mails_drained_after_seconds: float | None
    """From when all orders were notified, those included that were sent while statements were counted. None:
    not within the time allowed."""
    cpu_ms_per_order: Mapping[str, float]
    """By part, and of the load generator."""
    cpu_cores_used: float
    more: Insight | None
    """None of a system that publishes no facts."""


async def sustained(
    makers: Sequence[OrderMaker],
    ports: Mapping[str, int],
    pids: Mapping[str, int],
    journals: Journals,
    seconds: float,
    progress: Progress,
    instruments: Instruments | None = None,
) -> Sustained:
    """With instruments there is `more` to tell."""
    await with_lasting_tokens(makers, ports["user"])
    finished = [Applied(ports[service]) for service in ("order", "notification")]
    for applied in finished:
        await applied.begin()
    loop = ClosedLoop(makers, ports["order"], CONNECTIONS, WINDOW)
    running = asyncio.ensure_future(loop.run())
    watching = asyncio.ensure_future(_watch(loop, finished))
    try:
        await while_running(running, _WARM_UP_SECONDS, lambda passed: progress.stage("sustained: warm-up"))
        begin, accepted_before, queue_before = time.time(), loop.accepted, loop.on_its_way
        cpu_before = cpu_seconds(pids)
        if instruments:
            await instruments.begin()

        def tell(passed: float) -> None:
            rate = (loop.accepted - accepted_before) / passed if passed else 0
            what = f"sustained: {rate:.0f} orders/s, {loop.on_its_way} on their way"
            progress.step(what, passed, seconds, passed, timed=True)

        await while_running(running, seconds, tell)
        end, accepted, queue = time.time(), loop.accepted - accepted_before, loop.on_its_way
        cpu_after = cpu_seconds(pids)
        mails_at_end = journals.pending_mails()
        if instruments:
            progress.stage("sustained: counting statements")
            await instruments.end(lambda: loop.finished)
        loop.stop()
        await running
        progress.stage("sustained: draining what is on its way")
        drained = await until(lambda: loop.on_its_way <= 0, _DRAIN_TIMEOUT_SECONDS)
    finally:
        for task in (running, watching):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for applied in finished:
            applied.close()
    if drained is None:
        raise TimeoutError(
            f"{loop.on_its_way} orders were not decided and notified within {_DRAIN_TIMEOUT_SECONDS:.0f} s "
            "after the load"
        )
    progress.stage(f"sustained: sending the mails that wait ({journals.pending_mails()})")
    unmailed = journals.unmailed if instruments else journals.pending_mails
    mails_drained = await until(lambda: not unmailed(), _MAIL_TIMEOUT_SECONDS, every=0.5)
    passed = end - begin
    rates = {
        "accepted": accepted / passed,
        "decided": journals.how_many("order", OUTCOMES, begin, end) / passed,
        "notified": journals.how_many("notification", OUTCOMES, begin, end) / passed,
    }
    cpu = {name: cpu_after[name] - cpu_before[name] for name in pids}
    orders = max(1.0, min(rates.values()) * passed)
    return Sustained(
        CONNECTIONS,
        WINDOW,
        round(passed, 1),
        orders_per_second=round(min(rates.values()), 1),
        accepted_per_second=round(rates["accepted"], 1),
        decided_per_second=round(rates["decided"], 1),
        notified_per_second=round(rates["notified"], 1),
        on_their_way_at_begin=queue_before,
        on_their_way_at_end=queue,
        drained_after_seconds=round(drained, 2),
        mails_waiting_at_end=mails_at_end,
        mails_drained_after_seconds=None if mails_drained is None else round(mails_drained, 1),
        cpu_ms_per_order={name: round(1000 * used / orders, 3) for name, used in cpu.items()},
        cpu_cores_used=round(sum(cpu.values()) / passed, 2),
        more=await instruments.insight(loop, journals, begin, end, orders) if instruments else None,
    )


async def _watch(loop: ClosedLoop, finished: Sequence[Applied]) -> None:
    """An order is finished when both have applied its outcome."""
    while True:
        loop.has_finished(min([await applied.count() for applied in finished]))
        await asyncio.sleep(_TICK)


async def while_running(
    running: "asyncio.Future[None]", seconds: float, tell: Callable[[float], None]
) -> None:
    """Returns after so many seconds; raises what ended the load if it ended before."""
    since = time.monotonic()
    while (passed := time.monotonic() - since) < seconds:
        tell(passed)
        done, _ = await asyncio.wait({running}, timeout=min(1.0, seconds - passed))
        if done:
            await running
            raise ConnectionError("the load ended too early")
