"""`choreo up` as it is, but for services that have failpoints and a mail server with moods:
`python -m choreo.chaos.up [--brokers 3] [--processes order=2,billing=2]`.
"""

import sys
from argparse import ArgumentParser

from choreo.errors import Unavailable
from choreo.operations.acting.reporter import Reporter
from choreo.operations.acting.system import System
from choreo.operations.reading.installation import read_settings
from choreo.operations.replicas import read_counts


class Endangered(System):
    mail_server = "choreo.chaos.mail"

    def command(self, service: str) -> list[str]:
        return [sys.executable, "-m", "choreo.chaos.service", service]


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--brokers", type=int)
    parser.add_argument("--processes", type=read_counts, default={})
    asked = parser.parse_args()
    try:
        Endangered(read_settings(), Reporter(as_json=True), asked.brokers).run(False, asked.processes)
    except Unavailable as error:
        print(f"choreo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
