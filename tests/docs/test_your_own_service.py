"""docs/your-own-service.md, followed to the letter in a copy of the tree: a service comes of it."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

from choreo.chassis.installed import GROUP
from choreo.cli.programmes.deployed import FILES
from choreo.operations.acting.newcomer import write_service
from tests.walls import packages

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "your-own-service.md"
_BLOCK = re.compile(r"(?:^\*\*([\w/.]+)\*\*\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CHECK = (
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["tests.walls"],
    ["choreo.cli.main", "docs", "--check"],
)
"""`make check` but for mypy, which would take a minute where nothing is cached, for the migrations, which the
page itself has had written, and for the tidy tests.
"""
_TESTS = ("tests/unit/test_points.py", "tests/unit/test_schemas.py", "tests/unit/test_codec.py")
_ELSEWHERE = ("make run", "make test")
"""These start systems of their own; the tests of the page are run at its end."""


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, module: str, *arguments: str) -> str:
        """What it printed; it exits 0."""
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def follow(self, line: str) -> None:
        match shlex.split(line):
            case [".venv/bin/choreo", "new", name]:
                write_service(name, self.root)
                self.install()
                self.run("choreo.cli.main", "docs")
            case [".venv/bin/choreo", *arguments]:
                self.run("choreo.cli.main", *arguments)
            case ["rm", *_]:
                subprocess.run(line, shell=True, cwd=self.root, check=True)
            case ["make", "docs"]:
                self.run("choreo.cli.main", "docs")
            case ["make", "check"]:
                for module, *arguments in _CHECK:
                    self.run(module, *arguments)
            case _:
                assert line.startswith(_ELSEWHERE), f"nobody knows how to follow {line}"

    def install(self) -> None:
        """As pip would tell of this tree, which is the first place where Python looks."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        told = self.root / "choreo_kafka-0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        named = "\n".join(f"{name} = {where}" for name, where in project["entry-points"][GROUP].items())
        (told / "entry_points.txt").write_text(f"[{GROUP}]\n{named}\n")

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file()
            and not {"__pycache__", ".ruff_cache", ".import_linter_cache", ".hypothesis"} & {*path.parts}
        }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("tree")
    for folder in ("choreo", "events", "tests", "docs", "deploy", *packages()):
        copytree(ROOT / folder, root / folder, ignore=ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "requirements.lock", "README.md", "docker-compose.kafka.yml"):
        copy(ROOT / file, root)
    return Tree(root)


def test_who_follows_the_page_has_a_service_and_has_touched_nothing_else(tree: Tree) -> None:
    before = tree.files()
    for path, language, text in _BLOCK.findall(PAGE.read_text()):
        if language == "python":
            (tree.root / path).write_text(text)
        elif not language:
            for line in text.splitlines():
                tree.follow(line)
    tree.run("pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *_TESTS)
    after = tree.files()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    ours = ("points_service/", "events/points.py", "events/schemas/Points", "tests/unit/test_points.py")
    told = ("docs/api/points.", "choreo_kafka-0.dist-info/", "pyproject.toml", *FILES)
    assert [name for name in sorted(changed) if not name.startswith((*ours, *told))] == []
    assert all(b"points" in after[file] and b"points" not in before[file] for file in FILES)
    lines = {*after["pyproject.toml"].splitlines()} - {*before["pyproject.toml"].splitlines()}
    assert lines == {b'points = "points_service.service:service"'}
