"""`llavakit eval STEP`: benchmarks, and what models make of them."""

import argparse

from . import ensemble_command, scoring_command
from .judging import command as judging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    for part in (scoring_command, judging, ensemble_command):
        part.add_parsers(steps)
