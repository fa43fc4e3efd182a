"""What deployment and tables for people say of each service: written between two marks, from descriptions."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from choreo.chassis.installed import package_of
from choreo.chassis.registry import own_port_of, port_of
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings

FILES = (
    "docker-compose.kafka.yml",
    "deploy/databases.sql",
    "deploy/passwords.sh",
    "deploy/prometheus.yml",
    "docs/operations.md",
    "docs/running.md",
    "docs/trace.md",
)
_REGION = re.compile(
    r"(^[^\n]*each service: (\w+)[^\n]*\n)(?:.*?\n)??(^[^\n]*each service ends[^\n]*\n)",
    re.MULTILINE | re.DOTALL,
)
_ASK = "run sh deploy/passwords.sh"
_SECURE = "?require_auth=scram-sha-256"
_TEXTS = {
    "users": '        user_{name}="${{{NAME}_KAFKA_PASSWORD:?%(ask)s}}"\n',
    "passwords": (
        "      {NAME}_DATABASE_PASSWORD: ${{{NAME}_DATABASE_PASSWORD:?%(ask)s}}\n"
        "      {NAME}_OWNER_PASSWORD: ${{{NAME}_OWNER_PASSWORD:?%(ask)s}}\n"
    ),
    "owners": (
        "      {NAME}_DATABASE_URL: postgresql://{name}_owner:${{{NAME}_OWNER_PASSWORD:?%(ask)s}}"
        "@postgres:5432/{name}%(secure)s\n"
    ),
    "names": "      {NAME}_KAFKA_USERNAME: {name}\n",
    "processes": (
        "  {name}:\n"
        "    <<: *service\n"
        '    command: ["python", "-m", "{package}"]\n'
        '    ports: ["127.0.0.1:{port}:{port}"]\n'
        "    environment:\n"
        "      <<: *everywhere\n"
        "      {NAME}_KAFKA_USERNAME: {name}\n"
        "      {NAME}_KAFKA_PASSWORD: ${{{NAME}_KAFKA_PASSWORD:?%(ask)s}}\n"
        "      {NAME}_DATABASE_URL: postgresql://{name}:${{{NAME}_DATABASE_PASSWORD:?%(ask)s}}"
        "@postgres:5432/{name}%(secure)s\n"
        "{mail}"
        "    healthcheck:\n"
        "      <<: *often\n"
        '      test: ["CMD", "python", "-c", "import urllib.request as u; '
        "u.urlopen('http://127.0.0.1:{port}/health/serving', timeout=3)\"]\n\n"
    ),
    "roles": (
        "\\getenv {name} {NAME}_DATABASE_PASSWORD\n"
        "\\getenv {name}_owner {NAME}_OWNER_PASSWORD\n"
        "INSERT INTO services VALUES ('{name}');\n"
        "INSERT INTO roles VALUES ('{name}', 120, :'{name}'), ('{name}_owner', 20, :'{name}_owner');\n"
    ),
    "words": 'services="$services {name}"\n',
    "targets": '      - targets: ["{name}:{port}"]\n        labels: {{service: {name}}}\n',
    "ports": "| {name} | {port} | {own_port} | {offset} |\n",
    "settings": "{settings}",
    "waiting": "| {name} | {waiting} |\n",
    "ids": "| {name} | {ids} |\n",
}
"""By the name in the mark, as `str.format` has it."""
_HEADS = {
    "ports": ("Service", "Port", "of its first process alone", "Base +"),
    "settings": ("A service's own", "Default", ""),
    "waiting": ("Service", "What can wait there"),
    "ids": ("Service", "What of it has an id or a name to ask by"),
}
"""Of what is a table in Markdown."""


def rendered(text: str, services: Iterable[Service[Any]]) -> str:
    """The same file, with these services between its marks."""
    told = [
        {
            "name": service.name,
            "NAME": service.name.upper(),
            "package": package_of(service.name),
            "port": port_of(service.name, Settings.model_construct()),
            "mail": "      SMTP_URL: smtp://mail:1025\n" if service.sends_mail else "",
            "own_port": own_port_of(service.name, Settings.model_construct()),
            "offset": service.port_offset,
            "settings": _settings(service),
            "waiting": service.waiting.what if service.waiting else "nothing",
            "ids": ", ".join(id.what for id in service.ids) or "nothing",
        }
        for service in services
    ]

    def written(region: re.Match[str]) -> str:
        form = _TEXTS[region[2]] % {"ask": _ASK, "secure": _SECURE}
        rows = "".join(form.format(**one) for one in told)
        return region[1] + (_table(_HEADS[region[2]], rows) if region[2] in _HEADS else rows) + region[3]

    return _REGION.sub(written, text)


def _settings(service: Service[Any]) -> str:
    fields = type(service.settings).model_fields.items()
    return "".join(
        f"| `{service.name}_{name}`".upper() + f" | {field.default} | {field.description or ''} |\n"
        for name, field in fields
    )


def _table(columns: Sequence[str], rows: str) -> str:
    return f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n{rows}\n"


def deployed(root: Path, services: Iterable[Service[Any]]) -> dict[Path, str]:
    """What each of the files that are there should hold."""
    known = list(services)
    there = [root / name for name in FILES if (root / name).exists()]
    return {path: rendered(path.read_text(), known) for path in there}
