"""The JSON Schema of every fact, stored per version so that no fact changes unnoticed.

`python -m events.schema` writes the files that are not there yet. It never rewrites one: a fact that
reads differently is another version.
"""

import json
from pathlib import Path
from typing import Any

from events.catalog import FACT_OF_TYPE
from events.fact import Fact

FOLDER = Path(__file__).parent / "schemas"


def schema_of(fact: type[Fact]) -> dict[str, Any]:
    """What its data may be, without the prose: a better docstring is no new version."""
    schema = fact.model_json_schema()
    schema.pop("description", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:choreo:{fact.__name__}:{fact.VERSION}",
        **schema,
    }


def path_of(fact: type[Fact], folder: Path = FOLDER) -> Path:
    return folder / f"{fact.__name__}.{fact.VERSION}.json"


def fault_of(fact: type[Fact], folder: Path = FOLDER) -> str | None:
    """How this fact departs from what is stored of it, and the cure; None if it does not."""
    path, name = path_of(fact, folder), fact.__name__
    if not path.exists():
        return f"{name} has no {path.name}: run `python -m events.schema`"
    if json.loads(path.read_text()) != schema_of(fact):
        return (
            f"{name} no longer reads as {path.name} says. Say VERSION = {fact.VERSION + 1} in its model, "
            f"write an upcaster from version {fact.VERSION} in events/upcast.py "
            "and run `python -m events.schema`; or take the change back"
        )
    return None


def store(fact: type[Fact], folder: Path = FOLDER) -> None:
    """Does nothing where there is a file already."""
    path = path_of(fact, folder)
    if not path.exists():
        path.write_text(json.dumps(schema_of(fact), indent=2) + "\n")
        print(f"{path.name} is new")


if __name__ == "__main__":
    for fact in FACT_OF_TYPE.values():
        store(fact)
