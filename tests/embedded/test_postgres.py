import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import choreo.embedded.postgres
from choreo.embedded.postgres import Postgres
from choreo.embedded.testing import postgres_for_tests
from choreo.errors import Unavailable


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One of its own, for it is killed here."""
    with postgres_for_tests() as postgres:
        yield postgres


def test_committed_rows_outlive_sigkill(server: Postgres) -> None:
    owner, _ = server.create_service("kept")
    with psycopg.connect(owner) as conn:
        conn.execute("CREATE TABLE fact (id int)")
        conn.execute("INSERT INTO fact VALUES (1)")

    with psycopg.connect(owner):  # its backend outlives the server for a moment
        server.kill()
        server.start()
        server.wait_ready()

    with psycopg.connect(owner) as conn:
        assert conn.execute("SELECT id FROM fact").fetchall() == [(1,)]


def test_recovers_from_an_immediate_stop(server: Postgres) -> None:
    server.kill_immediate()
    assert not server.ready()
    server.start()
    server.wait_ready()


def test_a_service_reads_and_writes_rows_and_changes_no_table(server: Postgres) -> None:
    owner, runtime = server.create_service("billing")
    with psycopg.connect(owner) as conn:
        conn.execute("CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY, amount bigint)")
    with psycopg.connect(runtime) as conn:
        conn.execute("INSERT INTO entry (amount) VALUES (100)")
        assert conn.execute("SELECT amount FROM entry").fetchall() == [(100,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE TABLE mine ()")


def test_no_role_enters_the_database_of_another_service(server: Postgres) -> None:
    billing = server.create_service("billing")
    order = server.create_service("order")
    for url in order:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(url.replace("/choreo_order?", "/choreo_billing?"))
    for url in (*billing, *order):
        psycopg.connect(url).close()


def test_a_role_enters_no_database_but_its_own_and_takes_not_all_connections(server: Postgres) -> None:
    _, runtime = server.create_service("billing")
    for url in (runtime, server.observer_url("choreo_billing")):
        for database in ("postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(url.replace("/choreo_billing?", f"/{database}?"))
    with ExitStack() as stack:
        most = choreo.embedded.postgres._MOST_CONNECTIONS["observer"]
        for _ in range(most):
            stack.enter_context(psycopg.connect(server.observer_url("choreo_billing")))
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(server.observer_url("choreo_billing"))
        psycopg.connect(runtime).close()


def test_what_a_role_did_to_itself_is_set_back_at_the_next_start(server: Postgres) -> None:
    server.create_service("billing")
    url = server.observer_url("choreo_billing")
    with psycopg.connect(url, autocommit=True) as observer:
        observer.execute("ALTER ROLE observer SET search_path = elsewhere")
        observer.execute("ALTER ROLE observer PASSWORD 'mine'")
        for more in ("SUPERUSER", "CREATEROLE", "CONNECTION LIMIT -1", "VALID UNTIL '2000-01-01'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                observer.execute(f"ALTER ROLE observer {more}".encode())
    server.create_service("billing")
    with psycopg.connect(url) as observer:
        assert observer.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_who_may_only_read_locks_and_writes_nothing_anywhere(server: Postgres) -> None:
    owner, runtime = server.create_service("billing")
    with psycopg.connect(server.observer_url("choreo_billing"), autocommit=True) as observer:
        for statement in (
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
            "SELECT lo_create(0)",
            "SELECT lo_creat(-1)",
            "SELECT lo_from_bytea(0, 'x')",
            "SELECT pg_logical_emit_message(false, 'a', 'b')",
            "CREATE TEMPORARY TABLE mine ()",
            "CREATE TABLE mine ()",
            "CREATE SCHEMA mine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                observer.execute(statement.encode())
    for url in (owner, runtime):
        with psycopg.connect(url) as conn:
            conn.execute("SELECT pg_advisory_xact_lock(1, 2)")


def test_a_database_can_be_copied_and_dropped(server: Postgres) -> None:
    owner, _ = server.create_service("copied", database="original")
    with psycopg.connect(owner) as conn:
        conn.execute("CREATE TABLE fact (id int)")
    _, runtime = server.create_service("copied", database="copy", template="original")
    reader = psycopg.connect(runtime)
    assert reader.execute("SELECT id FROM fact").fetchall() == []
    server.drop_database("copy")
    server.drop_database("copy")
    with pytest.raises(psycopg.OperationalError):
        reader.execute("SELECT")


def test_passwords_are_for_the_owner_alone(server: Postgres) -> None:
    secrets_file = server.directory / "secrets.json"
    assert secrets_file.stat().st_mode & 0o777 == 0o600
    _, runtime = server.create_service("billing")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(runtime, password="wrong")


def test_an_interrupted_initialisation_and_a_long_path_do_no_harm(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    (directory / "data.new" / "half").mkdir(parents=True)
    postgres = Postgres(directory)
    try:
        postgres.start()
        postgres.wait_ready()
        assert len(os.fsencode(postgres.socket_directory)) < 100
        assert postgres.socket_directory.stat().st_mode & 0o067 == 0
    finally:
        postgres.stop()
        postgres.clear_away()


@pytest.mark.parametrize("made", ["by another", "open to all", "a link"])
def test_a_place_for_the_socket_that_somebody_else_may_touch_is_refused(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could put another socket there would be told the superuser's password."""
    for module in (choreo.embedded.postgres, choreo.embedded.unprivileged):
        monkeypatch.setattr(module, "is_root", lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    postgres = Postgres(tmp_path / ("long" * 30))
    postgres._make_socket_directory()
    place = postgres.socket_directory
    assert place.parent == tmp_path and place.stat().st_mode & 0o777 == 0o700
    postgres._make_socket_directory()
    if made == "open to all":
        place.chmod(0o755)
    elif made == "a link":
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(Unavailable, match=str(place)):
        postgres._make_socket_directory()


def test_random_passwords_are_hashed_once_so_that_clients_connect_fast(server: Postgres) -> None:
    server.create_service("fast")
    with psycopg.connect(server.admin_url) as conn:
        found = conn.execute("SELECT split_part(rolpassword, ':', 1) FROM pg_authid WHERE rolcanlogin")
        assert set(found) == {("SCRAM-SHA-256$1",)}


def test_a_server_that_asks_for_no_proof_is_told_no_password(server: Postgres) -> None:
    assert conninfo_to_dict(server.admin_url)["require_auth"] == "scram-sha-256"
    hba = server.directory / "data" / "pg_hba.conf"
    before = hba.read_text()
    try:
        for method in ("password", "trust"):
            hba.write_text(f"local all all {method}\n")
            server.running.send(signal.SIGHUP)
            with pytest.raises(psycopg.OperationalError, match="authentication method requirement"):
                while True:  # until the server has read it
                    psycopg.connect(server.admin_url).close()
    finally:
        hba.write_text(before)
        server.running.send(signal.SIGHUP)


def test_a_lock_that_names_a_stranger_is_forgotten(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choreo.embedded.postgres, "_LOCK_TIMEOUT_SECONDS", 0.0)
    server.kill()
    lock = server.directory / "data" / "postmaster.pid"
    _, *rest = lock.read_text().split("\n")
    lock.write_text("\n".join(["1", *rest]))
    server.start()
    server.wait_ready()
