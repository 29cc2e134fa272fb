"""The command line: verbs to functions."""


def main() -> None:
    raise SystemExit("not built yet")
