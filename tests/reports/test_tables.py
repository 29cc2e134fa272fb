"""Tables and histograms in the terminal: figures line up, cells are text, and a pipe gets every character of them."""

import io

import pytest

from llavakit.reports.tables import BAR_LENGTH, as_text, histogram, show, table


def test_words_start_at_the_left_and_figures_end_at_the_right() -> None:
    lines = as_text(table(("type", "calls"), [("detail", 5), ("reasoning", 12_000)])).splitlines()
    assert [line.split() for line in (lines[0], *lines[-2:])] == [
        ["type", "calls"],
        ["detail", "5"],
        ["reasoning", "12,000"],
    ]
    assert lines[-1].startswith("reasoning") and lines[-2].index("5") == lines[-1].rindex("0")


def test_a_pipe_gets_long_cells_whole_and_without_colours() -> None:
    name = "a/very/long/path/" * 20
    text = as_text(table(("source", "rows"), [(name, 1)], title="Sources"))
    assert name in text and "\x1b" not in text and text.startswith("Sources")


def test_a_cell_is_text_and_no_markup_and_obeys_no_control_character() -> None:
    text = as_text(table(("phrase",), [("[red]bus[/red]",), ("a\x1b[2Jb",), ("x\u202ey",)]))
    assert "[red]bus[/red]" in text and "\x1b" not in text and "\u202e" not in text


def test_wide_letters_take_two_columns() -> None:
    lines = as_text(table(("a", "b"), [("猫", 1), ("cat!", 2)])).splitlines()
    assert lines[-2].index("1") + 1 == lines[-1].index("2")


def test_bars_are_as_long_as_their_counts_and_a_single_row_is_seen() -> None:
    lines = as_text(histogram({"0-99": 1, "100-199": 1000, "200-299": 0})).splitlines()[-3:]
    assert [line.count("#") for line in lines] == [1, BAR_LENGTH, 0]
    assert "1,000" in lines[1]


def test_a_row_without_all_its_cells_is_named() -> None:
    with pytest.raises(ValueError, match="row 1 of the table has 1 cells, and there are 2 columns"):
        table(("a", "b"), [("x",)])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_rules_and_a_pipe_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    parts = table(("type", "calls"), [("a", 1), ("all", 1)], total=True), histogram({"a": 1})
    seen, piped = Terminal(), io.StringIO()
    show(*parts, file=seen)
    show(*parts, file=piped)
    assert "\x1b[" in seen.getvalue() and seen.getvalue().count("────") >= 3
    assert [line.split()[0] for line in piped.getvalue().splitlines()] == ["type", "a", "all", "count", "a"]
