"""What a command ends with when it cannot do its work: one sentence and an exit code from sysexits."""


class UsageError(Exception):
    """The command was not called as it must be. The message is the whole sentence."""

    exit_code = 64


class HandlerMisbehaves(Exception):
    """A handler does what a replay cannot let it do. The message is a sentence that names the line."""

    exit_code = 1


class Incomplete(Exception):
    """What was asked for cannot be told from what there is. The message says what is missing."""

    exit_code = 3


class Unavailable(Exception):
    """Something this system needs cannot be had. The message is the whole sentence a person needs."""

    exit_code = 69
