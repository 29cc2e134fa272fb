"""`llavakit data STEP`: the steps from annotated images to a training set, in the order in which data flows."""

import argparse
from typing import Any

from .contexts import command as contexts
from .filters import command as filters
from .mixing import command as mixing
from .pairs import command as pairs
from .sources import command as sources
from .teachers import command as teachers
from .viewing import command as viewing


def add_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the steps. Returns what takes more of them."""
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    for part in (contexts, teachers, filters, pairs, sources, viewing, mixing):
        part.add_parsers(steps)
    return steps
