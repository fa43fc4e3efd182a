"""`choreo migrate` on databases made by deploy/databases.sql, as containers have it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from choreo.embedded.postgres import Postgres, binaries
from choreo.embedded.testing import postgres_for_tests
from tests.services import SERVICES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Roles are a server's, so this one is not shared."""
    roles = [f"{name.upper()}_{whose}_PASSWORD" for name in SERVICES for whose in ("DATABASE", "OWNER")]
    with postgres_for_tests() as postgres:
        subprocess.run(
            [
                binaries() / "psql",
                "--no-psqlrc",
                "--quiet",
                "--file",
                ROOT / "deploy" / "databases.sql",
                postgres.admin_url,
            ],
            env=os.environ | dict.fromkeys(roles, "it's a secret"),
            check=True,
        )
        yield postgres


def url(server: Postgres, role: str, database: str) -> str:
    host = server.admin_url.partition("?")[2]
    return f"postgresql://{role}:it%27s%20a%20secret@/{database}?{host}"


def choreo_migrate(*arguments: str, **urls: str) -> "subprocess.CompletedProcess[str]":
    outer = {name: value for name, value in os.environ.items() if not name.endswith("_DATABASE_URL")}
    command = [sys.executable, "-m", "choreo.cli.main", "migrate", *arguments]
    return subprocess.run(command, env=outer | urls, capture_output=True, text=True, timeout=60)


def test_a_service_may_read_and_write_its_own_tables_and_no_more(server: Postgres) -> None:
    owners = {f"{name.upper()}_DATABASE_URL": url(server, f"{name}_owner", name) for name in SERVICES}
    for _ in range(2):
        done = choreo_migrate("--grant", **owners)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [f"{name}: as it must be" for name in SERVICES]
    for name in SERVICES:
        with psycopg.connect(url(server, name, name), autocommit=True) as conn:
            conn.execute("SELECT FROM journal")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("CREATE TABLE mine (id int)")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(url(server, name, "billing" if name != "billing" else "order"))


def test_without_databases_it_says_what_is_missing() -> None:
    done = choreo_migrate()
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert "_DATABASE_URL" in done.stderr
