"""A part of the running system: one child process that can be started again and asked whether it is ready."""

import select
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from choreo.embedded.ports import LOOPBACK
from choreo.embedded.process import Child
from choreo.errors import Unavailable


class Part(ABC):
    """Signal methods need a part that was started; none of them minds one that has ended."""

    name: str
    stop_signal: int = signal.SIGTERM
    child: Child | None = None

    @abstractmethod
    def start(self) -> None:
        """Prepare what is missing, then start the process and return without waiting for readiness."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it does its work now. Answers within two seconds."""

    def wanted(self) -> bool:
        """Whether it is to be started now, while it rests."""
        return True

    def try_again(self) -> bool:
        """Called where it ended before it was ready: whether it was worth starting it once more."""
        return False

    def wait_ready(self, timeout: float = 60) -> None:
        """Returns once it is ready; Unavailable if it ends first or time runs out."""
        wait_ready([self], timeout)

    def stop(self, timeout: float = 10) -> None:
        """Ask, wait up to `timeout` seconds, then SIGKILL. Does nothing if it never started."""
        if self.child:
            self.ask_to_stop()
            self.child.wait_or_kill(timeout)

    def ask_to_stop(self) -> None:
        self.resume()
        self.running.send(self.stop_signal)

    def kill(self, timeout: float = 10) -> None:
        """SIGKILL; TimeoutError if it is still there after `timeout` seconds."""
        self.running.kill(timeout)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self.running.pause()

    def resume(self) -> None:
        self.running.send(signal.SIGCONT)

    @property
    def running(self) -> Child:
        assert self.child is not None, "start() comes first"
        return self.child

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, is paused, or was never started."""
        return self.child.exit_code() if self.child else None


class Program(Part):
    """Any other program: `argv` runs it, `probe` knows whether it is ready."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        probe: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        child: Callable[..., Child] = Child,
    ) -> None:
        self.name = name
        self._argv, self._log, self._probe, self._env, self._pass_fds = argv, log, probe, env, pass_fds
        self._child = child

    def start(self) -> None:
        with signals_held():
            self.child = self._child(
                self.name, self._argv, log=self._log, env=self._env, pass_fds=self._pass_fds
            )

    def ready(self) -> bool:
        return self._probe()


class OnDemand(Program):
    """Runs while somebody wants it: begun once somebody connects, and at rest once it ends with 0.

    Who connects meanwhile waits in `listening`, which it is handed.
    """

    def __init__(
        self, name: str, argv: Sequence[str | Path], *, listening: socket.socket, **of_a_program: Any
    ):
        super().__init__(name, argv, pass_fds=[listening.fileno()], **of_a_program)
        self._listening = listening

    def wanted(self) -> bool:
        return bool(select.select([self._listening], [], [], 0)[0])


def wait_ready(
    parts: Sequence[Part], timeout: float, on_ready: Callable[[Part], None] = lambda part: None
) -> None:
    """Returns once all are ready; Unavailable as soon as one ends or time runs out."""
    deadline = time.monotonic() + timeout
    waiting = list(parts)
    while True:
        for part in list(waiting):
            if part.ready():
                waiting.remove(part)
                on_ready(part)
            elif part.exit_code is not None and not part.try_again():
                raise Unavailable(
                    f"{part.name} ended while starting (exit {part.exit_code}): {part.running.last_words()} "
                    f"See {part.running.log}."
                )
        if not waiting:
            return
        if time.monotonic() > deadline:
            late = waiting[0]
            raise Unavailable(f"{late.name} was not ready within {timeout:.0f} s: see {late.running.log}.")
        time.sleep(0.03)


@contextmanager
def signals_held() -> Iterator[None]:
    """Requests to stop wait until the child that is being started is also known, and so can be stopped."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class AnswersHttp:
    """Whether a GET of `path` is answered with 200.

    Asks once and looks for the answer at each call: the listening socket is there before the service that
    will accept from it, and waiting for one service must not hold up the look at the others.
    """

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        head = (f"GET {path} HTTP/1.1", f"Host: {LOOPBACK}:{port}", "Connection: close", "", "")
        self._request = "\r\n".join(head).encode()
        self._asked: socket.socket | None = None

    def __call__(self) -> bool:
        try:
            if self._asked is None:
                self._asked = socket.create_connection((LOOPBACK, self._port), timeout=1)
                self._asked.sendall(self._request)
            if not select.select([self._asked], [], [], 0)[0]:
                return False
            status = self._asked.recv(64)
        except OSError:
            status = b""
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        return status.startswith(b"HTTP/1.") and status[8:12] == b" 200"


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
