"""A checkout of this very tree, with an environment of its own: what is done there is done nowhere else."""

import ast
import os
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree

import pytest

from choreo.chassis.registry import load_facts
from choreo.embedded.home import cache_directory
from choreo.message.catalog import published_by
from choreo.operations.acting.throwaway import ThrowawaySystem

ROOT = Path(__file__).parents[1]
PYTHON = Path(".venv", "bin", "python")
_IGNORED = ("__pycache__", "build", "*.egg-info", ".git", ".venv", ".choreo", ".hypothesis", ".*_cache")
"""By git."""
_NOT_ITS_OWN = ("PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS")
"""All but the first carry `make test ARGS=…` into every make below it."""


class Checkout:
    """It is installed in its environment, as `make` does it, which has the packages of ours beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        copytree(ROOT, root, ignore=ignore_patterns(*{*_IGNORED} - {"__pycache__"}))
        if (ROOT / ".mypy_cache").exists():  # else mypy takes a minute
            copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
        cache = cache_directory()  # else Kafka is downloaded again
        cache.mkdir(parents=True, exist_ok=True)
        (root / ".choreo").mkdir()
        (root / ".choreo" / "cache").symlink_to(cache)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        # Our own installation is a .pth there, and counts for nothing here.
        beside = Path(self.run(str(PYTHON), "-c", where).strip(), "beside.pth")
        beside.write_text(sysconfig.get_path("purelib") + "\n")
        for name in ("ruff", "mypy", "lint-imports", "check-jsonschema"):
            (root / ".venv" / "bin" / name).symlink_to(Path(sysconfig.get_path("scripts"), name))
        self.install()

    def run(self, *command: str, **more: str) -> str:
        """What it printed; it exits 0. `more` are variables."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    @contextmanager
    def running(self) -> Iterator[ThrowawaySystem]:
        """What is installed there, and nothing that lies here."""
        python = str(self.root / PYTHON)
        with pytest.MonkeyPatch.context() as patch, ThrowawaySystem(python=python) as system:
            patch.delenv("PYTHONPATH", raising=False)
            patch.setenv("PYTHONSAFEPATH", "1")
            system.start()
            yield system

    def install(self) -> None:
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        self.run(str(PYTHON), *pip, "--no-build-isolation", "--no-deps", "-e", ".")

    @property
    def environment(self) -> dict[str, str]:
        """In which a command there finds that checkout alone."""
        outer = {name: value for name, value in os.environ.items() if name not in _NOT_ITS_OWN}
        # The plugin takes longer to be imported than the tests there take.
        return outer | {"WORKERS": "0", "PYTEST_ADDOPTS": "-p no:schemathesis"}

    def take_away(self, service: str) -> None:
        """Its package and its facts, with what the shop's story tells of them, and its entry point; what is
        installed is to be installed again.
        """
        load_facts()
        facts = [fact.__name__ for fact in published_by(service)]
        rmtree(self.root / f"{service}_service")
        events, project = self.root / "events", self.root / "pyproject.toml"
        (events / f"{service}.py").unlink()
        for fact in facts:
            for schema in (events / "schemas").glob(f"{fact}.*.json"):
                schema.unlink()
        story = events / "examples.py"
        story.write_text(_without(facts, story.read_text()))
        lines = project.read_text().splitlines(keepends=True)
        project.write_text("".join(line for line in lines if not line.startswith(f"{service} = ")))

    def files(self) -> dict[str, bytes]:
        """All that git would see."""
        there = (path for path in self.root.rglob("*") if path.is_file())
        named = {path.relative_to(self.root): path for path in there}
        return {
            str(name): path.read_bytes()
            for name, path in named.items()
            if not any(fnmatch(part, ignored) for part in name.parts for ignored in _IGNORED)
        }


def _without(names: Collection[str], source: str) -> str:
    """Without the statements in which one of these is imported or said."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Expr):
            at = slice(node.lineno - 1, node.end_lineno)
            if any(name in line for line in lines[at] for name in names):
                lines[at] = [""] * len(lines[at])  # so that every other line keeps its number
    return "".join(lines)
