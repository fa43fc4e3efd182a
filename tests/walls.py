"""`python -m tests.walls`: holds the import contracts of pyproject.toml for the services of this tree."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from choreo.chassis.installed import package_of
from choreo.chassis.registry import service_names

ROOT = Path(__file__).parents[1]


def packages() -> list[str]:
    """Of the services in this tree; what is installed beside it has walls of its own."""
    return [package for package in map(package_of, service_names()) if (ROOT / package).is_dir()]


def rendered(config: str) -> str:
    """With the services' names, where import-linter takes no `*_service`."""
    found = packages()
    named = ", ".join(f'"{package}"' for package in found)
    return config.replace('"| *_service"', f'"{" | ".join(found)}"').replace('"*_service"', named)


def main() -> int:
    with TemporaryDirectory() as folder:
        config = Path(folder, "walls.toml")
        config.write_text(rendered((ROOT / "pyproject.toml").read_text()))
        lint = Path(sys.executable).with_name("lint-imports")
        return subprocess.run([lint, "--config", config], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
