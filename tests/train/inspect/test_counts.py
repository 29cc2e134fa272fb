"""The inspection: counts and kinds of fault, lengths, and rows that lose turns."""

import json
from pathlib import Path

import numpy as np

from llavakit import LlavaCollator, LlavaProcessor, load_conversations
from llavakit.rows.schema import BAD_ROW_KINDS
from llavakit.train.inspect import (
    render_terminal,
)

from .inspected_rows import EXPECTED, Row, inspected, raw_rows, talk, text_row


def test_every_kind_of_bad_row_is_found_and_counted(processor: LlavaProcessor, one_of_each: Path):
    found = inspected(one_of_each, processor)
    assert {kind: [row.id for row in listing.rows] for kind, listing in found.unusable.items()} == EXPECTED
    assert {kind: listing.count for kind, listing in found.unusable.items()} == {
        k: len(v) for k, v in EXPECTED.items()
    }
    of_a_model = {"template", "nothing supervised", "too many tokens"}  # which this processor has none of
    of_videos = {kind for kind in BAD_ROW_KINDS if kind.startswith("video ")}  # see test_videos
    assert set(EXPECTED) | of_a_model | of_videos == set(BAD_ROW_KINDS)
    assert (found.num_rows, found.num_usable) == (25, 3)
    assert found.image_faults == {"image missing": 1, "image unreadable": 3, "image format": 1, "image too large": 1}
    raw = raw_rows(one_of_each)
    for listing in found.unusable.values():
        for row in listing.rows:
            assert row.id is None or raw[row.index]["id"] == row.id
            assert row.text and not row.text.startswith(("row", ":", ","))


def test_the_counts_are_those_of_the_rows(processor: LlavaProcessor, rows_file: Path):
    raw = raw_rows(rows_file)
    raw[3]["image"] = raw[1]["image"]
    rows_file.write_text(json.dumps(raw))
    found = inspected(rows_file, processor, None)
    batches = [LlavaCollator(processor)([row]) for row in load_conversations(rows_file)]
    assert (found.num_rows, found.num_readable, found.num_usable) == (12, 12, 12)
    assert (found.num_images, found.num_distinct_images, found.num_text_only) == (11, 10, 1)
    assert found.rows_by_images == {0: 1, 1: 11}
    assert found.num_turns == sum(len(row["conversations"]) // 2 for row in raw) == 15
    assert found.num_tokens == sum(batch["input_ids"].numel() for batch in batches)
    assert found.num_supervised == sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert found.unusable == {} and found.truncated.count == 0 and found.warnings == []


def test_a_template_that_refuses_or_marks_nothing(processor: LlavaProcessor, rows_file: Path):
    picky = LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=14,
        chat_template="{% for m in messages %}{% if 'say it again' in m.content | string %}{{ raise_exception('no') }}"
        "{% endif %}{% if m.role == 'assistant' and 'blue' not in m.content | string %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    )
    found = inspected(rows_file, picky)
    assert [row.index for row in found.unusable["template"].rows] == [0, 4, 8]
    assert [row.index for row in found.unusable["nothing supervised"].rows] == [2, 5, 11]


def test_the_lengths_equal_a_direct_count(processor: LlavaProcessor, tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [text_row(str(number), "what is it", "cat " * int(rng.integers(1, 400))) for number in range(101)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = inspected(tmp_path / "rows.json", processor, 300)
    direct = [LlavaCollator(processor)([row])["input_ids"].numel() for row in rows]
    lengths = found.lengths
    assert lengths is not None and lengths.rows == 101
    assert (lengths.min, lengths.max, lengths.mean) == (min(direct), max(direct), np.mean(direct))
    assert lengths.median == sorted(direct)[50] and lengths.p95 == sorted(direct)[95]
    edges = [lengths.first_bin + number * lengths.bin_width for number in range(len(lengths.bins) + 1)]
    assert np.histogram(direct, [*edges[:-1], edges[-1] - 1])[0].tolist() == lengths.bins  # the last edge is closed
    assert 5 <= len(lengths.bins) <= 24 and lengths.bins[0] > 0 and lengths.bins[-1] > 0
    too_long = sum(length > 300 for length in direct)
    assert found.unusable["too long"].count == too_long == 101 - found.num_usable
    assert found.num_tokens == sum(length for length in direct if length <= 300)


def test_rows_that_lose_turns_are_listed(processor: LlavaProcessor, rows_file: Path):
    whole = [LlavaCollator(processor)([row])["input_ids"].numel() for row in load_conversations(rows_file)]
    limit = min(whole[number] for number in (0, 4, 8)) - 1
    short = [LlavaCollator(processor, limit)([row])["input_ids"].numel() for row in load_conversations(rows_file)]
    found = inspected(rows_file, processor, limit, num_rows=12)
    assert [(row.index, row.id) for row in found.truncated.rows] == [(0, "r0"), (4, "r4"), (8, "r8")]
    assert found.truncated.rows[1].text == f"{whole[4]} tokens, cut to {short[4]}"
    assert found.num_usable == 12 and found.num_tokens == sum(short)
    shown = found.shown[4]
    cut = "".join(token.text for token in shown.tokens if token.state == "cut")
    assert (shown.length, shown.full_length) == (short[4], whole[4])
    assert sum(token.count for token in shown.tokens if token.state == "cut") == whole[4] - short[4]
    assert cut.startswith("USER: say it again") and "ASSISTANT: there are two dogs" in cut
    assert "{{USER: say it again" in render_terminal(found)


def test_literal_image_tags_are_warned_of(processor: LlavaProcessor, tmp_path: Path, photo: str):
    def row(row_id: str, content: object, answer: str = "a cat") -> Row:
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        return {"id": row_id, "images": [photo], "messages": messages}

    blocks = [{"type": "image"}, {"type": "text", "text": "what is it"}]
    rows = [
        row("letters", "<image>\nwhat is it"),
        row("fine", "what is it"),
        row("blocks", blocks),
        row("in the answer", "how is it written", "as <image>"),
        talk("placeholder", photo, "what is it", "a cat"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = inspected(path, processor, num_rows=9)
    assert [row.id for row in found.literal_images.rows] == ["letters"]
    assert found.num_usable == 5 and "1 row(s) write '<image>' inside a string" in found.warnings[0]
    assert "{'type': 'image'}" in render_terminal(found) and "letters" in render_terminal(found)
    # And it is text indeed: the tag's letters, after the image itself
    kinds = [token.kind for token in found.shown[0].tokens]
    assert kinds.count("image") == 1 and "".join(t.text for t in found.shown[0].tokens).count("<image>") == 1
