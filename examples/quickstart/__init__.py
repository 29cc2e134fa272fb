"""The embedded default: a small model learns to see, on two CPU cores, in minutes, with the library's own classes."""

from .pipeline import run_quickstart

__all__ = ["run_quickstart"]
