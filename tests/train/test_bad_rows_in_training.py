"""Bad rows that only training finds, and data sets of every form: what is left out, and that all else is as it would be."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from llavakit import LlavaCollator, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.rows.schema import BadRow

from ..cpu_training import CPU_FLAGS, CPU_SETTINGS
from ..warm_python import WarmPython


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def config(folder: Path, **changes) -> LlavaSFTConfig:
    settings = {"per_device_train_batch_size": 1, "max_steps": 12, "learning_rate": 1e-2, "logging_steps": 1}
    settings |= {"save_strategy": "no", "max_length": 512, "gradient_checkpointing": False, **CPU_SETTINGS}
    settings |= {"on_bad_row": "skip"}
    return LlavaSFTConfig(str(folder), **{**settings, **changes})


def damage(picture: Path) -> None:
    """Header and end stay whole, so that only the pixels show it."""
    content = bytearray(picture.read_bytes())
    at = content.find(b"IDAT") + 40
    content[at : at + 200] = bytes(200)
    picture.write_bytes(bytes(content))
    with pytest.raises(OSError), Image.open(picture) as image:
        image.load()


def trained(model: str, args: LlavaSFTConfig, rows, **kwargs) -> LlavaSFTTrainer:
    trainer = LlavaSFTTrainer(model, args, train_dataset=rows, **kwargs)
    trainer.train()
    assert trainer.state.global_step == args.max_steps
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == args.max_steps and all(0 < loss < 10 for loss in losses)
    return trainer


def same_weights(one: LlavaSFTTrainer, other: LlavaSFTTrainer) -> bool:
    others = other.model.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in one.model.state_dict().items())


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_batch_of_bad_rows_alone_is_filled(
    tiny_llava: str, rows_file: Path, tmp_path: Path, caplog, streaming: bool, accumulation: int
):
    for number in (0, 3, 4):
        damage(rows_file.parent / f"{number}.png")
    args = config(tmp_path / "out", gradient_accumulation_steps=accumulation, max_steps=12 // accumulation)
    rows = load_conversations(rows_file, streaming=streaming, on_bad_row="skip")
    trained(tiny_llava, args, rows)
    assert "'r3'" in caplog.text and "damaged or truncated" in caplog.text
    with pytest.raises(BadRow, match="damaged or truncated"):
        args = config(tmp_path / "out", on_bad_row="error", max_steps=12)
        LlavaSFTTrainer(tiny_llava, args, train_dataset=rows).train()


def test_which_row_fills_a_batch(tiny_llava: str, rows_file: Path, tmp_path: Path):
    damage(rows_file.parent / "3.png")
    damage(rows_file.parent / "4.png")
    trainer = LlavaSFTTrainer(tiny_llava, config(tmp_path / "out"), train_dataset=load_conversations(rows_file))
    collator = LlavaCollator(trainer.processing_class, on_bad_row="skip", spare_rows=trainer.train_dataset)
    rows = [trainer.train_dataset[number] for number in range(12)]
    filled, next_one = collator([rows[3]]), collator([rows[5]])
    assert all(torch.equal(filled[name], tensor) for name, tensor in next_one.items())
    left = collator([rows[2], rows[3]])  # where a row is left, none is put in
    assert all(torch.equal(left[name], tensor) for name, tensor in collator([rows[2]]).items())


def test_data_that_is_bad_as_a_whole_is_no_endless_search(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = json.loads(rows_file.read_text())
    rows_file.write_text(json.dumps([row for row in rows if row["image"]]))
    for row in rows:
        if row["image"]:
            damage(rows_file.parent / row["image"])
    with pytest.raises(BadRow, match="none of the 1 rows"):
        LlavaSFTTrainer(tiny_llava, config(tmp_path / "out"), train_dataset=load_conversations(rows_file)).train()


@pytest.mark.parametrize("fault", ["a picture that is missing", "an answer that is empty", "too long"])
def test_a_stream_with_a_bad_row_is_one_without_it(tiny_llava: str, rows_file: Path, tmp_path: Path, fault: str):
    rows = json.loads(rows_file.read_text())
    without = rows_file.with_name("without.json")
    without.write_text(json.dumps([row for row in rows if row["id"] != "r3"]))
    if fault == "a picture that is missing":
        (rows_file.parent / "3.png").unlink()
    elif fault == "too long":
        rows[3]["conversations"][1]["value"] = "a red cat " * 500
    else:
        rows[3]["conversations"][1]["value"] = " "
    rows_file.write_text(json.dumps(rows))
    one, other = (
        trained(
            tiny_llava,
            config(tmp_path / "out", max_steps=6, per_device_train_batch_size=2),
            load_conversations(file, streaming=True, on_bad_row="skip"),
        )
        for file in (rows_file, without)
    )
    assert same_weights(one, other)


def test_a_stream_of_bad_rows_alone_is_said_to_be_one(tiny_llava: str, rows_file: Path, tmp_path: Path):
    for number in range(12):
        (rows_file.parent / f"{number}.png").unlink()
    rows = [row for row in json.loads(rows_file.read_text()) if row["image"]]
    rows_file.write_text(json.dumps(rows))
    with pytest.raises(BadRow, match="none of the training rows of the stream"):
        LlavaSFTTrainer(
            tiny_llava,
            config(tmp_path / "out"),
            train_dataset=load_conversations(rows_file, streaming=True, on_bad_row="skip"),
        )


@pytest.mark.slow
def test_two_processes_with_bad_rows_in_one(warm_python: WarmPython, tiny_llava: str, rows_file: Path, tmp_path: Path):
    """Neither waits for the other for ever, and each step has a loss."""
    for number in (1, 6, 7):
        damage(rows_file.parent / f"{number}.png")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--module", "llavakit.train.sft"]
    command += ["--ddp_backend", "gloo", "--model_name_or_path", tiny_llava, "--dataset_name", str(rows_file)]
    command += ["--num_train_epochs", "3", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"]
    command += ["--on_bad_row", "skip", *CPU_FLAGS, "--logging_steps", "1"]
    command += ["--max_length", "512", "--save_strategy", "epoch", "--output_dir", str(tmp_path / "out")]
    done = warm_python.run(command, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    state = json.loads((tmp_path / "out" / "checkpoint-9" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 9 and all(0 < loss < 10 for loss in losses)


# ---- data sets of every form ----


def text_only(rows_file: Path) -> Path:
    rows = json.loads(rows_file.read_text())
    for row in rows:
        row["image"] = None
        row["conversations"][0]["value"] = "say it again"
    path = rows_file.with_name("text.json")
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_rows_of_text_alone_train(tiny_llava: str, rows_file: Path, tmp_path: Path, streaming: bool, raw: bool):
    """trl decides by the first row whether there are pictures, and `raw` has no column for them."""
    if raw:
        rows = [
            {name: row[name] for name in ("id", "conversations")}
            for row in json.loads(text_only(rows_file).read_text())
        ]
        dataset = datasets.Dataset.from_list(rows)
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        dataset = load_conversations(text_only(rows_file), streaming=streaming)
    trained(tiny_llava, config(tmp_path / "out", max_steps=4, on_bad_row="error"), dataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_first_row_without_a_picture_hides_none(tiny_llava: str, rows_file: Path, tmp_path: Path, streaming: bool):
    rows = json.loads(rows_file.read_text())
    rows_file.write_text(json.dumps([rows[5], *rows[:5], *rows[6:]]))
    args = config(tmp_path / "out", max_steps=4, on_bad_row="error")
    trainer = trained(tiny_llava, args, load_conversations(rows_file, streaming=streaming))
    assert sum("pixel_values" in batch for batch in trainer.get_train_dataloader()) == 11


@pytest.mark.slow
def test_a_list_of_rows_trains_as_the_file_does(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = json.loads(rows_file.read_text())
    for number, row in enumerate(rows):
        if row["image"] and number % 3 == 0:  # a path, and a picture that is open
            row["image"] = str(rows_file.parent / row["image"])
        elif row["image"]:
            row["image"] = Image.open(rows_file.parent / row["image"])
    rows[1] = {  # and the ecosystem's format among the original's
        "id": "r1",
        "images": [rows[1]["image"]],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is in the picture"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a green cat"}]},
        ],
    }
    args = config(tmp_path / "out", max_steps=4, on_bad_row="error")
    one, other = trained(tiny_llava, args, rows), trained(tiny_llava, args, load_conversations(rows_file))
    assert same_weights(one, other)
    with pytest.raises(BadRow, match="row 12.*neither"):
        LlavaSFTTrainer(tiny_llava, args, train_dataset=[*rows, {"id": "x"}])
    skipping = LlavaSFTTrainer(tiny_llava, config(tmp_path / "out"), train_dataset=[*rows, {"id": "x"}])
    assert len(skipping.train_dataset) == 12


def test_rows_that_a_transform_makes(tiny_llava: str, rows_file: Path, tmp_path: Path):
    numbers = datasets.Dataset.from_dict({"number": list(range(6))})
    rows = numbers.with_transform(lambda batch: {"messages": [chat(number) for number in batch["number"]]})
    trainer = trained(tiny_llava, config(tmp_path / "out", max_steps=2, on_bad_row="error"), rows)
    assert trainer.train_dataset[5]["messages"][1]["content"][0]["text"] == "there are two 5"


def chat(number: int) -> list[dict]:
    return [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": f"there are two {number}"}]


def test_evaluation_rows_of_every_form(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = load_conversations(rows_file)
    listed = [
        {**row, "image": row["image"] and str(rows_file.parent / row["image"])}
        for row in json.loads(rows_file.read_text())
    ]
    parts = {"set": rows, "list": listed, "stream": load_conversations(rows_file, streaming=True)}
    args = config(tmp_path / "out", max_steps=1, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4)
    trainer = trained(tiny_llava, args, rows, eval_dataset=parts)
    said = trainer.state.log_history
    losses = [entry[f"eval_{name}_loss"] for name in parts for entry in said if f"eval_{name}_loss" in entry]
    assert len(losses) == 3 and losses[0] == losses[1] == losses[2]
    assert trainer.evaluate(listed)["eval_loss"] == losses[0]
    damage(rows_file.parent / "3.png")
    alone = trainer.evaluate(rows.select([3, 4]))  # the damaged row is left out, and nothing is divided by nought
    assert 0 < alone["eval_loss"] < 10
    with pytest.raises(ValueError, match="training rows are a DatasetDict.*'test', 'train'"):
        LlavaSFTTrainer(tiny_llava, args, train_dataset=datasets.DatasetDict(train=rows, test=rows))
