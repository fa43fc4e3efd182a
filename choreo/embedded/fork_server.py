"""Processes that are copies of one that has imported already what all of them need.

A service spends most of its start, and most of its memory, on other people's libraries. Here one process
imports these, and nothing of this tree; whoever is begun is a fork of it, imports the tree's code as it is at
that moment, and shares the rest. Python's `multiprocessing` has a fork server, too: its children inherit its
environment, import the main module of whoever asks, and are no children of his.

What is forked here becomes a child of the one that asked. It is forked twice; when the process between ends,
the kernel gives it to the nearest ancestor that takes such (a "child subreaper"), which is who asked. So exit
codes, signals and the signal at the parent's death are as for any other child. On Linux only.
"""

import ctypes
import fcntl
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from choreo.embedded.process import Begun, Child, Start, end_with

LIBRARIES = (
    "aiokafka",
    "aiosmtplib.api",
    "argon2",
    "email_validator",
    "fastapi",
    "faust.app",
    "faust.app.router",
    "faust.assignor",
    "faust.events",
    "faust.fixups.django",
    "faust.tables",
    "faust.tables.sets",
    "faust.topics",
    "faust.transport.drivers.aiokafka",
    "faust.worker",
    "jwt",
    "prometheus_client",
    "psycopg",
    "pydantic.v1",
    "pydantic_settings",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.ext.asyncio",
    "structlog",
    "tomllib",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
"""With what they import themselves: nearly all that a service imports of others."""
_PR_SET_CHILD_SUBREAPER = 36
_FORKED_WITHIN_SECONDS = 30.0
"""The server may still be importing."""
_GIVEN_WITHIN_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.01
_MOST_BYTES, _MOST_FDS = 1 << 20, 16


def is_possible() -> bool:
    """Whether this system has what it takes."""
    return sys.platform == "linux" and find_spec("setproctitle") is not None


class ForkServer:
    """As a context. It is begun at once, and again where it has died meanwhile."""

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        """`log` is its own."""
        self._log, self._env = log, env
        self._begin()

    @property
    def pid(self) -> int:
        return self._child.pid

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *raised: object) -> None:
        """Whom it forked stays."""
        self._socket.close()
        self._child.kill()

    def _begin(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_FORKED_WITHIN_SECONDS)
        with theirs:
            argv = [sys.executable, "-m", __name__, str(theirs.fileno())]
            fds = [theirs.fileno()]
            self._child = Child("the fork server", argv, log=self._log, env=self._env, pass_fds=fds)

    def fork(self, wanted: Mapping[str, Any], fds: Sequence[int]) -> int:
        """The pid of the new child. Raises `OSError`."""
        if not self._child.alive():
            self._socket.close()
            self._begin()
        libc = ctypes.CDLL(None)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError("this kernel gives nobody other people's children")
        try:
            socket.send_fds(self._socket, [json.dumps(wanted).encode()], fds)
            told = self._socket.recv(_MOST_BYTES)
        except OSError:
            self._child.kill()  # its answer may still come, and would be taken for that to the next
            raise
        finally:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not told:
            raise ConnectionResetError("the fork server has ended")
        return int(told)


class ForkedChild(Child):
    """`python -m MODULE`, forked where that can be."""

    def __init__(self, server: ForkServer, *args: Any, **kwargs: Any) -> None:
        self._server = server
        super().__init__(*args, **kwargs)

    def _begin(self, start: Start) -> Begun:
        output = start.output.fileno()
        wanted = {
            "argv": start.argv[2:],
            "env": dict(os.environ if start.env is None else start.env),
            "fds": [1, 2, *start.pass_fds],
            "death_signal": start.death_signal,
            "parent": os.getpid(),
        }
        try:
            return _Forked(self._server.fork(wanted, [output, output, *start.pass_fds]))
        except OSError:
            return super()._begin(start)


class _Forked:
    """With what is asked of a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_LOOK_AGAIN_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def main() -> None:
    from setproctitle import getproctitle, setproctitle  # who asks needs none of it

    listening = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()  # what is imported stays
    for library in LIBRARIES:
        import_module(library)
    getproctitle()  # finds the place, which is hard to see once the environment is another one
    gc.freeze()  # what is not looked through stays shared
    gc.enable()
    if wanted := _forked_for(listening):
        module, *arguments = wanted["argv"]
        setproctitle(" ".join([Path(sys.executable).name, "-m", module, *arguments]))
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _forked_for(listening: socket.socket) -> dict[str, Any] | None:
    """Returns in each child, with what was asked for; in the server once nobody asks any more: None."""
    while True:
        told, fds, _, _ = socket.recv_fds(listening, _MOST_BYTES, _MOST_FDS)
        if not told:
            return None
        read_end, write_end = os.pipe()
        if (between := os.fork()) == 0:
            if (pid := os.fork()) == 0:
                for fd in (listening.detach(), read_end, write_end):
                    os.close(fd)
                wanted: dict[str, Any] = json.loads(told)
                _become(wanted, fds)
                return wanted
            os.setpgid(pid, pid)
            os.write(write_end, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        listening.send(os.read(read_end, 32))
        for fd in (*fds, read_end, write_end):
            os.close(fd)


def _become(wanted: Mapping[str, Any], fds: Sequence[int]) -> None:
    deadline = time.monotonic() + _GIVEN_WITHIN_SECONDS
    while os.getppid() != wanted["parent"]:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.001)
    end_with(wanted["parent"], wanted["death_signal"])
    out_of_the_way = max(*fds, *wanted["fds"]) + 1
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD, out_of_the_way) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(above, wanted["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(wanted["env"])


if __name__ == "__main__":
    main()
