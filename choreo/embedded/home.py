"""Where one system keeps its state, and where all systems of a checkout keep what can be made again."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil

from choreo.chassis.settings import Settings
from choreo.embedded.secrets import write_secret
from choreo.embedded.unprivileged import PASSED, PRIVATE, Outside, make_private, remove_tree
from choreo.errors import Unavailable

_CHECKOUT = Path(__file__).resolve().parents[2]
_DEFAULT_PORT_BASE = 8000
_BEFORE_STYLES = "collaboration"
"""Homes of before do not say theirs."""
_UNUSABLE = re.compile(r'[,"\\\x00-\x1f\x7f]')
"""Kafka's lists of directories are split at commas, as libpq's of hosts are."""
_LONGEST = 800
"""Postgres ends at 1,023, and has directories of its own below."""


class Home:
    """The directory of the one system that `settings` describe."""

    def __init__(self, settings: Settings) -> None:
        default = _state_directory()
        if settings.port_base != _DEFAULT_PORT_BASE:
            default /= str(settings.port_base)
        self.path = (settings.home or default).absolute()
        self.kafka = self.path / "data" / "kafka"
        self.postgres = self.path / "data" / "postgres"
        self.maildir = self.path / "data" / "mail"
        self._style = self.path / "data" / "style"
        self._traced = self.path / "data" / "traced"
        self.secrets = self.path / "secrets"
        self.observer_file = self.secrets / "observer.json"
        self.logs = self.path / "logs"
        self._run_file = self.path / "run.json"
        self._wish = self.path / "scale.json"
        self._by_hand = self.path / "by-hand"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Held by one process at a time; Unavailable if by another. Let go of however this process ends."""
        if _UNUSABLE.search(str(self.path)) or len(os.fsencode(self.path)) > _LONGEST:
            raise Unavailable(
                f"Kafka and Postgres cannot live in {str(self.path)[:200]!r}: their paths take no comma, "
                f"double quote, backslash or control character, and {_LONGEST} bytes at most: choose another "
                "place with CHOREO_HOME."
            )
        try:
            make_private(self.path, PASSED)
            self._close()
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise Unavailable(
                f"{self.path} cannot be written ({error.strerror}): choose another place with CHOREO_HOME."
            ) from None
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(
                    f"A system already runs from {self.path}: stop it first, or run a second one beside "
                    f"it with another CHOREO_PORT_BASE."
                ) from None
            yield

    def _close(self) -> None:
        """What is below is nobody else's to read, also where the home is a directory that was there."""
        make_private(self.path / "data", PASSED)
        make_private(self.logs)
        for directory in (self.path / "data", self.logs, self.kafka, self.maildir, self.secrets):
            if directory.is_dir():
                directory.chmod(PASSED if directory.name == "data" else PRIVATE)

    def broker_count(self) -> int:
        """Of how many brokers there is data; 0 where there is none yet."""
        return 1 if (self.kafka / "data").exists() else len(list(self.kafka.glob("[0-9]")))

    def style(self) -> str | None:
        """In which style its data was begun; None where there is none yet."""
        try:
            return self._style.read_text().strip()
        except FileNotFoundError:
            return _BEFORE_STYLES if self.postgres.exists() or self.kafka.exists() else None

    def remember_style(self, style: str) -> None:
        self._style.parent.mkdir(parents=True, exist_ok=True)
        self._style.write_text(f"{style}\n")

    def traced_until(self) -> datetime | None:
        """Until when everything decided was exported as traces; None where nobody has exported any."""
        try:
            return datetime.fromisoformat(self._traced.read_text().strip())
        except (FileNotFoundError, ValueError):
            return None

    def remember_traced(self, until: datetime) -> None:
        self._traced.parent.mkdir(parents=True, exist_ok=True)
        aside = self._traced.with_suffix(".new")
        aside.write_text(f"{until.isoformat()}\n")
        aside.replace(self._traced)

    def forget_data(self) -> None:
        """Events, databases, mail and passwords, wherever they are. Only while held."""
        Outside(self.postgres).remove()
        remove_tree(self.postgres)
        shutil.rmtree(self.path / "data", ignore_errors=True)
        shutil.rmtree(self.secrets, ignore_errors=True)
        self._close()

    def write_run_file(self, facts: Mapping[str, object]) -> None:
        """What debugging tools need to reach the running system; passwords too, so for its owner only."""
        write_secret(self._run_file, facts)

    def leave_wish(self, counts: Mapping[str, int]) -> None:
        """For the system that runs: of which services there shall be how many processes."""
        aside = self._wish.with_suffix(".new")
        aside.write_text(json.dumps(counts))
        aside.replace(self._wish)

    def take_wish(self) -> dict[str, int] | None:
        """What was wished for last and not taken yet."""
        try:
            counts: dict[str, int] = json.loads(self._wish.read_text())
        except FileNotFoundError:
            return None
        self._wish.unlink()
        return counts

    @contextmanager
    def run_by_hand(self, service: str) -> Iterator[None]:
        """Meanwhile the system leaves this service to this process. Unavailable if another has it."""
        if other := self.those_run_by_hand().get(service):
            raise Unavailable(f"{service} is run by hand already, by process {other}: end that first.")
        make_private(self._by_hand)
        asked = self._by_hand / f"{service}.{os.getpid()}"
        asked.touch()
        try:
            yield
        finally:
            asked.unlink(missing_ok=True)

    def those_run_by_hand(self) -> dict[str, int]:
        """By service, the process that asked for it and is still there."""
        asked = (path.name.rsplit(".", 1) for path in self._by_hand.glob("*.*"))
        return {service: int(pid) for service, pid in asked if psutil.pid_exists(int(pid))}

    def remove_run_file(self) -> None:
        self._run_file.unlink(missing_ok=True)


def cache_directory() -> Path:
    """Shared by all systems and test runs of a checkout; may be deleted at any time, or be a link to that of
    another checkout.
    """
    return (_state_directory() / "cache").resolve()


def usual_homes() -> dict[int, Path]:
    """By port base, those that systems of this checkout have where nobody chose another one."""
    default = _state_directory()
    others = {int(path.name): path for path in default.glob("*") if path.name.isdecimal()}
    return {_DEFAULT_PORT_BASE: default, **dict(sorted(others.items()))}


def _state_directory() -> Path:
    """`.choreo` of the checkout; of the current directory where the project is installed without one."""
    return (_CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / ".choreo"
