"""What a peer needs from PyPI and npm, in a folder of its own and exactly as its lock files have it."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from choreo.embedded.home import cache_directory
from choreo.errors import Unavailable

PROGRAMS = Path(__file__).parent / "programs"
COMMON = PROGRAMS / "common"


def environment(name: str, say: Callable[[str], None]) -> None:
    """Makes the folder with `bin/` and, where the peer has a package.json, `node_modules/`.

    Does nothing while the locks are those it was made of; one that was interrupted is made anew. Raises
    `Unavailable` where it cannot be made.
    """
    program, home = PROGRAMS / name, home_of(name)
    locks = [lock for lock in (program / "requirements.lock", program / "package-lock.json") if lock.exists()]
    wanted = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"{name}: installing what its locks name, once ({100 if len(locks) > 1 else 25} MB)")
    shutil.rmtree(home, ignore_errors=True)
    _run(name, [sys.executable, "-m", "venv", home])
    pip: list[str | Path] = [
        home / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    _run(name, [*pip, "--require-hashes", "-r", locks[0]])
    if len(locks) > 1:
        for file in ("package.json", "package-lock.json"):
            shutil.copy(program / file, home)
        if not (npm := shutil.which("npm")):
            raise Unavailable("npm is not here: install Node.js.")
        _run(name, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", home])
    stamp.write_text(wanted)


def home_of(name: str) -> Path:
    """Where `environment` made what the peer needs."""
    return cache_directory() / "peers" / name


def version(name: str, package: str) -> str:
    """Of a Python package, as the peer's lock has it."""
    lines = (PROGRAMS / name / "requirements.lock").read_text().splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}=="))


def _run(name: str, command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise Unavailable(f"What {name} needs could not be installed: {last.strip()[:200]}")
