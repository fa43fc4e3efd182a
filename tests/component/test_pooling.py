"""A pool before Postgres, in a mode in which no session lasts: refused with a sentence."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from choreo.chassis.database.connection import session, unusable
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.embedded.postgres import Postgres
from choreo.embedded.unprivileged import NOBODY, is_root
from choreo.errors import Unavailable
from choreo.operations.acting.databases import migrate_external
from tests.databases import Database, a_database

PATIENCE = 20.0


@pytest.fixture
def database(postgres: Postgres, templates: dict[str, str]) -> Iterator[Database]:
    with a_database("user", postgres, templates) as database:
        with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kolkata'".encode())
        yield database


@contextmanager
def pgbouncer(database: Database, directory: Path, mode: str, ignored: str) -> Iterator[str]:
    """The database's owner's URL through it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer on this machine")
    there = session(database.owner_url)
    (port,) = free_ports(1)
    users, config = directory / "users.txt", directory / "pgbouncer.ini"
    users.write_text(f'"{there["user"]}" "{there["password"]}"\n')
    config.write_text(
        f"[databases]\n{database.name} = host={there['host']}\n"
        f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = {mode}\nignore_startup_parameters = {ignored}\n"
    )
    for path in (*reversed(directory.parents[:3]), directory, users, config):
        path.chmod(0o755)
    server = subprocess.Popen(
        [program, str(config)],
        user=NOBODY if is_root() else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    url = f"postgresql://{there['user']}@{LOOPBACK}:{port}/{database.name}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None and time.monotonic() < deadline
        yield url
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.mark.parametrize(
    ("mode", "ignored", "sentence"),
    [
        ("transaction", "options", "pools by transaction"),
        ("session", "options", "drops the session's options"),
        ("transaction", "", "unsupported startup parameter"),
    ],
)
def test_a_pool_that_keeps_no_session_is_refused_at_the_start(
    database: Database, tmp_path: Path, mode: str, ignored: str, sentence: str
) -> None:
    with pgbouncer(database, tmp_path, mode, ignored) as url:
        with pytest.raises(Unavailable, match=sentence) as refused:
            migrate_external("user", url)
        assert "USER_DATABASE_URL" in str(refused.value)
        service = subprocess.run(
            [sys.executable, "-m", "user_service"],
            env=os.environ | {"USER_DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:9"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (service.returncode, sentence in service.stderr) == (1, True), service.stderr


def test_a_server_itself_is_not(database: Database) -> None:
    assert unusable(database.owner_url) is None
