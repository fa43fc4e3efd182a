"""Runs a service in style http: `python -m choreo.styles.http NAME`, with the settings of `choreo up`."""

from choreo.styles.http.runtime import HttpRuntime, main

if __name__ == "__main__":
    main(HttpRuntime)
