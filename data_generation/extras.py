"""Libraries that only some steps of the data engine need; `pip install 'llavakit[data]'` brings them all."""

from importlib import import_module
from types import ModuleType


def require(name: str) -> ModuleType:
    """Import an optional library.

    Args:
        name: Of the module, for example `spacy` or `openai`.

    Raises:
        ValueError: It is not installed; the message names the command that installs it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:  # it is there, but broken: its own message says more
            raise
        raise ValueError(
            f"this step needs the library {name!r}, which is not installed. Run: pip install 'llavakit[data]'"
        ) from error
