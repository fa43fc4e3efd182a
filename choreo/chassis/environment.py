"""What else stands in a process's environment, and would reach into its clients."""

import os


def ignore_libpq_variables() -> None:
    """To be called when a process begins. What a session needs is in its URL; libpq would take the rest from
    `PGPORT`, `PGOPTIONS`, `PGDATESTYLE` and some thirty more, meant for somebody's psql.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


CHOSEN_NOW = "chosen now"
"""The context in which a setting from the environment is validated, and one of a recording is not."""
