import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from choreo.embedded import process, supervise
from choreo.embedded.part import OnDemand, Part, Program
from choreo.embedded.ports import LOOPBACK
from choreo.embedded.supervise import Supervisor
from choreo.errors import Unavailable

SLEEP = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


class Enough(Exception):
    """Leaves a supervisor that would otherwise watch for ever."""


def program(directory: Path, name: str, code: str = SLEEP) -> Program:
    log = directory / f"{name}.log"
    return Program(
        name, [sys.executable, "-c", code], log=log, probe=lambda: log.read_text().endswith("up\n")
    )


def killed(directory: Path, times: int) -> tuple[Program, list[str], list[int | None]]:
    """A part that was killed so often, what was said, and its process each time it was ready."""
    said: list[str] = []
    pids: list[int | None] = []

    def on_change(part: Part) -> None:
        pids.append(part.pid)
        if len(pids) > times:
            raise Enough
        (directory / "shop.log").write_text("")
        part.kill()

    part = program(directory, "shop")
    with pytest.raises(Enough), Supervisor(said.append, on_change) as system:
        system.start(part)
        system.wait(part)
        system.watch()
    return part, said, pids


def test_a_part_that_dies_is_started_again_with_a_line(tmp_path: Path) -> None:
    part, said, pids = killed(tmp_path, 1)
    assert pids[0] != pids[1]
    assert said[0].startswith("shop is ready after")
    assert said[1].startswith("shop ended by itself (exit -9); starting it again at once")
    assert said[2].startswith("shop is ready again after")
    assert part.exit_code is not None


@pytest.mark.parametrize(
    ("steady_after", "pauses"), [(60.0, ["at once", "in 0.01 s", "in 0.02 s"]), (0.0, ["at once"] * 3)]
)
def test_it_is_at_once_and_then_the_pause_doubles_until_a_part_was_ready_for_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steady_after: float, pauses: list[str]
) -> None:
    monkeypatch.setattr(supervise, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervise, "_STEADY_AFTER", steady_after)
    _, said, _ = killed(tmp_path, 3)
    found = [re.search(r"it again (.+) \(", line) for line in said]
    assert [match[1] for match in found if match] == pauses


def test_while_it_watches_parts_come_and_go(tmp_path: Path) -> None:
    said: list[str] = []
    first, second = program(tmp_path, "first"), program(tmp_path, "second")

    def look() -> None:
        if second.child is None:
            system.add(second)
        elif any(line.startswith("second is ready") for line in said):
            system.end(second)
            assert (first.exit_code, second.exit_code) == (None, -signal.SIGTERM)
            raise Enough

    with pytest.raises(Enough), Supervisor(said.append) as system:
        system.start(first)
        system.wait(first)
        system.watch(look)
    assert said[-1] == "second is stopped"
    assert first.exit_code is not None


ONE_ANSWER = """
import os, socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
print("up", flush=True)
listening.accept()[0].sendall(str(os.getpid()).encode())
"""
"""After which it has nothing to do."""


def test_a_part_on_demand_runs_while_it_is_wanted_and_nobody_is_refused(tmp_path: Path) -> None:
    said: list[str] = []
    answers: list[bytes] = []
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.listen()
        log, client = tmp_path / "seldom.log", socket.socket()
        argv = [sys.executable, "-c", ONE_ANSWER, str(listening.fileno())]
        part = OnDemand("seldom", argv, log=log, probe=log.exists, listening=listening)
        steady = program(tmp_path, "steady")

        def look() -> None:
            nonlocal client
            if client.fileno() < 0 and part.exit_code is None:
                return
            if len(answers) == 2:
                raise Enough
            if client.fileno() < 0 or part.child is None:
                client = socket.create_connection(listening.getsockname())
                client.settimeout(0)
            with suppress(BlockingIOError):
                answers.append(client.recv(20))
                client.close()

        with pytest.raises(Enough), Supervisor(said.append) as system:
            system.start(steady)
            system.wait(steady)
            system.add_at_rest(part)
            assert part.child is None
            system.watch(look)
    assert len({*answers}) == 2, "each time by a process of its own"
    assert not any("ended by itself" in line for line in said)


def test_a_part_that_writes_on_and_on_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_BYTES", 5_000)
    log, old = tmp_path / "chatty.log", tmp_path / "chatty.old.log"
    code = "import time\nwhile True:\n    print('x' * 1000, flush=True)\n    time.sleep(0.001)\n"
    part = Program("chatty", [sys.executable, "-c", code], log=log, probe=log.exists)
    seen = 0

    def look() -> None:
        nonlocal seen
        assert log.stat().st_size < 1_000_000, "nobody keeps it short"
        if old.exists() and old.stat().st_size > 5_000:
            seen += 1
            old.unlink()
            assert set(part.running.output()) <= {"x", "\n"}, "no hole is where the rest was"
        if seen == 3:
            raise Enough

    with pytest.raises(Enough), Supervisor(lambda text: None) as system:
        system.start(part)
        system.watch(look)


@pytest.mark.parametrize("number", supervise.STOP_SIGNALS)
def test_a_signal_stops_everything_without_an_exception(tmp_path: Path, number: signal.Signals) -> None:
    parts = [program(tmp_path, "first"), program(tmp_path, "second")]
    with Supervisor(lambda text: None, lambda part: os.kill(os.getpid(), number)) as system:
        for part in parts:
            system.start(part)
        system.wait(*parts)
        pytest.fail("the signal must end the block")
    assert [part.exit_code for part in parts] == [-signal.SIGTERM, -signal.SIGTERM]


def test_who_ignores_the_request_to_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_STOP_ONE_GROUP_WITHIN", 0.1)
    part = program(tmp_path, "stubborn", STUBBORN)
    with Supervisor(lambda text: None) as system:
        system.start(part)
        system.wait(part)
    assert part.exit_code == -signal.SIGKILL


class Unkillable(Program):
    """As a process that waits for a disk."""

    def kill(self, timeout: float = 10) -> None:
        super().kill(timeout)
        raise TimeoutError(f"{self.name} did not end within {timeout:.1f} s")


def test_one_that_cannot_be_killed_yet_does_not_keep_the_others_alive(tmp_path: Path) -> None:
    said: list[str] = []
    first = program(tmp_path, "first")
    log = tmp_path / "last.log"
    last = Unkillable("last", [sys.executable, "-c", SLEEP], log=log, probe=log.exists)
    with Supervisor(said.append) as system:
        system.start(first)
        system.start(last)
        system.wait(first, last)
    assert "last did not end within" in said[-1]
    assert first.exit_code is not None


def test_a_part_that_cannot_start_is_a_sentence_and_the_others_are_stopped(tmp_path: Path) -> None:
    good = program(tmp_path, "good")
    bad = program(tmp_path, "bad", "raise SystemExit('no licence')")
    with (
        pytest.raises(Unavailable, match=r"bad ended while starting \(exit 1\): no licence"),
        Supervisor(lambda text: None) as system,
    ):
        system.start(good, bad)
        system.wait(good, bad)
    assert good.exit_code is not None


def test_nothing_outlives_a_supervisor_killed_with_sigkill(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys
from choreo.embedded.part import Program
from choreo.embedded.supervise import Supervisor
with Supervisor(lambda text: None, lambda part: print(part.pid, flush=True)) as system:
    part = Program("part", [sys.executable, "-c", {STUBBORN!r}], log=pathlib.Path("part.log"),
                   probe=lambda: pathlib.Path("part.log").read_text() == "up\\n")
    system.start(part)
    system.wait(part)
    system.watch()
"""
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(timeout=30)
