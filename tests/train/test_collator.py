"""The collator: labels on answers and stops alone, counts that agree, truncation at turns, rows left as they were."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit import LlavaCollator, load_conversations
from llavakit.rows.schema import BadRow


@pytest.fixture(scope="module")
def processor(tiny_llava: str):
    return AutoProcessor.from_pretrained(tiny_llava)


def supervised(processor, batch: dict, row: int) -> str:
    labels = batch["labels"][row]
    return processor.tokenizer.decode(labels[labels != -100])


def test_answers_and_stops_are_supervised_and_nothing_else(processor, rows_file: Path):
    rows = json.loads(rows_file.read_text())
    for row in rows:
        row["image"] = row["image"] and str(rows_file.parent / row["image"])
    batch = LlavaCollator(processor)(rows[:4])
    assert supervised(processor, batch, 0) == " a red cat</s> " + "there are two dogs " * 3 + "</s>"
    assert supervised(processor, batch, 1) == " a green cat</s>"
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["pixel_values"].shape == (4, 3, 28, 28)
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [4, 4, 4, 4]
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_loaded_rows_and_raw_rows_give_the_same_batch(processor, rows_file: Path):
    raw = json.loads(rows_file.read_text())
    for row in raw:
        row["image"] = row["image"] and str(rows_file.parent / row["image"])
    before = copy.deepcopy(raw)
    from_raw = LlavaCollator(processor)(raw)
    from_loaded = LlavaCollator(processor)(list(load_conversations(rows_file)))
    assert raw == before
    assert from_raw.keys() == from_loaded.keys()
    for name, tensor in from_raw.items():
        assert torch.equal(tensor, from_loaded[name]), name


def test_a_text_only_batch_has_no_pixels(processor, rows_file: Path):
    batch = LlavaCollator(processor)([load_conversations(rows_file)[5]])
    assert "pixel_values" not in batch and supervised(processor, batch, 0) == " a blue cat</s>"


def test_padding_to_a_multiple(processor, rows_file: Path):
    rows = list(load_conversations(rows_file))[:3]
    plain, padded = LlavaCollator(processor)(rows), LlavaCollator(processor, pad_to_multiple_of=64)(rows)
    length = plain["input_ids"].shape[1]
    assert padded["input_ids"].shape[1] % 64 == 0 and padded["input_ids"].shape[1] >= length
    assert torch.equal(padded["labels"][:, :length], plain["labels"])


def test_truncation_drops_whole_turns_and_never_an_image(processor, rows_file: Path):
    row = load_conversations(rows_file)[0]
    whole = LlavaCollator(processor)([row])
    shorter = LlavaCollator(processor, max_length=whole["input_ids"].shape[1] - 1)([row])
    assert supervised(processor, shorter, 0) == " a red cat</s>"
    length = shorter["input_ids"].shape[1]
    assert torch.equal(shorter["input_ids"], whole["input_ids"][:, :length])
    with pytest.raises(BadRow, match="id 'r0'.*max_length"):
        LlavaCollator(processor, max_length=length - 1)([row])


def test_bad_rows_are_named_or_left_out(processor, rows_file: Path, caplog: pytest.LogCaptureFixture):
    (rows_file.parent / "1.png").write_bytes((rows_file.parent / "1.png").read_bytes()[:100])
    rows = json.loads(rows_file.read_text())[:3]
    for row in rows:
        row["image"] = str(rows_file.parent / row["image"])
    with pytest.raises(BadRow, match="id 'r1'.*damaged or truncated"):
        LlavaCollator(processor)(rows)
    batch = LlavaCollator(processor, on_bad_row="skip")(rows)
    assert len(batch["input_ids"]) == 2 and len(batch["pixel_values"]) == 2
    assert "id 'r1'" in caplog.text
    with pytest.raises(BadRow, match="none of the 1 rows"):
        LlavaCollator(processor, on_bad_row="skip")(rows[1:2])


def test_a_row_without_a_supervised_token_is_an_error(processor, rows_file: Path):
    silent = copy.copy(processor)
    silent.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% generation %}{% endgeneration %}"
    row = {"id": "x", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(BadRow, match="id 'x' has no supervised token"):
        LlavaCollator(silent)([row])


@torch.inference_mode()
def test_batching_changes_nothing(tiny_llava: str, processor, rows_file: Path):
    """Invariant 4: the loss of a sample is the same alone and padded among others, images or not."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava).eval()
    rows = list(load_conversations(rows_file))
    collator = LlavaCollator(processor)

    def losses(batch: dict) -> torch.Tensor:
        labels = batch.pop("labels")
        logits = model(**batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        return loss.sum(1)

    together = losses(collator(rows))
    alone = torch.cat([losses(collator([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
