"""Runs a service in style notifications: `python -m choreo.styles.notifications NAME`."""

from choreo.styles.http.runtime import main
from choreo.styles.notifications.runtime import NotifyingRuntime

if __name__ == "__main__":
    main(NotifyingRuntime)
