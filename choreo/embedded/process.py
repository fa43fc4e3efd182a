"""One child process, tied to the life of this one."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

LOG_BYTES = 20_000_000

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Begun(Protocol):
    """What is asked of a `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int:
        """Raises `subprocess.TimeoutExpired`."""

    def send_signal(self, number: int, /) -> None: ...


@dataclass(frozen=True)
class Start:
    """How a child is begun."""

    argv: Sequence[str]
    env: Mapping[str, str] | None
    output: IO[bytes]
    pass_fds: Sequence[int]
    death_signal: int
    become: Callable[[], None] | None


class Child:
    """A process in a group of its own, so that Ctrl-C reaches it only through us.

    It gets `death_signal` when this process ends in whatever way. On Linux the kernel sends it when the
    *thread* that started the child ends, hence: main thread only. Elsewhere a guard process does.
    Its output is appended to `log`, of which `keep_log_short` leaves at most twice `LOG_BYTES`.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        death_signal: int = signal.SIGKILL,
        become: Callable[[], None] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`become` runs in the child before anything else: there it may give up being root."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children are started from the main thread")
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.keep_log_short()
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self._log_start = output.tell()
            words = [str(word) for word in argv]
            self._popen = self._begin(Start(words, env, output, pass_fds, death_signal, become))
        self.pid = self._popen.pid
        self._guard = None if sys.platform == "linux" else _guard(self.pid, death_signal)

    def _begin(self, start: Start) -> Begun:
        return subprocess.Popen(
            start.argv,
            env=start.env,
            stdin=subprocess.DEVNULL,
            stdout=start.output,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=tuple(start.pass_fds),
            preexec_fn=tied_to_this_process(start.death_signal, start.become),
        )

    def exit_code(self) -> int | None:
        """None while it runs, or is paused."""
        return self._popen.poll()

    def alive(self) -> bool:
        return self.exit_code() is None

    def send(self, number: int) -> None:
        """Send a signal to the process itself. Nothing happens if it has ended."""
        self._popen.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP; on Linux returns once it has stopped, for its threads run on for a moment."""
        self.send(signal.SIGSTOP)
        if sys.platform == "linux" and self.alive():
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self, timeout: float = 10) -> None:
        """SIGKILL to the whole group; returns once the process is gone.

        TimeoutError if it is still there after `timeout` seconds, as while it waits for a slow disk: then it
        goes as soon as it can.
        """
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Its exit code; TimeoutError if it is still there after `timeout` seconds."""
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {timeout:.1f} s") from None
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        return code

    def wait_or_kill(self, timeout: float) -> None:
        try:
            self.wait(timeout)
        except TimeoutError:
            self.kill()

    def keep_log_short(self) -> None:
        """To be called now and then: what it wrote moves to `.old.log`, over what was there.

        The process keeps its file, which is emptied; a line written that very moment may be lost.
        """
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            shutil.copy(self.log, self.log.with_suffix(".old.log"))
            os.truncate(self.log, 0)
            self._log_start = 0

    def output(self) -> str:
        """What it has written since it was started; of much only the end."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - 8192))
            return file.read().decode(errors="replace")

    def last_words(self) -> str:
        """The line that most likely says why it ended, at most 300 characters of it."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        telling = [line for line in lines if "FATAL" in line or "ERROR" in line] or lines
        return telling[-1][:300] if telling else "it said nothing."


def tied_to_this_process(death_signal: int, become: Callable[[], None] | None = None) -> Callable[[], None]:
    """A `preexec_fn`: blocks no signal, changes user if told to, asks for a signal at this process's end.
    What the child writes is for its owner only.
    """
    parent = os.getpid()

    def preexec() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(0o077)
        if become is not None:
            become()  # first, because a change of user cancels the request below
        end_with(parent, death_signal)

    return preexec


def end_with(parent: int, death_signal: int) -> None:
    """Asks for a signal at the end of the parent, which may have come already. On Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _guard(pid: int, death_signal: int) -> subprocess.Popen[bytes]:
    """For systems without a parent-death signal: sees the end of this process as end-of-file on a pipe.

    Never run on macOS so far.
    """
    code = f"import os, sys; sys.stdin.buffer.read(); os.killpg({pid}, {death_signal})"
    return subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, process_group=0)
