"""The command line, which imports a verb once it is run."""

import subprocess
import sys

import pytest
import structlog
from typer.main import get_group
from typer.testing import CliRunner

from choreo.cli.main import VERBS, _log_what_is_wrong, app, imported
from choreo.errors import UsageError

_HEAVY = "aiokafka", "chassis", "confluent_kafka", "fastapi", "faust", "pydantic", "replay", "sqlalchemy"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_of_itself_in_the_list_what_it_says_alone(verb: str) -> None:
    listed, alone = get_group(app).commands[verb], imported(verb)
    assert (listed.name, listed.help) == (alone.name, alone.help) and listed.help


def test_the_list_of_verbs_needs_none_of_what_they_need() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "choreo.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(verb in told.stdout for verb in VERBS)
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.stderr.splitlines()}
    assert modules.isdisjoint(_HEAVY) and "typer" in modules


def test_a_migration_is_of_a_service_that_is_named() -> None:
    said = CliRunner().invoke(app, ["migration"]).exception
    assert isinstance(said, UsageError) and str(said).startswith(
        "Name the service whose tables.py was changed"
    )


def test_a_traceback_in_a_verbs_log_has_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        _log_what_is_wrong()
        _fail(password="correct horse")
    finally:
        structlog.configure(**before)
    logged = capsys.readouterr().err
    assert "it broke" in logged
    assert "ZeroDivisionError" in logged
    assert "correct horse" not in logged


def _fail(password: str) -> None:
    try:
        1 / (len(password) - len(password))
    except ZeroDivisionError:
        structlog.get_logger().exception("it broke")
