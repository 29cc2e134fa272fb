"""The findings as a page."""

from pathlib import Path

from ...reports.pages import page_template
from ...reports.text import visible
from ...rows.schema import BAD_ROW_KINDS
from .figures import figures, length_line, percent, row_title
from .findings import Inspection

PAGE = Path(__file__).with_name("inspection_page.html")


def render_page(inspection: Inspection) -> str:
    """The findings as a page of HTML that needs no other file and runs no script."""
    return page_template(PAGE, visible=visible).render(
        found=inspection,
        figures=figures(inspection),
        kinds=BAD_ROW_KINDS,
        length_line=length_line(inspection.lengths) if inspection.lengths else "",
        row_title=row_title,
        percent=percent,
    )
