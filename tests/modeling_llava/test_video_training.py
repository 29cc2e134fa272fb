"""A video is trained on in both stages, prepared once, and taken by a saved checkpoint where llavakit is not."""

import json

import datasets
import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaCollator, LlavaProcessor, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.rows.schema import BadRow
from llavakit.train.row_preparation import prepare_row
from llavakit.train.samples import prepare_samples, with_samples
from llavakit.train.stages import part_of

from ..cpu_training import CPU_SETTINGS
from ..warm_python import WITHOUT_LLAVAKIT
from .test_video import SIDE, encode, messages


@pytest.fixture
def built(vision_checkpoint, language_checkpoint, tmp_path):
    vision = vision_checkpoint("clip_vision_model", image_size=SIDE)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        vision
    )
    llava = build_llava(vision, language_checkpoint("llama"), chat_template="plain", video_frames=4)
    save_llava(*llava, tmp_path / "llava")
    return tmp_path / "llava"


@pytest.fixture
def rows(tmp_path, clips, picture):
    (tmp_path / "a.mp4").write_bytes(clips[0]["video"])
    (tmp_path / "early.mp4").write_bytes(clips[0]["video"][:-400])
    picture.save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\na cat"}, {"from": "gpt", "value": "on the mat"}]
    rows = [
        {"id": "video", "video": "a.mp4", "conversations": turns},
        {"id": "image", "image": "a.png", "conversations": turns},
        {"id": "frames", "video": ["a.png", "a.png"], "conversations": turns},
        {"id": "text", "conversations": [{**turns[0], "value": "a dog"}, turns[1]]},
        {"id": "early", "video": "early.mp4", "conversations": turns},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path / "rows.json"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_both_stages_take_steps_and_a_video_that_ends_early_is_left_out(
    built, rows, tmp_path, caplog, stage, streaming
):
    args = LlavaSFTConfig(
        output_dir=str(tmp_path / "out"),
        stage=stage,
        per_device_train_batch_size=2,
        max_steps=3,
        learning_rate=1e-2,
        save_strategy="no",
        gradient_checkpointing=False,
        on_bad_row="skip",
        **CPU_SETTINGS,
    )
    loaded = load_conversations(rows, streaming=streaming)
    trainer = LlavaSFTTrainer(str(built), args, train_dataset=loaded)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    assert any("early.mp4' ends early" in record.getMessage() for record in caplog.records)
    learns = {"align": {"connector"}, "instruct": {"connector", "language model"}}[stage]
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(before[name], tensor) == (part_of(name) not in learns), name


def test_rows_are_prepared_from_headers_and_collated_as_they_were(built, rows):
    processor = LlavaProcessor.from_pretrained(built)
    collator = LlavaCollator(processor)
    loaded = load_conversations(rows)
    found = [prepare_row(row, index, collator, canonical=True) for index, row in enumerate(loaded)]
    assert [row.image_sizes for row in found] == [[(64, 48, 4)], [(40, 30)], [(40, 30, 2)], [], [(0, 0)]]
    assert found[4].kind == "video unreadable" and "ends early" in found[4].problem
    batch = collator([loaded[index] for index in range(4)])
    tokens = (batch["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert tokens == [4 * 4, 16, 2 * 4, 0]
    assert batch["feature_places"][:, 0].tolist() == [16, 0, 0, 0, 16, 8, 0]


def test_a_video_that_changed_is_prepared_anew(built, rows, clips, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", rows.parent / "cache")
    collator = LlavaCollator(LlavaProcessor.from_pretrained(built))
    loaded = load_conversations(rows)
    assert prepare_samples(loaded, collator).usable == [0, 1, 2, 3]
    (rows.parent / "early.mp4").write_bytes(clips[0]["video"])
    found = prepare_samples(loaded, collator)
    assert found.usable == list(range(5)) and found.lengths[4] == found.lengths[0]
    (rows.parent / "a.mp4").write_bytes(clips[1]["video"])  # three frames now
    prepared = with_samples(loaded, found)
    with pytest.raises(BadRow, match="64 x 48 pixels, 3 frames, now and was 64 x 48 pixels, 4 frames, when the rows"):
        collator([prepared[0]])
    assert prepare_samples(loaded, collator).lengths[0] == found.lengths[0] - 4


# ---- disk ----

LOAD = """
import sys, torch
sys.modules.update({"av": None} if sys.argv[2] == "without" else {})
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = sys.argv[1]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
messages = [{"role": "user", "content": [{"type": "video", "path": folder + "/a.mp4"}, {"type": "text", "text": "a cat"}]}]
inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
with torch.no_grad():
    torch.save((dict(inputs), model(**inputs).logits), folder + "/found.pt")
"""


@pytest.mark.slow
def test_a_saved_checkpoint_takes_the_same_video_where_llavakit_is_not(built, clips, warm_python):
    (built / "a.mp4").write_bytes(clips[0]["video"])

    def run(av):
        return warm_python.run(["-c", WITHOUT_LLAVAKIT + LOAD, built, av])

    done = run("with")
    assert done.returncode == 0, done.stderr[-3000:]
    inputs, logits = torch.load(built / "found.pt")
    processor = LlavaProcessor.from_pretrained(built)
    assert (processor.video_frames, processor.video_pooling) == (4, 2)
    expected = encode(processor, messages(clips[0]))
    assert set(inputs) == set(expected) and all(torch.equal(inputs[name], expected[name]) for name in inputs)
    model = AutoModelForImageTextToText.from_pretrained(built).eval()
    with torch.no_grad():
        assert torch.equal(model(**expected).logits, logits)
    done = run("without")
    assert done.returncode and "Run: pip install av" in done.stderr.splitlines()[-1]
