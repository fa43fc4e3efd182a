"""`choreo up` as it is, but for services that have failpoints and a mail server with moods:
`python -m choreo.chaos.up`.
"""

import sys

from choreo.errors import Unavailable
from choreo.operations.acting.reporter import Reporter
from choreo.operations.acting.system import System
from choreo.operations.reading.installation import read_settings


class Endangered(System):
    mail_server = "choreo.chaos.mail"

    def command(self, service: str) -> list[str]:
        return [sys.executable, "-m", "choreo.chaos.service", service]


if __name__ == "__main__":
    try:
        Endangered(read_settings(), Reporter(as_json=True)).run(fresh=False, counts={})
    except Unavailable as error:
        print(f"choreo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
