"""What each part of the recipe is worth, measured on the quickstart's world: the paper's ablations in one command."""

from .pipeline import run_ablations

__all__ = ["run_ablations"]
