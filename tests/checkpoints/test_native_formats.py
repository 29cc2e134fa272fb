"""Written as a class of transformers, and read from one, a LLaVA says the same to the bit; what cannot be said is refused."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from llavakit.checkpoints.converting import import_checkpoint
from llavakit.checkpoints.formats import READERS, WRITERS
from llavakit.checkpoints.formats.format_base import CannotExpress, Given
from llavakit.checkpoints.loading import load_model, load_processor
from llavakit.checkpoints.proof.prompts import proof_conversations
from llavakit.checkpoints.proof.proving import Compared, compare, read_record
from llavakit.checkpoints.proof.witness import record
from llavakit.cli import main

pytestmark = pytest.mark.usefixtures("forked_processes")  # those of proofs

NEXT = {"projector_type": "mlp2x_gelu", "image_aspect_ratio": "anyres"}
# What is written as what: arguments of `llava_checkpoint`
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaVA": ("llava", {}),
    "LLaVA without bias": ("llava", {"multimodal_projector_bias": False}),
    "LLaVA-1.5": ("llava", {"projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"}),
    "LLaVA of two layers": ("llava", {"projector_type": "mlp2x_gelu", "vision_feature_layer": [-2, -1]}),
    "LLaVA, squeezed": ("llava", {"image_aspect_ratio": "squeeze"}),
    "SigLIP and Qwen": (
        "llava",
        {
            "encoder": "SigLIP",
            "image_aspect_ratio": "squeeze",
            "language": "qwen2",
            "text": {"num_key_value_heads": 2, "tie_word_embeddings": True},
        },
    ),
    "DINOv2 with all features": ("llava", {"encoder": "DINOv2", "vision_feature_select_strategy": "full"}),
    "mixture of experts": (
        "llava",
        {"language": "mixtral", "text": {"num_key_value_heads": 2, "num_local_experts": 4}},
    ),
    "LLaVA-NeXT": ("llava_next", NEXT),
    "LLaVA-NeXT, linear": ("llava_next", {**NEXT, "projector_type": "linear"}),
    "LLaVA-NeXT on SigLIP": ("llava_next", {**NEXT, "encoder": "SigLIP"}),
    "LLaVA-NeXT with canvases of its own": (
        "llava_next",
        {**NEXT, "image_layout_options": {"candidates": [[28, 84], [56, 56], [112, 28]]}},
    ),
}


def said(checkpoint: Path, tmp_path: Path) -> tuple[list[Any], Any]:
    """What a checkpoint makes of the conversations of the proof, told in this process."""
    pictures, out = tmp_path / "pictures", tmp_path / f"said-{checkpoint.name}"
    for folder in (pictures, out):
        folder.mkdir(exist_ok=True)
    conversations = proof_conversations((28, 28), pictures)
    record(str(checkpoint), conversations, out)
    return conversations, read_record(out)


def compared(a: Path, b: Path, tmp_path: Path) -> list[Compared]:
    conversations, first = said(a, tmp_path)
    _, second = said(b, tmp_path)
    return [compare(*each) for each in zip(conversations, first, second, strict=True)]


def write(format: str, checkpoint: Path, folder: Path) -> Path:
    model, processor = load_model(checkpoint, dtype="auto"), load_processor(checkpoint)
    WRITERS[format].check(model, processor)
    folder.mkdir()
    WRITERS[format].write(model, processor, folder, "2GB")
    return folder


def read(format: str, checkpoint: Path, folder: Path, **given: str) -> Path:
    assert READERS[format].recognises(json.loads((checkpoint / "config.json").read_text()))
    model, processor = READERS[format].read(checkpoint, Given(**given))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def assert_same_bits(proof: list[Compared]) -> None:
    assert len(proof) == 6
    for one in proof:
        assert one.parted is None, one
        assert set(one.differences.values()) == {0.0}, one
    assert sum("pixels" in one.differences for one in proof) == 5


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def save_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def named(weights: dict[str, torch.Tensor], ending: str) -> str:
    """The one name with this ending: classes of transformers write what stands before it as their first versions did."""
    [name] = [name for name in weights if name.endswith(ending)]
    return name


def check_both_directions(format: str, ours: Path, tmp_path: Path) -> None:
    """Written in a format and read from it again, a checkpoint says the same to the bit, whatever it is shown."""
    theirs = write(format, ours, tmp_path / "theirs")
    assert_same_bits(compared(ours, theirs, tmp_path))
    back = read(format, theirs, tmp_path / "back")
    assert_same_bits(compared(theirs, back, tmp_path))
    _, answers = said(ours, tmp_path)
    assert len({answer["answer"] for answer in answers}) > 1, "whatever is shown, the answer is the same"


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_it_says_the_same_in_both_directions(name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    format, options = WRITTEN[name]
    check_both_directions(format, llava_checkpoint(**options), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["llama2", "llama2_legacy"])
def test_the_llama_tokenizer_starts_texts_as_the_original_does(
    tokenizer: str, shared_data: Path, llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The word-start mark after an image and at the start, which their processor, left to itself, loses."""
    loaded = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / tokenizer)
    ours = llava_checkpoint(tokenizer=loaded, projector_type="mlp2x_gelu")
    theirs = write("llava", ours, tmp_path / "theirs")
    assert_same_bits(compared(ours, theirs, tmp_path))
    back = read("llava", theirs, tmp_path / "back")
    assert_same_bits(compared(theirs, back, tmp_path))


def test_a_checkpoint_of_theirs_is_read(llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """With a template that has no marks of what is supervised."""
    theirs = write("llava", llava_checkpoint(projector_type="mlp2x_gelu"), tmp_path / "theirs")
    template = (
        "{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content if c.type == 'image' %}<image>\n{% endfor %}"
        "{% for c in m.content if c.type == 'text' %}{{ c.text }} {% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    (theirs / "chat_template.jinja").write_text(template)
    assert_same_bits(compared(theirs, read("llava", theirs, tmp_path / "ours"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("prompt", {"chat_template.jinja": lambda text: text.replace("USER", "HUMAN")}),
        ("pixels", {"processor_config.json": lambda text: text.replace("0.48145466", "0.5")}),
        ("features", "linear_1.weight"),
        ("logits", "lm_head.weight"),
    ],
)
def test_where_two_checkpoints_part_first_is_said(
    step: str, change: Any, llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    ours = llava_checkpoint(projector_type="mlp2x_gelu")
    theirs = write("llava", ours, tmp_path / "theirs")
    if isinstance(change, str):
        weights = weights_of(theirs)
        weights[named(weights, change)] *= 1.01
        save_weights(theirs, weights)
    else:
        for name, edit in change.items():
            text = (theirs / name).read_text()
            assert edit(text) != text
            (theirs / name).write_text(edit(text))
    assert compared(ours, theirs, tmp_path)[0].parted == step


CANNOT = {
    "tiles as one view": ("llava", NEXT, "image_aspect_ratio='anyres'.*'crop' and 'pad' and 'squeeze'"),
    "one view as tiles": ("llava_next", {}, "image_aspect_ratio='crop'.*'anyres'"),
    "three layers": ("llava", {"projector_type": "mlp3x_gelu"}, "projector_type='mlp3x_gelu' is no connector of"),
    "fewer tokens": ("llava", {"projector_options": {"pooled_tokens": 4}}, "pooled_tokens=4 averages the patches"),
    "a crop that its processor does not make": ("llava", {"encoder": "SigLIP"}, "'crop' takes the centre"),
    "registers": ("llava", {"encoder": "DINOv2 with registers"}, "leaves out 4 features before the patches"),
    "interpolated": (
        "llava_next",
        {**NEXT, "image_layout_options": {"max_views": 2}},
        "interpolate features down to max_views",
    ),
    "gated attention": (
        "llava",
        {
            "projector_type": "perceiver",
            "image_fusion": "attend",
            "projector_options": {"num_heads": 4, "num_latents": 4},
        },
        "image_fusion='attend' puts image features into the layers",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_a_format_cannot_say_is_refused(
    name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    format, options, reason = CANNOT[name]
    ours = llava_checkpoint(**options)
    with pytest.raises(CannotExpress, match=reason):
        write(format, ours, tmp_path / "theirs")
    assert main(["export", str(ours), "--format", format, "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".saving*"))


@pytest.mark.slow
def test_the_commands_prove_what_they_write(
    llava_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = llava_checkpoint(**NEXT)
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(ours), "--format", "llava_next", "-o", "theirs", "--max_shard_size", "20KB"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("same bits") == 22 and "(84 x 1 px)" in printed
    card = Path("theirs/README.md").read_text()
    assert "## Written as llava_next" in card and "| What is in this picture? (28 x 28 px) |" in card
    assert len(list(Path("theirs").glob("model-*.safetensors"))) > 3
    assert type(AutoModelForImageTextToText.from_pretrained("theirs")).__name__ == "LlavaNextForConditionalGeneration"
    assert main(["import", "theirs", "-o", "back"]) == 0
    assert "Read from a checkpoint of the format llava_next: theirs." in Path("back/README.md").read_text()
    assert not list(Path().glob(".saving*"))
    assert main(["import", "theirs", "-o", "back"]) == 1
    assert "there is something already" in capsys.readouterr().err


@pytest.mark.slow
def test_an_import_ends_its_answers_where_the_source_does(
    llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Also where that is not where its template ends them."""
    theirs = write("llava", llava_checkpoint(projector_type="mlp2x_gelu"), tmp_path / "theirs")
    generation = json.loads((theirs / "generation_config.json").read_text())
    (theirs / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 7}))
    import_checkpoint(theirs, tmp_path / "ours")
    assert load_model(tmp_path / "ours").generation_config.eos_token_id == 7


def lack_one(folder: Path) -> None:
    weights = weights_of(folder)
    del weights[named(weights, "lm_head.weight")]
    save_weights(folder, weights)


def have_one_more(folder: Path) -> None:
    save_weights(folder, weights_of(folder) | {"model.reader.weight": torch.zeros(2)})


def reshape_one(folder: Path) -> None:
    weights = weights_of(folder)
    weights[named(weights, "linear_1.weight")] = torch.zeros(32, 33)
    save_weights(folder, weights)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def absurd_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(2), "payload": Payload()}, folder / "pytorch_model.bin")


def link_out(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.safetensors"
    shutil.move(folder / "model.safetensors", elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)


def unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "blip-2"}))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tensor is missing": (lack_one, "weights lack .*lm_head.weight"),
    "a tensor is not understood": (
        have_one_more,
        "weights have 'model.reader.weight', which its config does not ask for",
    ),
    "a tensor has another shape": (reshape_one, r"linear_1.weight' has the shape \(32, 33\)"),
    "cut short": (truncate, "it was cut short"),
    "a header of absurd length": (absurd_header, "says that its header has 1,152,921,504,606,846,976 bytes"),
    "a pickle that runs something": (pickled, "loading it would call .*print"),
    "a link out of the folder": (link_out, "is a link to .*outside of the checkpoint"),
    "no format that is read": (unknown_type, "model_type 'blip-2' is of no format that is read"),
}


@pytest.fixture(scope="module")
def theirs(llava_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("llava", llava_checkpoint(projector_type="mlp2x_gelu"), tmp_path_factory.mktemp("theirs") / "model")


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(
    name: str, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, reason = BAD[name]
    bad = tmp_path / "bad"
    shutil.copytree(theirs, bad)
    spoil(bad)
    with pytest.raises(ValueError, match=reason):
        import_checkpoint(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".saving*"))
    assert "executed" not in capsys.readouterr().out


def test_a_full_disk_leaves_nothing(theirs: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a file system of its own cannot be mounted here (no root)")
    try:
        with pytest.raises(OSError, match="could not save to .*another folder for -o"):
            import_checkpoint(theirs, disk / "out")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)
