"""Databases that are not ours: which of them are given, and today's tables in them."""

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from choreo.chassis.database.connection import unusable
from choreo.chassis.database.migrate import migrate
from choreo.chassis.registry import require_installed
from choreo.chassis.settings import SERVICES, Settings
from choreo.errors import Unavailable


def external_databases(settings: Settings) -> dict[str, str]:
    """By service; empty if all are ours."""
    given = {service: url for service in SERVICES if (url := settings.database_url_of(service))}
    if given and len(given) < len(SERVICES):
        missing = " and ".join(f"{name.upper()}_DATABASE_URL" for name in SERVICES if name not in given)
        raise Unavailable(f"{missing} not set but others are: set all of them, or none to use our own.")
    return given


def migrate_external(service: str, url: str, runtime_role: str | None = None) -> None:
    """`Unavailable`, naming the setting, where the database cannot be used."""
    require_installed(service)
    try:
        if reason := unusable(url):
            raise Unavailable(f"{service.upper()}_DATABASE_URL cannot be used: {reason}; name the server.")
        migrate(service, url, runtime_role)
    except (SQLAlchemyError, psycopg.Error) as error:
        said = str(error).splitlines()[0]
        reason = said.partition(") ")[2] or said or type(error).__name__
        raise Unavailable(f"{service.upper()}_DATABASE_URL cannot be used: {reason}; correct it.") from error
