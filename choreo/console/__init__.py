"""Pages for people: what the verbs print with `--json`, drawn. It reads, and changes nothing."""
