"""The JSON Schema of every fact, stored per version beside it so that no fact changes unnoticed.

`choreo docs` writes the files that are not there yet. It never rewrites one: a fact that reads differently
is another version.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from choreo.message.fact import Fact


def schema_of(fact: type[Fact]) -> dict[str, Any]:
    """What its data may be, without the prose: a better docstring is no new version."""
    schema = fact.model_json_schema()
    schema.pop("description", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:choreo:{fact.__name__}:{fact.VERSION}",
        **schema,
    }


def path_of(fact: type[Fact], folder: Path | None = None) -> Path:
    folder = folder or Path(inspect.getfile(fact)).parent / "schemas"
    return folder / f"{fact.__name__}.{fact.VERSION}.json"


def fault_of(fact: type[Fact], folder: Path | None = None) -> str | None:
    """How this fact departs from what is stored of it, and the cure; None if it does not."""
    path, name = path_of(fact, folder), fact.__name__
    if not path.exists():
        return f"{name} has no {path.name}: run `choreo docs`"
    if json.loads(path.read_text()) != schema_of(fact):
        return (
            f"{name} no longer reads as {path.name} says. Say VERSION = {fact.VERSION + 1} in its model, "
            f"write an upcaster from version {fact.VERSION} beside it (UPCASTERS) "
            "and run `choreo docs`; or take the change back"
        )
    return None


def store(fact: type[Fact], folder: Path | None = None) -> bool:
    """Whether there was no file yet. One that is there stays as it is."""
    path = path_of(fact, folder)
    if path.exists():
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(schema_of(fact), indent=2) + "\n")
    return True
