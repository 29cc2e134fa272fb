"""What docs/checkpoints.md says of formats and commands is true."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.checkpoints.formats import READERS, WRITERS
from llavakit.cli import main, parser_of

pytestmark = pytest.mark.usefixtures("forked_processes")  # those of proofs

PAGE = "checkpoints.md"


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / PAGE).read_text(encoding="utf-8")


def test_all_formats_are_named(page: str) -> None:
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert named == list(WRITERS)
    assert named[: len(READERS)] == list(READERS)


def test_all_commands_parse(page: str) -> None:
    commands = re.findall(r"^llavakit (import|export) (.+)$", page, re.MULTILINE)
    assert len(commands) == 6
    for verb, arguments in commands:
        parser_of(verb).parse_args(arguments.split())


@pytest.mark.slow
def test_the_two_commands_on_top_run(
    page: str,
    llava_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a checkpoint that is made here, of the same format."""
    monkeypatch.chdir(tmp_path)
    ours = llava_checkpoint(projector_type="mlp2x_gelu")
    assert main(["export", str(ours), "--format", "llava", "-o", "source"]) == 0
    [block, *_] = re.findall(r"^```bash\n(.+?)^```$", page, re.DOTALL | re.MULTILINE)
    for line in block.replace("llava-hf/llava-1.5-7b-hf", "source").splitlines():
        assert main(line.split()[1:]) == 0
        assert "say the same" in capsys.readouterr().out
    assert {"llava-1.5", "llava-1.5-hf"} <= {folder.name for folder in tmp_path.iterdir()}
