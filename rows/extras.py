"""Libraries that only some parts need: the extras of setup.cfg."""

from importlib import import_module
from types import ModuleType


def require(name: str, extra: str = "data") -> ModuleType:
    """Import an optional library.

    Args:
        name: Of the module, for example `spacy` or `openai`.
        extra: The extra of llavakit that brings it.

    Raises:
        ValueError: It is not installed; the message names the command that installs it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:  # it is there, but broken: its own message says more
            raise
        raise ValueError(
            f"this needs the library {name!r}, which is not installed. Run: pip install 'llavakit[{extra}]'"
        ) from error
