"""Connectors and layouts of images side by side: same rows, same steps, same questions."""

from .pipeline import run_compare

__all__ = ["run_compare"]
