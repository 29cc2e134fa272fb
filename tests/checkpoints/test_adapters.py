"""An adapter on disk: what it is, its merge into the model below it, and programs that read it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from llavakit.checkpoints.adapter_files import complete_adapter
from llavakit.checkpoints.adapters import MOST_ROUNDED_OFF, AdapterFacts, adapter_facts, load_adapter, merge_adapter
from llavakit.checkpoints.building import save_llava
from llavakit.checkpoints.loading import DamagedFile, load_config, load_model, load_processor
from llavakit.checkpoints.model_card import adapter_card
from llavakit.cli import main

from ..warm_python import WITHOUT_LLAVAKIT, WarmPython

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(3, 30)[None]


def write_adapter(base: str, folder: Path, std: float = 0.1, **settings: Any) -> PeftModel:
    """An adapter that does a lot, as if it had been trained; with the processor, as the trainer leaves it."""
    config = {"r": 4, "target_modules": LINEAR, "exclude_modules": ".*vision_tower.*"}
    config |= {"modules_to_save": ["multi_modal_projector"], **settings}
    model: Any = get_peft_model(load_model(base), LoraConfig(**config))  # type: ignore[arg-type]
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += std * torch.randn_like(parameter)
    llava = model.get_base_model()
    record = {"stage": "instruct", "dataset": "photographs"}
    llava.config.provenance = {**llava.config.provenance, "training_history": [record]}
    model.save_pretrained(folder)
    complete_adapter(folder, llava)
    load_processor(base).save_pretrained(folder)
    return model.eval()


def scores(model: Any) -> torch.Tensor:
    llava = model.get_base_model() if isinstance(model, PeftModel) else model
    torch.manual_seed(0)
    pixels = torch.randn(1, *llava.config.image_shape)
    places = torch.full((1, llava.config.image_seq_length), llava.config.image_token_id)
    with torch.no_grad():
        return model.eval()(input_ids=torch.cat([places, IDS], 1), pixel_values=pixels.to(llava.dtype)).logits


@pytest.fixture
def adapter(tiny_llava: str, tmp_path: Path) -> Path:
    write_adapter(tiny_llava, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_what_it_is_is_told_without_its_weights(adapter: Path, tiny_llava: str):
    (adapter / "adapter_model.safetensors").unlink()
    told = adapter_facts(adapter)
    method = "LoRA, r 4, alpha 8, dropout 0"
    assert told == AdapterFacts(tiny_llava, method, ("multi_modal_projector",), "instruct", "photographs")
    assert adapter_facts(tiny_llava) is None
    assert load_config(adapter).to_dict() == load_config(tiny_llava).to_dict()


def test_one_of_stock_peft_is_told_too(tiny_llava: str, tmp_path: Path):
    get_peft_model(load_model(tiny_llava), LoraConfig(target_modules=["o_proj"])).save_pretrained(str(tmp_path))
    told = adapter_facts(tmp_path)
    assert told is not None and (told.stage, told.dataset, told.whole) == (None, None, ())


# ---- merged ----


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["multi_modal_projector", "lm_head", "embed_tokens"]},
        {"target_modules": [*LINEAR, "embed_tokens"]},
    ],
    ids=["lora", "rslora", "dora", "embeddings-whole", "embeddings"],
)
def test_merged_scores_are_those_of_the_adapter(tiny_llava: str, tmp_path: Path, settings: dict):
    """Up to the order of sums, and so is what comes back of the merged model from disk, to the last bit."""
    model = write_adapter(tiny_llava, tmp_path / "adapter", **settings)
    expected = scores(model)
    merged = merge_adapter(tmp_path / "adapter")
    atol = 1e-4 * expected.abs().max().item()
    torch.testing.assert_close(scores(merged.model), expected, rtol=0, atol=atol)
    assert (scores(load_model(tiny_llava)) - expected).abs().max() > 100 * atol
    save_llava(merged.model, load_processor(tmp_path / "adapter"), tmp_path / "merged")
    assert torch.equal(scores(load_model(tmp_path / "merged")), scores(merged.model))
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "Stage 2, instruction tuning" in card and "dataset: photographs" in card


def test_weights_are_rounded_once_and_it_is_said_how_much_that_takes(tiny_llava: str, tmp_path: Path):
    base = load_model(tiny_llava, dtype=torch.bfloat16)
    save_llava(base, load_processor(tiny_llava), tmp_path / "base")
    expected = scores(write_adapter(str(tmp_path / "base"), tmp_path / "adapter").float())
    rounded, kept = merge_adapter(tmp_path / "adapter"), merge_adapter(tmp_path / "adapter", dtype="float32")
    assert rounded.model.dtype == torch.bfloat16 and kept.model.dtype == torch.float32
    assert kept.rounded_off == 0 < rounded.rounded_off < 0.02
    exact = {name: tensor.to(torch.bfloat16) for name, tensor in kept.model.state_dict().items()}
    assert all(torch.equal(tensor, exact[name]) for name, tensor in rounded.model.state_dict().items())
    torch.testing.assert_close(scores(kept.model), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_what_was_learnt_is_not_rounded_off_unasked(tiny_llava: str, tmp_path: Path):
    """A few small steps change no weight by as much as the last digit that bfloat16 has for it."""
    save_llava(load_model(tiny_llava, dtype=torch.bfloat16), load_processor(tiny_llava), tmp_path / "base")
    write_adapter(str(tmp_path / "base"), tmp_path / "adapter", std=1e-4)
    for dtype in (None, "auto"):
        with pytest.raises(
            ValueError, match=r"\d+% of what the adapter learnt would be rounded off\. --dtype float32 keeps"
        ):
            merge_adapter(tmp_path / "adapter", dtype=dtype)
    assert merge_adapter(tmp_path / "adapter", dtype="float32").rounded_off == 0
    assert merge_adapter(tmp_path / "adapter", dtype="bfloat16").rounded_off > MOST_ROUNDED_OFF


def test_weights_that_are_no_numbers_are_not_merged(adapter: Path):
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    next(tensor for name, tensor in weights.items() if "lora_B" in name)[0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        merge_adapter(adapter)


def test_what_is_no_adapter_is_refused(tiny_llava: str, adapter: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="is a whole model: there is no adapter to merge"):
        merge_adapter(tiny_llava)
    both = shutil.copytree(tiny_llava, tmp_path / "both")
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    with pytest.raises(
        ValueError, match="If an adapter lies in the same folder, put its files .* into a folder of their"
    ):
        load_adapter(both)


def test_a_damaged_adapter_is_named(adapter: Path):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    for load in (load_model, load_adapter, merge_adapter):
        with pytest.raises(DamagedFile, match=r"adapter_model\.safetensors: it has [\d,]+ of [\d,]+ bytes"):
            load(adapter)


def test_the_command_writes_a_whole_model(adapter: Path, tiny_llava: str, tmp_path: Path, capsys):
    expected = scores(load_adapter(adapter))
    assert main(["export", str(adapter), "--merge", "-o", str(tmp_path / "merged")]) == 0
    assert f"and {tiny_llava} -> " in capsys.readouterr().out
    torch.testing.assert_close(scores(load_model(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)
    assert load_processor(tmp_path / "merged").chat_template == load_processor(tiny_llava).chat_template
    assert main(["export", str(tiny_llava), "--merge", "-o", str(tmp_path / "again")]) == 1
    assert "is a whole model: there is no adapter to merge" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_another_format_is_written_of_the_merged_model_alone(adapter: Path, tiny_llava: str, tmp_path: Path, capsys):
    assert main(["export", str(adapter), "--format", "llava", "-o", str(tmp_path / "theirs")]) == 1
    said = capsys.readouterr().err
    assert f"is an adapter of {tiny_llava}" in said and f"llavakit export {adapter} --merge -o MERGED" in said
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("lost", ["multi_modal_projector.linear.weight", "layers.0.self_attn.q_proj.lora_A.weight"])
def test_an_adapter_that_lost_what_was_trained_is_refused(adapter: Path, lost: str):
    """As if the connector had not been saved; PEFT stops without a word, or goes on with new weights."""
    file = adapter / "adapter_model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if not name.endswith(lost)}
    save_file(weights, file, metadata={"format": "pt"})
    for load in (load_model, load_adapter, merge_adapter):
        with pytest.raises(ValueError, match=f"by its adapter_config.json it holds .*{lost}"):
            load(adapter)


# ---- read by programs ----


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_chat_and_inspect_take_it(adapter: Path, photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    question = ["--image", str(photograph), "--question", "what is it", "--max_new_tokens", "3"]
    assert main(["chat", str(adapter), *question]) == 0
    answer = capsys.readouterr().out
    save_llava(merge_adapter(adapter).model, load_processor(adapter), tmp_path / "merged")
    assert main(["chat", str(tmp_path / "merged"), *question]) == 0
    assert capsys.readouterr().out == answer and answer.strip()
    turns = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "a cat"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": "1", "image": "photo.png", "conversations": turns}]))
    assert main(["inspect", str(tmp_path / "rows.json"), "--model", str(adapter)]) == 0


@pytest.mark.slow
def test_strangers_load_it_by_peft(adapter: Path, photograph: Path, tmp_path: Path, warm_python: WarmPython):
    """By the code of its card, in a process in which llavakit cannot be imported."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    card = adapter_card(load_config(adapter), config)
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace('path = "..."', f"path = {str(adapter)!r}").replace("photo.jpg", str(photograph))
    code += (
        "import torch\nmodel.eval()\ntorch.save({**inputs, 'logits': model(**inputs).logits.detach()}, 'scores.pt')\n"
    )
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = torch.load(tmp_path / "scores.pt")
    logits = seen.pop("logits")
    with torch.no_grad():
        assert torch.equal(load_adapter(adapter)(**seen).logits, logits)
        assert not torch.equal(load_model(config["base_model_name_or_path"])(**seen).logits, logits)
