"""The pages that `llavakit` writes: HTML that stands alone, from templates that lie beside the code that fills them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2


def page_template(path: Path, **filters: Callable[..., Any]) -> jinja2.Template:
    """The template of a page. What it is filled with is text, whatever that contains; a name it lacks is an error.

    Args:
        path: The template's file.
        **filters: Filters besides Jinja's own, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)
