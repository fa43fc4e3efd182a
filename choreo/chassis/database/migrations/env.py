"""Runs migrations inside one transaction on the database `choreo.chassis.database.migrate` was given."""

from alembic import context
from sqlalchemy import create_engine, pool

from choreo.chassis.database.connection import session

url = context.config.attributes["url"]
engine = create_engine("postgresql+psycopg://", connect_args=session(url), poolclass=pool.NullPool)
with engine.begin() as connection:
    context.configure(connection=connection)
    context.run_migrations()
