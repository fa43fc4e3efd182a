"""Databases that are not ours: which of them are given, and today's tables in them."""

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from choreo.chassis.database.comparison import require_tables
from choreo.chassis.database.connection import unusable
from choreo.chassis.database.migrate import migrate
from choreo.chassis.installed import package_of
from choreo.chassis.registry import service_names
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable


def external_databases(settings: Settings) -> dict[str, str]:
    """By service; empty if all are ours."""
    services = service_names()
    given = {service: url for service in services if (url := settings.database_urls.get(service))}
    if given and len(given) < len(services):
        missing = " and ".join(f"{name.upper()}_DATABASE_URL" for name in services if name not in given)
        raise Unavailable(f"{missing} not set but others are: set all of them, or none to use our own.")
    return given


def migrate_external(service: str, url: str, runtime_role: str | None = None) -> None:
    """`Unavailable`, naming the setting, where the database cannot be used."""
    package_of(service)  # or say that it is not here
    try:
        if reason := unusable(url):
            raise Unavailable(f"{service.upper()}_DATABASE_URL cannot be used: {reason}; name the server.")
        migrate(service, url, runtime_role)
        require_tables(service, url)
    except (SQLAlchemyError, psycopg.Error) as error:
        said = str(error).splitlines()[0]
        reason = said.partition(") ")[2] or said or type(error).__name__
        raise Unavailable(f"{service.upper()}_DATABASE_URL cannot be used: {reason}; correct it.") from error
