"""The one look-up of the registries: tables in capitals, one entry a class or function, exact keys."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def look_up(table: Mapping[str, Entry], key: str, what: str) -> Entry:
    """The entry of a registry.

    Args:
        table: The registry.
        key: As the user wrote it.
        what: The argument, flag or field that `key` was given for, as the user knows it: `stage`, `--types`.

    Raises:
        ValueError: There is no such entry; the message names the argument, its value and all keys.
    """
    check_choice(key, table, what)
    return table[key]


def check_choice(value: str, choices: Iterable[str], what: str) -> str:
    """`value`, which must be one of the choices: what `look_up` asks, where there is nothing to be fetched.

    Raises:
        ValueError: It is none of them.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{what}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}.")
    return value
