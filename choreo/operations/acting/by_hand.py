"""One service of the running system in a terminal: the supervisor leaves it, and takes it back afterwards."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from choreo.chassis.installed import package_of
from choreo.chassis.registry import load_facts, own_port_of, port_of
from choreo.chassis.settings import Settings
from choreo.embedded.home import Home
from choreo.embedded.ports import listen
from choreo.embedded.process import tied_to_this_process
from choreo.errors import Unavailable
from choreo.message.catalog import FACT_OF_TYPE
from choreo.operations.acting.system import environment_of_a_service
from choreo.operations.reading.installation import running_system

_LEFT_WITHIN_SECONDS = 30.0
_STOP_WITHIN_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Left:
    """How the service is run, and its two listening sockets, which this process has.

    Who connects while the service is begun anew waits, and is refused nothing.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    sockets: Sequence[int]

    def start(self) -> "subprocess.Popen[bytes]":
        """With this terminal, so that a breakpoint can be used. It ends when this process does."""
        return subprocess.Popen(
            self.command,
            # A module that is saved twice in a second would otherwise be taken from its first bytecode.
            env={**self.environment, "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=tuple(self.sockets),
            preexec_fn=tied_to_this_process(signal.SIGTERM),
        )


@contextmanager
def left_by_the_system(settings: Settings, service: str) -> Iterator[Left]:
    """Raises `Unavailable` where no system runs, or another process has the service."""
    home = Home(settings)
    if running_system(settings) is None:
        raise Unavailable(
            f"No system runs from {home.path}: start it with `choreo up`, or name its home with CHOREO_HOME "
            "or its CHOREO_PORT_BASE."
        )
    with home.run_by_hand(service), ExitStack() as sockets:
        told = _wait_until_left(settings, service)
        ports = port_of(service, settings), own_port_of(service, settings)
        fds = [sockets.enter_context(listen(port, service)).fileno() for port in ports]
        yield Left(told["command"], environment_of_a_service(told["settings"], fds), fds)


def _wait_until_left(settings: Settings, service: str) -> Mapping[str, Any]:
    deadline = time.monotonic() + _LEFT_WITHIN_SECONDS
    while time.monotonic() < deadline:
        facts = running_system(settings)
        if facts and (told := facts.get("by_hand", {}).get(service)):
            found: Mapping[str, Any] = told
            return found
        time.sleep(_LOOK_AGAIN_SECONDS)
    raise Unavailable(
        f"The system did not leave {service} within {_LEFT_WITHIN_SECONDS:.0f} s: see what `choreo up` says."
    )


def run_left(left: Left, go_on: Callable[[], bool], say: Say, folders: Sequence[Path] = ()) -> int:
    """Returns the exit code once it has ended, or 0 once `go_on` says no. With `folders`, what is saved in
    them begins it anew, and what has ended waits for that.
    """
    while True:
        before, child = _saved(folders), left.start()
        try:
            while go_on() and child.poll() is None and _saved(folders) == before:
                time.sleep(_LOOK_AGAIN_SECONDS)
        finally:
            ended = child.poll()
            _stop(child)
        if ended is not None and not folders:
            return ended
        if ended is not None:
            say(f"It has ended (exit {ended}), and is begun again once something is saved.")
        while go_on() and _saved(folders) == before:
            time.sleep(_LOOK_AGAIN_SECONDS)
        if not go_on():
            return 0
        changed = sorted(path for path, _ in _saved(folders) ^ before)
        say(f"{changed[0]} was saved: begun anew.")


def _stop(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _saved(folders: Sequence[Path]) -> frozenset[tuple[Path, int]]:
    return frozenset(
        (path, path.stat().st_mtime_ns)
        for folder in folders
        for path in folder.rglob("*.py")
        if path.is_file()
    )


def code_of(service: str) -> list[Path]:
    """The folders of its package, of the facts and of choreo."""
    load_facts()
    facts = {fact.__module__.partition(".")[0] for fact in FACT_OF_TYPE.values()}
    found = map(find_spec, sorted({package_of(service).partition(".")[0], "choreo", *facts}))
    return [Path(spec.origin).parent for spec in found if spec and spec.origin]
