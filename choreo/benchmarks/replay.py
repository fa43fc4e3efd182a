"""Whether a log of some length replays to what is live, how fast, and in how much memory.

The verbs run as processes, as a person runs them. Their time is that of the process, start and end and all.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.observe import Journals
from choreo.benchmarks.resources import resident
from choreo.benchmarks.shoppers import place_order, shop
from choreo.benchmarks.users import Refused, User, renewed
from choreo.chassis.kafka.log_reader import describe_retrying
from choreo.chassis.registry import all_topics, service_names
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.installation import observer_access
from choreo.progress import Progress

_EVERY = 1.0
"""Seconds between two looks at how long the log is."""
_WAIT_TIMEOUT_SECONDS = 600.0
_PARKED = 3
_SAMPLED = 0.1
"""Seconds between two looks at the memory of a verb."""


@dataclass(frozen=True)
class Verb:
    events: int
    """Records on all topics when it ran."""
    command: str
    exit_code: int
    verdict: str
    """What it calls that, and the first thing it found."""
    count: int
    what: str
    """Of which there are so many."""
    seconds: float
    per_second: float
    cpu_seconds: float
    """Of all its processes together."""
    per_cpu_second: float
    """What a core does, however many it had."""
    further_per_cpu_second: float | None
    """The same of those alone that the verb had not counted the time before, on a shorter log: without its
    start and whatever it does once. None the first time.
    """
    peak_mib: float
    """RSS of all its processes together, looked at ten times a second."""


@dataclass(frozen=True)
class Replay:
    """The log is made by customers who do all there is to do, and one of them is parked in billing."""

    events: int
    """Records on all topics."""
    orders: Mapping[str, int]
    """By status, before the parked events are retried."""
    parked: int
    """Events of the one key."""
    verbs: Sequence[Verb]
    """In their order: the first of each when the log had a quarter of its length, the last rebuilds after the
    retry.
    """


async def replay(
    system: ThrowawaySystem,
    users: Sequence[User],
    journals: Journals,
    events: int,
    progress: Progress,
) -> Replay:
    unlucky, *others = users
    with tempfile.TemporaryDirectory(prefix="choreo-bench-") as directory:
        recording = f"{directory}/log.ndjson"
        verbs = _Verbs(system, Path(directory), progress)
        await _make_log(events // 4, system, others, journals, progress)
        await _look_back(verbs, recording)
        await _rebuild(verbs)
        await _park(unlucky, system.run_file["ports"], journals)
        await _make_log(events, system, others, journals, progress)
        orders, parked, length = journals.orders(), journals.parked(), await _length(system)
        await _look_back(verbs, recording)
        order = journals.an_order("refunded")
        await verbs.run("trace ORDER", (order, "--format", "json"), "order", lambda _: 1)
        await verbs.run("dlq retry", (), "events", lambda _: parked)
        await _rebuild(verbs)
    return Replay(length, orders, parked, verbs.done)


async def _look_back(verbs: "_Verbs", recording: str) -> None:
    await verbs.run("verify", (), "items", _items)
    recorded = await verbs.run("record", ("-o", recording), "lines", _lines)
    await verbs.run("verify FILE", (recording,), "items", _items)
    inputs = recorded["counts"]["journal of billing"]
    state = ("--at", "-0s", "--table", "accounts")
    await verbs.run("state billing FILE", (recording, *state), "inputs", lambda _: inputs)
    await verbs.run("state billing", state, "inputs", lambda _: inputs)


async def _rebuild(verbs: "_Verbs") -> None:
    for service in service_names():
        await verbs.run(f"rebuild {service}", (), "facts", lambda told: int(told["facts"]))


def _items(verified: Any) -> int:
    return int(verified["counts"]["items"])


def _lines(manifest: Any) -> int:
    return sum(manifest["counts"].values())


async def _make_log(
    events: int, system: ThrowawaySystem, users: Sequence[User], journals: Journals, progress: Progress
) -> None:
    """Returns when there are so many and nothing is on its way."""
    enough, since, before = asyncio.Event(), time.monotonic(), await _length(system)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(shop(users, system.run_file["ports"], enough.is_set))
        while (there := await _length(system)) < events:
            passed = time.monotonic() - since
            progress.step("replay: events made", there - before, events - before, passed)
            await asyncio.sleep(_EVERY)
        enough.set()
    progress.stage("replay: until everything is decided and mailed")
    await _until(lambda: not journals.undecided() and not journals.pending_mails())


async def _park(user: User, ports: Mapping[str, int], journals: Journals) -> None:
    """Orders which billing's database refuses, for as long as that takes. They expire."""
    service, order = Connection(ports["user"]), Connection(ports["order"])
    user = await renewed(service, user)
    with journals.billing_refuses(user.id):
        for _ in range(_PARKED):
            await place_order(order, user, 1)
        await _until(lambda: journals.parked() >= _PARKED)
    service.close()
    order.close()


async def _until(enough: Callable[[], bool]) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(_WAIT_TIMEOUT_SECONDS):
        while not enough():  # noqa: ASYNC110 - another process gives no signal
            await asyncio.sleep(_EVERY)


async def _length(system: ThrowawaySystem) -> int:
    facts = system.run_file
    topics = all_topics(facts["topic_prefix"])
    return sum(log.latest for log in (await describe_retrying(observer_access(facts), topics)).values())


class _Verbs:
    """Runs them on one system, and keeps what is to be told of each."""

    def __init__(self, system: ThrowawaySystem, directory: Path, progress: Progress) -> None:
        self.done: list[Verb] = []
        self._system = system
        self._output, self._errors = directory / "output", directory / "errors"
        self._progress = progress

    async def run(
        self, command: str, arguments: Sequence[str], what: str, count: Callable[[Any], int]
    ) -> Any:
        """The JSON it printed. Words in capitals stand for an argument. Raises `Refused` if there is none."""
        self._progress.stage(f"replay: choreo {command}")
        words = [word for word in command.split() if not word.isupper()]
        events, began, cpu_before = await _length(self._system), time.monotonic(), _cpu_of_ended_children()
        exit_code, peak = self._wait(*words, *arguments, *(["--json"] if words != ["trace"] else []))
        seconds, cpu = time.monotonic() - began, _cpu_of_ended_children() - cpu_before
        printed = self._output.read_text()
        if not printed:
            raise Refused(f"choreo {command} exited {exit_code}: {self._errors.read_text()[-500:].strip()}")
        told = json.loads(printed)
        number = count(told)
        before = next((one for one in reversed(self.done) if one.command == command), None)
        further = round(_further(before, number, cpu), 1) if before else None
        verb = Verb(
            events,
            command,
            exit_code,
            _verdict(told),
            number,
            what,
            round(seconds, 2),
            round(number / seconds, 1),
            round(cpu, 2),
            round(number / max(cpu, 0.01), 1),
            further,
            round(peak / 2**20, 1),
        )
        self.done.append(verb)
        self._progress.stage(
            f"replay: choreo {command} exits {f'{exit_code} {verb.verdict}'.strip()} "
            f"after {seconds:.1f} s: {number} {what}, {verb.peak_mib:.0f} MiB"
        )
        return told

    def _wait(self, *arguments: str) -> tuple[int, int]:
        """Its exit code, and the most that it and its children held, in bytes."""
        program, peak = [sys.executable, "-m", "choreo.cli.main", *arguments], 0
        with (
            self._output.open("wb") as out,
            self._errors.open("wb") as err,
            subprocess.Popen(program, env=self._system.environment, stdout=out, stderr=err) as process,
        ):
            try:
                while process.poll() is None:
                    peak = max(peak, resident(process.pid))
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_SAMPLED)
            except BaseException:
                process.kill()
                raise
        return process.returncode, peak


def _further(before: Verb, count: int, cpu_seconds: float) -> float:
    return (count - before.count) / max(cpu_seconds - before.cpu_seconds, 0.01)


def _cpu_of_ended_children() -> float:
    """Seconds, of user and system; what they themselves had waited for is in it."""
    used = os.times()
    return used.children_user + used.children_system


def _verdict(told: Any) -> str:
    """Its own word, and the first thing it found."""
    if not isinstance(told, dict) or "verdict" not in told:
        return ""
    found = [*told.get("not_deterministic", []), *told["findings"]]
    return f"{told['verdict']}: {found[0]['says']}" if found else str(told["verdict"])
