"""Stored schemas: no fact changes its shape unnoticed. What goes red here says how to cure it."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator, ValidationError
from pydantic import create_model

from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.fact import Amount, Fact
from choreo.message.schema import fault_of, path_of, store
from choreo.message.upcast import UPCASTERS
from tests.services import FACTS
from tests.unit.facts import order_created, rejected


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_says_which_of_its_fields_tell_its_story(fact: type[Fact]) -> None:
    """No ids: those are told anyway."""
    assert fact.TELLS and set(fact.TELLS) <= set(fact.model_fields)
    assert not [name for name in fact.TELLS if fact.model_fields[name].annotation is UUID]


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_reads_as_its_version_says(fact: type[Fact]) -> None:
    assert (fault := fault_of(fact)) is None, fault


def test_every_stored_version_is_todays_or_can_be_lifted() -> None:
    folders = {path_of(fact).parent for fact in FACTS}
    for path in (path for folder in folders for path in folder.iterdir()):
        name, version, suffix = path.name.split(".")
        assert suffix == "json" and name in FACT_OF_TYPE, f"{path.name} belongs to no fact"
        assert int(version) <= FACT_OF_TYPE[name].VERSION, f"{path.name} is of a version {name} does not have"
        for step in range(int(version), FACT_OF_TYPE[name].VERSION):
            assert (name, step) in UPCASTERS, f"UPCASTERS lifts no {name} of version {step}"


@pytest.mark.parametrize("fact", [order_created(), rejected()])
def test_the_schema_admits_what_is_sent_and_refuses_what_is_not(fact: Fact) -> None:
    validator = Draft202012Validator(json.loads(path_of(type(fact)).read_text()))
    data: dict[str, Any] = json.loads(fact.model_dump_json())
    validator.validate(data)
    for wrong in (data | {"more": 1}, data | {"order_id": 7}, {}):
        with pytest.raises(ValidationError):
            validator.validate(wrong)


class Praised(Fact):
    """Somebody liked it."""

    stars: Amount


def test_a_changed_fact_is_noticed_and_told_the_cure(tmp_path: Path) -> None:
    assert (fault := fault_of(Praised, tmp_path)) and "run `choreo docs`" in fault
    store(Praised, tmp_path)
    assert fault_of(Praised, tmp_path) is None

    changes: list[dict[str, Any]] = [
        {"stars": (str, ...)},
        {"stars": (int, ...)},
        {"words": (str, ...)},
        {"words": (str | None, None)},
    ]
    for fields in changes:
        changed = create_model("Praised", __base__=Praised, **fields)
        assert (fault := fault_of(changed, tmp_path)) and "Say VERSION = 2" in fault


def test_a_better_docstring_is_no_new_version(tmp_path: Path) -> None:
    store(Praised, tmp_path)
    retold = type("Praised", (Praised,), {"__doc__": "Somebody liked it very much."})
    assert fault_of(retold, tmp_path) is None


def test_what_is_stored_is_never_rewritten(tmp_path: Path) -> None:
    path_of(Praised, tmp_path).write_text("{}")
    store(Praised, tmp_path)
    assert path_of(Praised, tmp_path).read_text() == "{}"
