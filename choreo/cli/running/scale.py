"""`choreo scale`: more or fewer processes of a service, while the system runs."""

from typing import Annotated

import typer

from choreo.errors import UsageError
from choreo.operations.acting.scaling import scale_to
from choreo.operations.reading.installation import read_settings
from choreo.operations.replicas import read_counts


def scale(
    counts: Annotated[
        str, typer.Argument(help="As order=3,billing=2; other services stay.", metavar="SERVICE=COUNT,…")
    ],
) -> None:
    """Run so many processes of a service in the running system; return when all of them are ready.

    It lasts until `choreo up` ends.
    """
    wanted = read_counts(counts)
    if not wanted:
        raise UsageError("Say of which service there shall be how many, as order=3.")
    for service, count in scale_to(read_settings(), wanted).items():
        print(f"{service}: {wanted[service]}, all ready; before {count}")
