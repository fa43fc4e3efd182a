"""A whole system for one purpose: real parts, a temporary home, ports nobody uses, gone afterwards."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from choreo.chassis.kafka.access import KafkaAccess
from choreo.embedded.kafka import Kafka
from choreo.embedded.postgres import Postgres
from choreo.embedded.process import Child
from choreo.embedded.testing import free_port_base
from choreo.errors import Unavailable
from choreo.styles.composition import COLLABORATION

_READY_WITHIN = 240.0
"""A first start may download."""
_STOP_WITHIN = 15.0
_NOT_HANDED_ON = (
    "CHOREO_HTTP_FD",
    "CHOREO_OWN_HTTP_FD",
    "CHOREO_TOPIC_PREFIX",
    "SMTP_URL",
)


class ThrowawaySystem:
    """`choreo up` as a process of its own. It may be stopped and started again on the same data.

    Use as a context, from the main thread. However the block is left, the system and its home are gone;
    should this very process be killed, the system stops and only its directory is left.
    """

    def __init__(
        self,
        up: Sequence[str] = ("choreo.cli.main", "up", "--json"),
        *,
        style: str = COLLABORATION,
        python: str = sys.executable,
    ) -> None:
        """`up` is the module that is run, and its arguments; `python` the interpreter that finds it."""
        self._python = python
        self._up = up if style == COLLABORATION else (*up, "--style", style)
        self.port_base = free_port_base()
        self._child: Child | None = None

    def __enter__(self) -> "ThrowawaySystem":
        self._directory = tempfile.TemporaryDirectory(prefix="choreo-", ignore_cleanup_errors=True)
        Path(self._directory.name).chmod(0o711)  # where we are root Postgres is somebody else, and may enter
        self.home = Path(self._directory.name) / "home"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._postgres.clear_away()
            self._directory.cleanup()

    def start(self) -> float:
        """Seconds from the start of the process until it said that all is ready. Raises `Unavailable`."""
        started = time.monotonic()
        self._child = Child(
            "choreo up",
            [self._python, "-m", *self._up],
            log=self.log,
            env=self.environment | {"PYTHONUNBUFFERED": "1"},
            death_signal=signal.SIGTERM,
        )
        while '"ready": true' not in self._child.output():
            if not self._child.alive():
                raise Unavailable(self._child.last_words().removeprefix("choreo: "))
            if time.monotonic() > started + _READY_WITHIN:
                raise Unavailable(f"The system was not ready within {_READY_WITHIN:.0f} s.")
            time.sleep(0.02)
        return time.monotonic() - started

    def stop(self) -> float:
        """Seconds it took. Does nothing if it does not run."""
        started = time.monotonic()
        if self._child and self._child.alive():
            self._child.send(signal.SIGTERM)
            self._child.wait_or_kill(_STOP_WITHIN)
        return time.monotonic() - started

    def kill(self) -> None:
        """SIGKILL to `choreo up`, with which its parts go. It may be started again at once."""
        assert self._child is not None, "start() comes first"
        self._child.kill()

    @property
    def environment(self) -> dict[str, str]:
        """In which a verb works on this system."""
        outer = {
            name: value
            for name, value in os.environ.items()
            if name not in _NOT_HANDED_ON and "KAFKA_" not in name and not name.endswith("_DATABASE_URL")
        }
        return outer | {"CHOREO_HOME": str(self.home), "CHOREO_PORT_BASE": str(self.port_base)}

    @property
    def log(self) -> Path:
        """What `choreo up` printed."""
        return self.home.parent / "up.log"

    @property
    def run_file(self) -> dict[str, Any]:
        """Where its parts are to be reached, while it runs."""
        facts: dict[str, Any] = json.loads((self.home / "run.json").read_text())
        return facts

    @property
    def admin_url(self) -> str:
        """Postgres' superuser."""
        return self._postgres.admin_url

    @property
    def _postgres(self) -> Postgres:
        """Knows where everything of the server's is. Not for starting it."""
        return Postgres(self.home / "data" / "postgres", secrets_file=self.home / "secrets" / "postgres.json")

    def kafka_access(self, name: str) -> KafkaAccess:
        """A service's, or the admin's."""
        port = self.port_base + 1092
        home = self.home
        kafka = Kafka(
            home / "data" / "kafka", port, port + 1, cache=home, secrets_file=home / "secrets" / "kafka.json"
        )
        access = kafka.admin if name == "admin" else kafka.user(name)
        return replace(access, bootstrap=self.run_file["bootstrap"])

    @property
    def supervisor_pid(self) -> int:
        assert self._child is not None, "start() comes first"
        return self._child.pid

    @property
    def pids(self) -> dict[str, int]:
        """By name, of every process that runs for the system."""
        facts = self.run_file
        server = {"fork server": facts["fork_server"]} if facts["fork_server"] else {}
        return {**facts["pids"], **server, "supervisor": self.supervisor_pid}


@contextmanager
def asked_to_stop() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP leave the block in order, so that all is cleared away; exit code 130."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
