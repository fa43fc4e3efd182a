"""Runs migrations inside one transaction on the database `choreo.chassis.database.migrate` was given."""

from alembic import context
from sqlalchemy import create_engine, pool

url = context.config.attributes["url"]
engine = create_engine("postgresql+psycopg://" + url.partition("://")[2], poolclass=pool.NullPool)
with engine.begin() as connection:
    context.configure(connection=connection)
    context.run_migrations()
