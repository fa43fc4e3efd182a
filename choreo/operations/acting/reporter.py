"""What a system that starts has to say: one line per event, for people or for programs."""

import json
import time


class Reporter:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        after = time.monotonic() - self._since
        print(json.dumps({"after": round(after, 2), "says": text}) if self._as_json else text, flush=True)

    def ready(self, urls: dict[str, str]) -> None:
        after = time.monotonic() - self._since
        if self._as_json:
            print(json.dumps({"after": round(after, 2), "ready": True, "urls": urls}), flush=True)
            return
        print(f"\nThe shop is open after {after:.1f} s:\n")
        for name, url in urls.items():
            print(f"  {name:<12}  {url}")
        print("\nCtrl-C stops everything.", flush=True)
