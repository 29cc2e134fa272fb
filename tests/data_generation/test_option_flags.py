"""Flags out of a dataclass: what must be given, types, defaults and help come from its fields."""

import argparse
from dataclasses import dataclass

import pytest

from llavakit.cli import main
from llavakit.data_generation.option_flags import add_options, option, options_of
from llavakit.data_generation.sources import ACADEMIC


@dataclass
class Example:
    file: str = option("the file, 100% of it")
    other: str | None = option("another", None)
    most: int = option("at most", 5)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_options(made, Example)
    return made


def test_fields_are_flags() -> None:
    assert options_of(parser().parse_args(["--file", "a"]), Example) == Example("a")
    assert options_of(parser().parse_args(["--file", "a", "--most", "7"]), Example) == Example("a", None, 7)
    said = " ".join(parser().format_help().split())
    assert "the file, 100% of it" in said and "at most (default: 5)" in said and "another (default" not in said
    with pytest.raises(SystemExit):
        parser().parse_args(["--most", "7"])


@pytest.mark.parametrize("name", ACADEMIC)
def test_every_converter_explains_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "academic", name, "--help"])
    said = capsys.readouterr().out
    assert all(f"--{field}" in said for field in ACADEMIC[name].__dataclass_fields__)
