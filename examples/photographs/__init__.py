"""Any folder of labelled photographs and any two backbones become a visual assistant, by the library's own commands."""

from .pipeline import run_photographs

__all__ = ["run_photographs"]
