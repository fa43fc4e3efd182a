"""A guard nobody misses guards nothing: each is taken out once, and the suite has to notice."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from choreo.embedded.process import tied_to_this_process
from tests.removals.guards import GUARDS, ON_KAFKA, Guard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "delivery.md"
AT_ONCE = 2
PATIENCE = 60.0
"""Seconds for the test of one guard, with its share of a start."""

ENVIRONMENT = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "1000"}
"""No plugin is loaded that is not needed; and the last lines of pytest's report are whole."""

_BAD = ("FAILED tests/", "ERROR tests/")
_ROW = re.compile(r"^\| `([\w-]+)` \| (.+?) \| `(tests/.+?)` \|$", re.MULTILINE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outputs(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, "asyncio.Task[str]"]]:
    """For each guard that is to be tested, what pytest says of the test that is to notice."""
    wanted = {
        item.callspec.params.get("guard") for item in request.session.items if hasattr(item, "callspec")
    }
    room = asyncio.Semaphore(AT_ONCE)
    tasks: dict[str, asyncio.Task[str]] = {}
    for batch in batches([guard for guard in GUARDS.values() if guard in wanted]):
        tasks |= dict.fromkeys((guard.name for guard in batch), asyncio.create_task(run(batch, room)))
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


def batches(guards: Sequence[Guard]) -> list[list[Guard]]:
    """As many as there may be at once, or more: of those that one test notices, no two are in the same. What
    needs a Kafka shares one, in the first.
    """
    found: list[list[Guard]] = [[] for _ in range(min(AT_ONCE, len(guards)))]
    on_kafka = [guard for guard in guards if guard.noticed_by.startswith(ON_KAFKA)]
    for guard in (*on_kafka, *(guard for guard in guards if guard not in on_kafka)):
        free = [batch for batch in found if guard.noticed_by not in {other.noticed_by for other in batch}]
        if free:
            (free[0] if guard in on_kafka else min(free, key=len)).append(guard)
        else:
            found.append([guard])
    return found


async def run(batch: Sequence[Guard], room: asyncio.Semaphore) -> str:
    async with room:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.removals.each_without_its_guard"),
            *(guard.name for guard in batch),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=tied_to_this_process(signal.SIGKILL),
        )
        try:
            async with asyncio.timeout(PATIENCE * len(batch)):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == pytest.ExitCode.TESTS_FAILED, output.decode()
        return output.decode()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
async def test_the_suite_notices_that_a_guard_is_gone(
    guard: Guard, outputs: dict[str, "asyncio.Task[str]"]
) -> None:
    output = await outputs[guard.name]
    print(output)
    told = [line for line in output.splitlines() if guard.noticed_by in line and line.startswith(_BAD)]
    assert told, "nobody noticed"
    (failed,) = told
    assert failed.startswith(f"FAILED {guard.noticed_by} - ")
    assert "TimeoutError" not in failed, "it did not fail: it waited in vain"


def test_the_page_lists_the_guards_and_who_misses_them() -> None:
    assert _ROW.findall(PAGE.read_text()) == [
        (guard.name, guard.without, guard.noticed_by) for guard in GUARDS.values()
    ]
