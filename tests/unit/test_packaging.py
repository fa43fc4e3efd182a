"""What is around the code agrees with it: the Pythons, the workflow, the hooks before a commit."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from choreo.chassis.code_version import code_version
from choreo.cli.main import VERBS, app

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_one_list_of_pythons_is_installed_on_classified_and_tested() -> None:
    said = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if one.startswith("Programming")]
    tested = load(".github/workflows/check.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    taken = re.findall(
        r"python(3\.\d+)", (ROOT / "Makefile").read_text().partition("PYTHONS := ")[2].partition("\n")[0]
    )
    assert said == tested == sorted(taken) == PYTHONS
    assert PROJECT["requires-python"] == ">=3.11,<3.15"


def test_the_workflow_runs_what_has_to_hold_before_anything_is_merged() -> None:
    steps = load(".github/workflows/check.yml")["jobs"]["check"]["steps"]
    run = [step["run"].partition(" PYTHON=")[0] for step in steps if "run" in step]
    assert run == [word for word in ("make check", "make test") if word in (ROOT / ".ci" / "run").read_text()]


def test_a_hook_before_a_commit_is_a_part_of_make_check() -> None:
    checks = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert hooks and all(f"\t{hook['entry']}" in checks for hook in hooks)
    assert all((ROOT / hook["entry"].split()[0]).exists() for hook in hooks)


def test_the_version_names_the_commit() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.output) == (0, f"choreo {code_version()}\n")
    assert told.output.startswith(f"choreo {PROJECT['version']}")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("choreo ", [*VERBS]), ("choreo verify --ju", ["--junit"]), ("choreo dlq ", ["ls", "show"])],
)
def test_a_shell_completes_verbs_and_their_options(typed: str, offered: list[str]) -> None:
    words = str(len(typed.split(" ")) - 1)
    told = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['choreo']; from choreo.cli.main import main; main()"],
        env={"_CHOREO_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": words},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {*offered} <= {*told.stdout.split()}
