"""Migrated databases of the services, each for one test at a time. One that a test has left is emptied and
used again: that is a tenth of the work of making one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier

from choreo.embedded.postgres import Postgres

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Database:
    """A service's. `rows` reads it as its owner."""

    name: str
    owner_url: str
    runtime_url: str

    def rows(self, query: str, *values: Any) -> Rows:
        with psycopg.connect(self.owner_url) as conn:
            return conn.execute(query.encode(), values).fetchall()

    def count(self, table: str) -> int:
        ((number,),) = self.rows(f"SELECT count(*) FROM {table}")
        return int(number)


@contextmanager
def a_database(service: str, postgres: Postgres, templates: dict[str, str]) -> Iterator[Database]:
    pool = _POOLS.setdefault(templates[service], _Pool(service, postgres, templates[service]))
    database = pool.take()
    try:
        yield database
    finally:
        pool.give_back(database)


class _Pool:
    """Copies of one service's template."""

    def __init__(self, service: str, postgres: Postgres, template: str) -> None:
        self._service, self._postgres, self._template = service, postgres, template
        self._spare: list[Database] = []
        with self._connected(template) as conn:
            self._shape = conn.execute(_SHAPE).fetchall()
            tables = [Identifier(name) for (name,) in conn.execute(_TABLES).fetchall()]
            self._rows = [(table, _rows_of(table, conn)) for table in tables]

    def take(self) -> Database:
        return self._spare.pop() if self._spare else self._made()

    def give_back(self, database: Database) -> None:
        if self._emptied(database.name):
            self._spare.append(database)
        else:
            self._postgres.drop_database(database.name)

    def _made(self) -> Database:
        name = f"t{uuid4().hex[:10]}_{self._service}"
        urls = self._postgres.create_service(self._service, database=name, template=self._template)
        return Database(name, *urls)

    def _emptied(self, name: str) -> bool:
        """Whether it is what the template is: not where a test has changed more than rows."""
        with self._connected(name) as conn:
            conn.execute(_SEND_ALL_AWAY)
            if conn.execute(_SHAPE).fetchall() != self._shape:
                return False
            conn.execute("SET session_replication_role = replica")  # no trigger, no foreign key
            for table, rows in self._rows:
                conn.execute(SQL("DELETE FROM {}").format(table))
                if rows:
                    with conn.cursor().copy(SQL("COPY {} FROM STDIN").format(table)) as copy:
                        copy.write(rows)
            for (sequence,) in conn.execute(_SEQUENCES).fetchall():
                conn.execute(SQL("ALTER SEQUENCE {} RESTART").format(Identifier(sequence)))
        return True

    def _connected(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            self._postgres.admin_url.replace("/postgres?", f"/{database}?"), autocommit=True
        )


def _rows_of(table: Identifier, conn: psycopg.Connection) -> bytes:
    with conn.cursor().copy(SQL("COPY {} TO STDOUT").format(table)) as copy:
        return b"".join(copy)


_POOLS: dict[str, _Pool] = {}
"""By template: there is one server for a process that tests."""

_SEND_ALL_AWAY = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""

_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"

_SEQUENCES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"

_SHAPE = """
SELECT string_agg((to_jsonb(c) - '{relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,
    relminmxid}'::text[])::text, ' ' ORDER BY oid)
FROM pg_class c WHERE relnamespace = 'public'::regnamespace
UNION ALL
SELECT string_agg((to_jsonb(a) - 'attmissingval')::text, ' ' ORDER BY attrelid, attnum)
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace
UNION ALL
SELECT string_agg(to_jsonb(d)::text, ' ' ORDER BY oid) FROM pg_attrdef d
UNION ALL
SELECT string_agg(to_jsonb(c)::text, ' ' ORDER BY oid) FROM pg_constraint c
WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT string_agg(to_jsonb(t)::text, ' ' ORDER BY oid) FROM pg_trigger t
UNION ALL
SELECT string_agg(to_jsonb(p)::text, ' ' ORDER BY oid) FROM pg_proc p
WHERE pronamespace = 'public'::regnamespace OR proacl IS NOT NULL
UNION ALL
SELECT string_agg(to_jsonb(n)::text, ' ' ORDER BY oid) FROM pg_namespace n WHERE nspname !~ '^pg_'
UNION ALL
SELECT string_agg(to_jsonb(d)::text, ' ' ORDER BY oid) FROM pg_default_acl d
UNION ALL
SELECT concat(datacl, setconfig) FROM pg_database d LEFT JOIN pg_db_role_setting ON setdatabase = d.oid
WHERE datname = current_database()"""
"""All but rows, of which a copy has its template's object identifiers."""
