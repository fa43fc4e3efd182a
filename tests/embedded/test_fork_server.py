"""A process that was forked for somebody is a child of his like any other, and is there sooner."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from choreo.embedded import fork_server
from choreo.embedded.fork_server import ForkedChild, ForkServer
from choreo.embedded.process import Child

PATIENCE = 30.0
TELLER = """
import json, os, sys
told = {
    "arguments": sys.argv[1:], "module": __name__, "environment": dict(os.environ), "umask": os.umask(0o077),
    "leads": os.getpgrp() == os.getpid(), "parent": os.getppid(), "stdin": sys.stdin.read(),
    "open": [n for n in range(3, 1024) if os.path.exists(f"/proc/self/fd/{n}")],
    "handed over": os.read(int(sys.argv[1]), 100).decode(),
}
print(json.dumps(told), flush=True)
"""
MODULES = {
    "teller": TELLER,
    "exits": "raise SystemExit(3)",
    "raises": "raise RuntimeError('no such luck')",
    "sleeps": "import signal; signal.pause()",
}

Begin = Callable[..., Child]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (directory / f"{name}.py").write_text(text)
    return directory


@pytest.fixture(scope="module")
def server(modules: Path) -> Iterator[ForkServer]:
    with ForkServer(modules / "server.log", os.environ | {"PYTHONPATH": str(modules)}) as server:
        yield server


@pytest.fixture(params=["by itself", "forked"])
def begin(request: pytest.FixtureRequest, server: ForkServer, modules: Path, tmp_path: Path) -> Begin:
    kind = partial(ForkedChild, server) if request.param == "forked" else Child

    def begin(module: str, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Child:
        argv = [sys.executable, "-m", module, *arguments]
        environment = (env or {}) | {"PYTHONPATH": str(modules)}
        return kind(module, argv, log=tmp_path / "log", env=environment, **more)

    return begin


def test_it_has_what_it_was_given_and_nothing_else(begin: Begin) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"a socket")
    child = begin("teller", str(read_end), "--flag", env={"OF": "its own"}, pass_fds=[read_end])
    assert child.wait(PATIENCE) == 0, child.output()
    told = json.loads(child.output())
    for end in (read_end, write_end):
        os.close(end)
    assert told.pop("environment").items() >= {"OF": "its own"}.items()
    assert told == {
        "arguments": [str(read_end), "--flag"],
        "module": "__main__",
        "umask": 0o077,
        "leads": True,
        "parent": os.getpid(),
        "stdin": "",
        "open": [read_end],
        "handed over": "a socket",
    }


def test_the_asker_s_environment_is_none_of_its_business(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_PASSWORD", "secret")
    read_end, write_end = os.pipe()
    os.close(write_end)
    child = begin("teller", str(read_end), pass_fds=[read_end])
    assert child.wait(PATIENCE) == 0
    os.close(read_end)
    assert json.loads(child.output())["environment"].keys() <= {"PYTHONPATH", "LC_CTYPE"}


def test_its_end_is_told(begin: Begin) -> None:
    assert begin("exits").wait(PATIENCE) == 3
    child = begin("raises")
    assert child.wait(PATIENCE) == 1
    assert "no such luck" in child.last_words()
    sleeper = begin("sleeps")
    assert sleeper.alive()
    sleeper.kill()
    assert sleeper.exit_code() == -signal.SIGKILL
    sleeper.send(signal.SIGTERM)  # it has ended, and nobody else is meant


def test_it_can_be_stopped_and_goes_on(begin: Begin) -> None:
    child = begin("sleeps")
    child.pause()
    assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
    child.send(signal.SIGCONT)
    child.send(signal.SIGTERM)
    assert child.wait(PATIENCE) == -signal.SIGTERM


def test_it_goes_by_its_own_name(begin: Begin) -> None:
    child = begin("sleeps")
    while "fork_server" in (name := " ".join(psutil.Process(child.pid).cmdline()).strip()):
        assert child.alive()  # until it is told what it is
    assert name.endswith(f"{Path(sys.executable).name} -m sleeps")
    child.kill()


def test_whoever_asked_may_end_as_he_likes_and_it_ends_with_him(modules: Path) -> None:
    code = f"""
import os, pathlib, sys
from choreo.embedded.fork_server import ForkServer, ForkedChild
log = pathlib.Path({str(modules)!r}) / "log"
server = ForkServer(log, os.environ | {{"PYTHONPATH": {str(modules)!r}}})
child = ForkedChild(server, "sleeps", [sys.executable, "-m", "sleeps"], log=log)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    asker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    pid = int(asker.stdout)
    if psutil.pid_exists(pid):
        psutil.wait_procs([psutil.Process(pid)], timeout=PATIENCE)
    assert not psutil.pid_exists(pid)


def test_where_the_server_dies_who_was_forked_lives_and_the_next_one_is_forked(
    server: ForkServer, begin: Begin
) -> None:
    first = begin("sleeps")
    server._child.kill()
    assert first.alive()
    assert begin("exits").wait(PATIENCE) == 3
    first.kill()


def test_where_nobody_forks_it_is_begun_all_the_same(modules: Path, tmp_path: Path) -> None:
    class Gone(ForkServer):
        def __init__(self) -> None:
            pass

        def fork(self, wanted: Any, fds: Sequence[int]) -> int:
            raise ConnectionResetError

    argv = [sys.executable, "-m", "exits"]
    child = ForkedChild(
        Gone(), "exits", argv, log=tmp_path / "log", env=os.environ | {"PYTHONPATH": str(modules)}
    )
    assert child.wait(PATIENCE) == 3


def test_what_a_service_imports_of_others_is_there_and_of_this_tree_nothing() -> None:
    code = """
import sys
from importlib import import_module
from choreo.embedded.fork_server import LIBRARIES
for library in LIBRARIES:
    import_module(library)
before = set(sys.modules)
from choreo.chassis import runtime
from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
services(Settings())
ours = {"choreo", *(service.partition(".")[0] for service in SERVICES)}
print(*(name for name in before if name.partition(".")[0] in ours))
print(*(name for name in sys.modules.keys() - before if name.partition(".")[0] not in ours))
""".replace(
        "SERVICES",
        repr([f"{name}_service" for name in ("user", "order", "billing", "notification")] + ["events"]),
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, missing = (line.split() for line in told.stdout.splitlines())
    assert {*loaded} == {"choreo", "choreo.embedded", "choreo.embedded.process", fork_server.__name__}
    assert len(missing) < 20, f"these are imported in each process: {missing}"
