"""What a command ends with when it cannot do its work: one sentence and an exit code from sysexits."""

from pydantic import ValidationError

from chassis.settings import Settings
from embedded.process import Unavailable


class UsageError(Exception):
    """The command was not called as it must be. The message is the whole sentence."""

    exit_code = 64


class Incomplete(Exception):
    """What was asked for cannot be told from what there is. The message says what is missing."""

    exit_code = 3


def read_settings() -> Settings:
    """From the environment; Unavailable, naming the variable, if one is broken."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        why = first["msg"].lower()
        field = str(first["loc"][0])
        variable = field if field.isupper() else f"CHOREO_{field.upper()}"
        raise Unavailable(f"{variable} is not usable: {why}; correct it or unset it.") from None
