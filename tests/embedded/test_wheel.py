"""The wheel holds `choreo` alone, without the peers it is compared with, and works where there is no shop."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns
from zipfile import ZipFile

import pytest

from choreo.cli.main import VERBS
from choreo.errors import Unavailable
from tests.services import SERVICES

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "events" / "recordings" / "every-fact-1.ndjson"
SOMEBODY = "8e9d2f0e-0000-4000-8000-000000000001"

NO_SHOP = "There is no "
"""… user service here. Where something else is missed first, that has a sentence of its own."""
TRIED: dict[str, tuple[Sequence[str], str]] = {
    "up": ((), NO_SHOP),
    "run": (("order",), NO_SHOP),
    "scale": (("order=1",), NO_SHOP),
    "migrate": ((), NO_SHOP),
    "provision": ((), NO_SHOP),
    "demo": ((), NO_SHOP),
    "bench": (("--only", "startup"), NO_SHOP),
    "bench-peers": ((), "The peers are not part of an installed choreo"),
    "styles": (("--outages",), NO_SHOP),
    "audit": ((), "requirements.lock is not here"),
    "chaos": ((), NO_SHOP),
    "simulate": ((), NO_SHOP),
    "logs": ((), "There are no logs in"),
    "psql": (("order",), NO_SHOP),
    "env": ((), NO_SHOP),
    "doctor": ((), NO_SHOP),
    "console": ((str(RECORDING),), NO_SHOP),
    "otel": (("--once",), NO_SHOP),
    "docs": ((), NO_SHOP),
    "migration": (("billing",), NO_SHOP),
    "new": (("points",), "pyproject.toml and events/ are not in"),
    "flows": ((str(RECORDING),), NO_SHOP),
    "trace": ((SOMEBODY, str(RECORDING)), NO_SHOP),
    "log": (("order-events", str(RECORDING)), NO_SHOP),
    "record": (("-o", "shop.ndjson"), NO_SHOP),
    "verify": ((str(RECORDING),), NO_SHOP),
    "minimize": ((str(RECORDING),), NO_SHOP),
    "state": (("billing", "--at", "now"), NO_SHOP),
    "blame": (("billing", "accounts", SOMEBODY), NO_SHOP),
    "replay": ((str(RECORDING), "--service", "billing"), NO_SHOP),
    "rebuild": (("order",), NO_SHOP),
    "dlq": (("ls",), NO_SHOP),
    "keys": (("rotate",), NO_SHOP),
}


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Away from the checkout, in the folder of the program, where nothing can be reached."""
    outer = {name: value for name, value in os.environ.items() if name not in ("CHOREO_HOME", "PYTHONPATH")}
    nowhere = {f"{name.upper()}_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none" for name in SERVICES}
    environment = outer | nowhere | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    folder = Path(command[0]).parent
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a copy of the checkout, where no earlier build has left anything."""
    source, made = tmp_path_factory.mktemp("source") / "choreo", tmp_path_factory.mktemp("wheel")
    copytree(ROOT, source, ignore=ignore_patterns(".*", "__pycache__", "build", "*.egg-info"))
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, made], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (only,) = made.iterdir()
    return only


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel in it, and beside it only what the wheel depends on."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        python,
    ]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], check=True)
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    # Installed before these are seen: among them is this checkout's own installation, by a .pth that counts
    # for nothing here.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_wheel_holds_choreo_alone_and_all_of_it_but_the_peers(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    ours = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "choreo").rglob("*")
        if file.is_file() and not {"__pycache__", "peers"} & {*file.parts}
    }
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"choreo", "choreo_kafka"}


def test_in_an_environment_without_a_shop_it_imports_and_shows_its_verbs(programs: Path) -> None:
    where = "import choreo, importlib.util as u; print(choreo.__file__, *map(u.find_spec, {names!r}))"
    names = ["events", *(f"{service}_service" for service in SERVICES)]
    found = run(programs / "python", "-c", where.format(names=names)).stdout.split()
    assert Path(found[0]).is_relative_to(programs.parent), "the wheel's, not this checkout's"
    assert found[1:] == ["None"] * len(names)
    shown = run(programs / "choreo", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(verb in shown.stdout for verb in VERBS)


_EACH_VERB = """
import contextlib, io, json, sys
from choreo.cli.main import main
for verb, arguments in json.loads(sys.argv[1]).items():
    sys.argv = ["choreo", verb, *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([verb, code, said.getvalue()]))
"""
"""In one process, as each import takes its time. What is not told ends it with a traceback."""


@pytest.fixture(scope="module")
def ends(programs: Path) -> dict[str, tuple[int, str]]:
    """By verb: its exit code, and what it said on standard error."""
    arguments = json.dumps({verb: arguments for verb, (arguments, _) in TRIED.items()})
    done = run(programs / "python", "-c", _EACH_VERB, arguments)
    assert done.returncode == 0, done.stderr
    return {verb: (code, said) for verb, code, said in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_needs_a_shop_says_so_in_a_sentence(ends: dict[str, tuple[int, str]], verb: str) -> None:
    code, said = ends[verb]
    assert code == Unavailable.exit_code, said
    assert said.splitlines()[-1].startswith(f"choreo: {TRIED[verb][1]}")


def test_the_program_itself_says_so(programs: Path) -> None:
    done = run(programs / "choreo", "up")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (69, "", 1)
    assert done.stderr.startswith(f"choreo: {NO_SHOP}")
