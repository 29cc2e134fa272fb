"""A row is prepared once: read and tokenized once whatever trains on it, kept whole, and looked at again when it must be."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor

from llavakit import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train.samples import Samples, prepare_samples, with_samples

from ..cpu_training import CPU_FLAGS, CPU_SETTINGS
from ..warm_python import WarmPython

COUNTING = Path(__file__).with_name("counting.py")
FLAGS = ["--per_device_train_batch_size", "2", "--learning_rate", "1e-3", "--max_length", "512", *CPU_FLAGS]
FLAGS += ["--logging_steps", "1"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, in this process and in those it starts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def processor(tiny_llava: str):
    return AutoProcessor.from_pretrained(tiny_llava)


def text_rows(folder: Path, count: int) -> Path:
    rows = [
        {
            "id": f"r{number}",
            "conversations": [
                {"from": "human", "value": f"what is it {number}"},
                {"from": "gpt", "value": "a red cat and two dogs " * (1 + number % 3)},
            ],
        }
        for number in range(count)
    ]
    path = folder / f"{count}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def counts(file: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in file.read_text().splitlines())


def content(samples: Samples) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "image_files"} for row in samples.table]


def chunks(cache: Path) -> list[Path]:
    return sorted((cache / "llavakit-samples").glob("*/*.arrow"))


def config(folder: Path, **changes) -> LlavaSFTConfig:
    settings = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1}
    settings |= {"save_strategy": "no", "max_length": 512, "gradient_checkpointing": False, **CPU_SETTINGS}
    return LlavaSFTConfig(str(folder), **{**settings, **changes})


@pytest.mark.slow
def test_once_over_three_epochs_a_resume_and_two_processes(
    warm_python: WarmPython, tiny_llava: str, rows_file: Path, tmp_path: Path
):
    """Twelve rows are read twelve times and tokenized twelve times, in all and by all."""
    file = tmp_path / "counts"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(COUNTING)]
    command += [
        str(file),
        "--ddp_backend",
        "gloo",
        "--model_name_or_path",
        tiny_llava,
        "--dataset_name",
        str(rows_file),
    ]
    command += ["--num_train_epochs", "3", "--save_strategy", "epoch", "--output_dir", str(tmp_path / "out"), *FLAGS]
    for more in ([], ["--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-3")]):
        done = warm_python.run([*command, *more], timeout=500)
        assert done.returncode == 0, done.stderr[-4000:]
        assert counts(file) == {"read": 12, "tokenized": 12}
    state = json.loads((tmp_path / "out" / "checkpoint-9" / "trainer_state.json").read_text())
    assert state["epoch"] == 3.0


def test_a_batch_of_prepared_rows_is_that_of_the_rows(processor, rows_file: Path):
    rows = load_conversations(rows_file)
    collator = LlavaCollator(processor, max_length=170)
    batch = collator(list(with_samples(rows, prepare_samples(rows, collator))))
    direct = collator(list(rows))
    assert batch.keys() == direct.keys()
    assert all(torch.equal(batch[name], tensor) for name, tensor in direct.items())


@pytest.mark.parametrize("chat_template", [None, "plain", "llama_2"])
def test_prepared_length_is_trained_length(
    tiny_llava: str, rows_file: Path, tmp_path: Path, chat_template: str | None
):
    args = config(tmp_path / "out", chat_template=chat_template, max_length=170, per_device_train_batch_size=1)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    batches = list(trainer.get_train_dataloader())
    assert sorted(batch["input_ids"].numel() for batch in batches) == sorted(trainer.train_screening.lengths)
    supervised = sorted(int((batch["labels"] != -100).sum()) for batch in batches)
    assert supervised == sorted(trainer.train_screening.supervised)


def test_another_template_or_length_is_another_preparation(processor, rows_file: Path, cache: Path):
    rows = load_conversations(rows_file)
    for number, collator in enumerate(
        [
            LlavaCollator(processor, max_length=512),
            LlavaCollator(processor, max_length=170),
            LlavaCollator(processor, max_length=512, chat_template="plain"),
        ],
        start=1,
    ):
        for _ in range(2):
            prepare_samples(rows, collator)
            assert len(chunks(cache)) == number


@pytest.mark.slow
def test_two_processes_at_once_share_one_preparation(
    warm_python: WarmPython, tiny_llava: str, tmp_path: Path, cache: Path
):
    rows, file = text_rows(tmp_path, 6000), tmp_path / "counts"
    command = [COUNTING, file, "--prepare", tiny_llava, rows, "2"]
    runs = [warm_python.start(command, tmp_path / "said") for _ in range(2)]
    for run in runs:
        assert run.wait() == 0, (tmp_path / "said").read_text()[-3000:]
    assert counts(file) == {"read": 6000, "tokenized": 6000}
    assert len(chunks(cache)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["all of them", "the one that leads"])
def test_a_killed_preparation_goes_on(
    warm_python: WarmPython, tiny_llava: str, processor, tmp_path: Path, cache: Path, killed: str
):
    rows, file = text_rows(tmp_path, 10000), tmp_path / "counts"
    command = [COUNTING, file, "--prepare", tiny_llava, rows, "2"]
    run = warm_python.start(command, tmp_path / "said")
    while len(chunks(cache)) < 3 and run.poll() is None:
        time.sleep(0.005)
    (os.killpg if killed == "all of them" else os.kill)(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    time.sleep(1)  # whoever was not killed ends by itself
    finished = len(chunks(cache))
    assert 3 <= finished < 10
    before = counts(file)["tokenized"]

    done = warm_python.run(command, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert counts(file)["tokenized"] - before == 10000 - 1000 * finished
    assert not list(cache.glob("llavakit-samples/*/.*.part"))

    collator = LlavaCollator(processor, max_length=512)
    dataset = load_conversations(rows)
    kept = prepare_samples(dataset, collator)
    assert counts(file)["tokenized"] - before == 10000 - 1000 * finished
    for path in chunks(cache):
        path.unlink()
    assert content(kept) == content(prepare_samples(dataset, collator, num_proc=1))


def test_a_picture_that_came_or_went_is_noticed(processor, rows_file: Path):
    rows, collator = load_conversations(rows_file), LlavaCollator(processor)
    picture, whole = rows_file.parent / "3.png", (rows_file.parent / "3.png").read_bytes()
    assert prepare_samples(rows, collator).usable == list(range(12))
    picture.unlink()
    found = prepare_samples(rows, collator)
    assert found.usable == [row for row in range(12) if row != 3] and "there is no image" in found.problems[3]
    Image.fromarray(np.zeros((9, 70, 3), dtype=np.uint8)).save(picture)
    assert prepare_samples(rows, collator).table[3]["image_sizes"] == [[70, 9]]
    picture.write_bytes(whole)
    assert prepare_samples(rows, collator).usable == list(range(12))


def test_a_picture_that_changed_in_mid_training_is_named(processor, rows_file: Path):
    rows, collator = load_conversations(rows_file), LlavaCollator(processor)
    ready = with_samples(rows, prepare_samples(rows, collator))
    Image.fromarray(np.zeros((9, 70, 3), dtype=np.uint8)).save(rows_file.parent / "3.png")
    with pytest.raises(ValueError, match="'r3'.*70 x 9 pixels now and was 33 x 40"):
        collator([ready[3]])


def test_rows_with_the_bytes_of_their_pictures(processor, rows_file: Path):
    """As sets on the Hub have them; those of the columns are not copied, and a shuffled set keeps its pairs."""
    raw = json.loads(rows_file.read_text())
    for row in raw:
        if row["image"]:
            row["image"] = {"bytes": (rows_file.parent / row["image"]).read_bytes(), "path": None}
    features = datasets.Features({**Dataset.from_list(raw).features, "image": datasets.Image()})
    rows = Dataset.from_list(raw, features=features).shuffle(seed=1)
    collator = LlavaCollator(processor)
    samples = prepare_samples(rows, collator)
    assert samples.table["own_images"] == [None] * 12
    batch = collator(list(with_samples(rows, samples)))
    direct = collator(list(load_conversations(rows_file).shuffle(seed=1)))
    assert all(torch.equal(batch[name], tensor) for name, tensor in direct.items())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(warm_python: WarmPython, tiny_llava: str, tmp_path: Path):
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); from counting import main; import datasets\n"
        "datasets.disable_progress_bars()\n"
        "for rows in sys.argv[4:]:\n"
        "    main(sys.argv[2], '--prepare', sys.argv[3], rows, '1')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    files = [str(text_rows(tmp_path, count)) for count in (2000, 20000)]
    done = warm_python.run(["-c", code, COUNTING.parent, tmp_path / "counts", tiny_llava, *files], timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    few, many = map(float, done.stdout.split())
    assert many - few < 40  # megabytes; 18,000 rows held as Python lists of ids take more than 100


@pytest.mark.parametrize("keeps", [0.0, 0.5, 0.98])
def test_a_damaged_file_is_prepared_anew(
    processor, rows_file: Path, cache: Path, keeps: float, caplog: pytest.LogCaptureFixture
):
    rows, collator = load_conversations(rows_file), LlavaCollator(processor, max_length=512)
    expected = content(prepare_samples(rows, collator))
    [file] = chunks(cache)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keeps * len(whole))])
    assert content(prepare_samples(rows, collator)) == expected
    assert f"{file} is damaged" in caplog.text or keeps > 0.9  # where it ends in a gap, all its rows may be there
    [file] = chunks(cache)
    assert file.read_bytes() == whole
