"""Passwords that are made up once and kept in a file for its owner only."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


class Secrets:
    """Passwords by name, made up when first asked for and written down before they are used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> str:
        known: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_secret(self._path, known)
        return known[name]


def write_secret(path: Path, told: Mapping[str, object]) -> None:
    """As JSON, readable by the owner only. Whoever reads sees the old or the new, never half of it."""
    aside = path.with_suffix(".new")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(told, file, indent=2)
        file.write("\n")
    aside.replace(path)
