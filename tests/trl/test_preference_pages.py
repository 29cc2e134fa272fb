"""docs/dpo.md and docs/grpo.md, from top to bottom, on a small checkpoint and few scenes.

What trains runs in a process in which llavakit cannot be imported.
"""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llavakit.cli import main
from llavakit.rows.files import read_rows

from ..warm_python import WITHOUT_LLAVAKIT, WarmPython

TRL = "from trl.cli import main; sys.exit(main())"
# Later on the command line, or in place of what the page says: a run of seconds. That there is no GPU the pages say themselves
SMALL = shlex.split("--per_device_train_batch_size 2 --max_steps 2 --logging_steps 1 --report_to none")
SMALL_SCENES = {'"world", seed=0': '"world", seed=0, scenes=12, exam_scenes=2'}
SMALL_REWARDS = {
    "num_generations=8": "num_generations=2",
    "per_device_train_batch_size=64": "per_device_train_batch_size=4",
    "max_steps=60": "max_steps=1",
}
SMALL_EXAM = {"held_out_pairs(0), 150": "held_out_pairs(0), 1"}


class Desk:
    """The folder that the pages' commands run in, with the checkpoint that they begin with.

    Args:
        folder: An empty one.
        code_block: Reads blocks of pages.
        python: Runs what trains.
    """

    def __init__(self, folder: Path, code_block: Callable[[str, str], str], python: WarmPython) -> None:
        self.folder, self._code_block, self._python = folder, code_block, python
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(WITHOUT_LLAVAKIT)
        self._environment = {**os.environ, "PYTHONPATH": str(site)}  # trl starts a new interpreter

    def shell(self, page: str, block: str, *more: str) -> None:
        """Run a command of a page: of llavakit here, of trl as a stranger."""
        program, *arguments = shlex.split(self._code_block(page, f"bash {block}").replace("\\\n", " "))
        if program == "llavakit":
            assert main([*arguments, *more]) == 0
        else:
            assert program == "trl"
            self._alone(["-c", WITHOUT_LLAVAKIT + TRL, *arguments, *more])

    def script(self, page: str, block: str, small: dict[str, str], *, alone: bool = False) -> None:
        """Run a script of a page, with smaller numbers in place of its own."""
        code = self._code_block(page, f"python {block}")
        for own, smaller in small.items():
            assert own in code
            code = code.replace(own, smaller)
        if alone:
            self._alone(["-c", WITHOUT_LLAVAKIT + code])
        else:
            exec(compile(code, block, "exec"), {"__name__": "__main__"})

    def _alone(self, arguments: list[str]) -> None:
        done = self._python.run(arguments, self.folder, self._environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]

    def moved(self, after: str) -> set[str]:
        """The parts of the first checkpoint that are not the same in another."""
        old, new = (load_file(self.folder / name / "model.safetensors") for name in ("runs/quickstart/model", after))
        assert old.keys() == new.keys()
        changed = [name for name, weight in old.items() if not weight.equal(new[name])]
        return {name.removeprefix("model.").partition(".")[0] for name in changed}


@pytest.fixture(scope="module")
def desk(
    tiny_llava: str,
    tmp_path_factory: pytest.TempPathFactory,
    code_block: Callable[[str, str], str],
    warm_python: WarmPython,
) -> Iterator[Desk]:
    """The folder after the first two steps of docs/dpo.md."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "runs" / "quickstart").mkdir(parents=True)
    (folder / "runs" / "quickstart" / "model").symlink_to(tiny_llava)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        desk = Desk(folder, code_block, warm_python)
        desk.script("dpo.md", "scenes", SMALL_SCENES)
        yield desk


@pytest.mark.slow
def test_preferences_from_pairs_to_scores(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.shell("dpo.md", "pairs")
    pairs = list(read_rows(desk.folder / "pairs" / "train.parquet"))
    types = Counter(pair["type"] for pair in pairs)
    assert types["object"] == 3 and types["yes_no"] >= 24  # of 12 scenes, every 4th with a description
    answers = Counter(pair["chosen"][0]["content"] for pair in pairs if pair["type"] == "yes_no")
    assert answers["yes"] == answers["no"]
    desk.shell("dpo.md", "before", "--limit", "4")
    desk.shell("dpo.md", "dpo", *SMALL)
    assert desk.moved("runs/preferred") == {"language_model", "lm_head", "multi_modal_projector"}
    desk.shell("dpo.md", "after", "--limit", "4")
    capsys.readouterr()
    desk.shell("dpo.md", "compare")
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_rewards_from_questions_to_scores(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.script("grpo.md", "grpo", SMALL_REWARDS, alone=True)
    assert (desk.folder / "runs" / "rewarded" / "processing_llava.py").is_file()
    capsys.readouterr()
    desk.script("grpo.md", "exam", SMALL_EXAM)
    assert capsys.readouterr().out.count("'presence'") == 2
    desk.shell("grpo.md", "pope", "--limit", "4")
    assert (desk.folder / "results" / "rewarded").is_dir()
