"""Whether the service that runs here takes requests: the image's health check, `python -m` this.

The image is that of every service, so it asks all ports that a service may have; one answers. It needs
the standard library alone, as it is run every few seconds.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

_TIMEOUT_SECONDS = 3
_OFFSETS = range(1, 25)
"""Of a service's port from the port base: see `choreo/chassis/registry.py`."""


def serves(port_base: int) -> bool:
    for offset in _OFFSETS:
        connection = HTTPConnection("127.0.0.1", port_base + offset, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/health/serving")
            return connection.getresponse().status == 200
        except ConnectionRefusedError:
            continue
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    sys.exit(not serves(int(os.environ.get("CHOREO_PORT_BASE", "8000"))))
