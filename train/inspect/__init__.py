"""`llavakit inspect`: what is in a data set, what is wrong with it, and which tokens are in the loss."""

from .data import inspect_data
from .findings import Inspection
from .inspecting import inspect_rows
from .page import render_page
from .terminal import render_terminal

__all__ = ["Inspection", "inspect_data", "inspect_rows", "render_page", "render_terminal"]
