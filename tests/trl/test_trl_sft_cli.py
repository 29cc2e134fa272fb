"""trl's own `sft` command trains our checkpoint, by the commands of docs/trl_sft.md.

Each command is a process of its own in which llavakit cannot be imported, so that all it has is the code beside the
weights. Every batch that trl's collator makes there is recorded and compared with what ours makes of the same rows.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file

from ..cpu_training import CPU_FLAGS
from ..warm_python import WITHOUT_LLAVAKIT, WarmPython

# Appended to what a Python process runs at its start: when trl's trainer module is imported, or has been, its collator is
# wrapped.
RECORDER = """
import importlib.machinery
import os


class Recorder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "trl.trainer.sft_trainer":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            record(module.DataCollatorForVisionLanguageModeling)

        spec.loader.exec_module = exec_module
        return spec


def record(collator):
    import torch

    collate = collator.torch_call

    def torch_call(self, examples):
        rows = [{"images": list(row["images"]), "messages": row["messages"]} for row in examples]
        batch = collate(self, examples)
        folder = os.environ["RECORDED_BATCHES"]
        torch.save({"rows": rows, "batch": dict(batch)}, os.path.join(folder, f"{len(os.listdir(folder))}.pt"))
        return batch

    collator.torch_call = torch_call


if "trl.trainer.sft_trainer" in sys.modules:
    record(sys.modules["trl.trainer.sft_trainer"].DataCollatorForVisionLanguageModeling)
else:
    sys.meta_path.insert(0, Recorder)
"""

# The program `trl`
TRL = "from trl.cli import main; sys.exit(main())"

# The page's values make a run on a cluster; these, later on the command line, make it one of seconds. With one row a
# batch there are batches without an image, from which a stage that trains the connector alone has nothing to learn.
SMALL = (
    shlex.split(
        "--per_device_train_batch_size 1 --gradient_accumulation_steps 1 --num_train_epochs 1 --learning_rate 1e-2 "
        "--logging_steps 1"
    )
    + CPU_FLAGS
)

ANSWERS = ["a red cat", "two dogs, say 'woof'", "naïve\ncafé 猫 🐈", "USER: is a role name, </s> is text", "<image>"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_llava: str, code_block: Callable[[str, str], str]) -> Path:
    """The folder the page's commands run in: the checkpoint, and rows that the page's first block has written over."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "images").mkdir()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "untrained").symlink_to(tiny_llava)

    rng = np.random.default_rng(0)
    rows = []
    for number in range(10):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 30 + number, 3), dtype=np.uint8)).save(folder / "images" / name)
        question = f"<image>\nwhat is in picture {number}" if number % 2 else f"what is {number}\n<image>"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": ANSWERS[number % len(ANSWERS)]}]
        if number % 3 == 0:
            turns += [
                {"from": "human", "value": "say it again"},
                {"from": "gpt", "value": "there are " * (number + 1)},
            ]
        rows.append({"id": f"r{number}", "image": name, "conversations": turns})
    # Two rows have no image.
    for number in (4, 5):
        rows[number]["image"] = None
        rows[number]["conversations"][0]["value"] = f"say {number}"
    (folder / "rows.json").write_text(json.dumps(rows))
    subprocess.run([sys.executable, "-c", code_block("trl_sft.md", "python rows")], cwd=folder, check=True)
    return folder


@pytest.fixture
def trl_sft(
    desk: Path,
    tmp_path: Path,
    environment_without_llavakit: dict[str, str],
    code_block: Callable[[str, str], str],
    warm_python: WarmPython,
) -> Callable[[str], list[dict]]:
    """Runs a command of the page; returns the batches that trl's collator made."""

    site = Path(environment_without_llavakit["PYTHONPATH"]) / "sitecustomize.py"
    site.write_text(site.read_text() + RECORDER)

    def run(block: str) -> list[dict]:
        recorded = tmp_path / f"batches of {block}"
        recorded.mkdir()
        program, *arguments = shlex.split(code_block("trl_sft.md", block).replace("\\\n", " "))
        assert program == "trl"
        # `trl sft` starts the training as a process of its own, which is what the environment is for
        environment = {**environment_without_llavakit, "RECORDED_BATCHES": str(recorded)}
        done = warm_python.run(["-c", WITHOUT_LLAVAKIT + TRL, *arguments, *SMALL], desk, environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return [torch.load(file, weights_only=False) for file in sorted(recorded.iterdir())]

    return run


def assert_only_moved(before: Path, after: Path, learns: Callable[[str], bool]) -> None:
    """Weights whose name `learns` are all different, all others bit-identical."""
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert old.keys() == new.keys()
    for name, weight in old.items():
        same = torch.equal(weight, new[name])
        assert same != learns(name), f"{name} {'stood still' if same else 'moved'}"


def assert_same_batches(recorded: list[dict], checkpoint: Path) -> None:
    """Each recorded batch equals, tensor for tensor, what our collator makes of its rows; all rows were seen."""
    from llavakit import LlavaCollator, LlavaProcessor

    collator = LlavaCollator(LlavaProcessor.from_pretrained(checkpoint), max_length=2048)
    seen = 0
    for entry in recorded:
        ours = collator(entry["rows"])
        assert ours.keys() == entry["batch"].keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, entry["batch"][name]), name
        supervised = (ours["labels"] != -100).sum(dim=1)
        assert (supervised > 0).all() and (supervised < ours["attention_mask"].sum(dim=1)).all()
        seen += len(entry["rows"])
    assert seen == 10


@pytest.mark.slow
@pytest.mark.skipif(Version(transformers.__version__) < Version("5.18"), reason="trl asks for transformers 5.18 here")
def test_both_stages(desk: Path, trl_sft: Callable[[str], list[dict]]) -> None:
    checkpoints = desk / "checkpoints"

    batches = trl_sft("bash align")
    assert_only_moved(checkpoints / "untrained", checkpoints / "aligned", lambda name: "multi_modal_projector" in name)
    assert_same_batches(batches, checkpoints / "untrained")

    batches = trl_sft("bash instruct")
    assert_only_moved(checkpoints / "aligned", checkpoints / "instructed", lambda name: "vision_tower" not in name)
    assert_same_batches(batches, checkpoints / "aligned")


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("template", ["llava_v0", "vicuna_v1", "plain", "llama_2", "mistral", "chatml", "phi3"])
def test_collators_agree_for_every_template(desk: Path, template: str, cut: bool) -> None:
    """trl's collator in this process, for what the page's commands do not reach: templates, padding, truncation."""
    from datasets import load_dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from llavakit import LlavaCollator, LlavaProcessor

    loaded = LlavaProcessor.from_pretrained(desk / "checkpoints" / "untrained")
    processor = LlavaProcessor(
        loaded.image_processor, loaded.tokenizer, patch_size=loaded.patch_size, chat_template=template
    )
    rows = list(load_dataset("parquet", data_files=str(desk / "data" / "*.parquet"), split="train"))
    if template == "plain":  # one exchange about one picture
        rows = [row for row in rows if row["images"] and len(row["messages"]) == 2]
    # Room for every first exchange, and so for the whole of some rows alone.
    limit = max(len(processor.encode_conversation(row["messages"][:2]).input_ids) for row in rows)
    options = {"max_length": limit if cut else None, "pad_to_multiple_of": 8}

    theirs = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True, **options)([*rows])
    ours = LlavaCollator(processor, **options)(rows)

    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    longest = ours["attention_mask"].sum(dim=1).max()
    assert (longest <= limit) == (cut or template == "plain")
