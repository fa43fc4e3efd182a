"""`choreo new`: a further service in this tree."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from choreo.operations.acting.newcomer import install, write_service


def new(name: Annotated[str, typer.Argument(help="One word, as points.")]) -> None:
    """Write a further service that works: its package, facts, tests, entry point and documents.

    Run it in the folder of pyproject.toml. What it does is yours to change: docs/your-own-service.md.
    """
    root = Path.cwd()
    for file in write_service(name, root):
        print(f"{file.relative_to(root)} is new")
    print("pyproject.toml names it")
    install(root)
    docs = subprocess.run([sys.executable, "-m", "choreo.cli.main", "docs"])
    if docs.returncode:
        raise typer.Exit(docs.returncode)
    print(f"The {name} service is there: `choreo up` starts it. Go on with docs/your-own-service.md.")
