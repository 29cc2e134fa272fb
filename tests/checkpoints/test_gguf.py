"""Written as GGUF, a LLaVA says to real llama.cpp what it says to transformers; what cannot be said is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llavakit.checkpoints.converting import export_checkpoint
from llavakit.checkpoints.formats import gguf_format
from llavakit.checkpoints.formats.format_base import CannotExpress
from llavakit.checkpoints.formats.gguf_file import read_gguf
from llavakit.checkpoints.formats.gguf_format import TOLERANCES
from llavakit.checkpoints.formats.gguf_vocabulary import PRE_TOKENIZERS
from llavakit.checkpoints.loading import load_processor
from llavakit.checkpoints.proof.llama_cpp import llama_cpp
from llavakit.checkpoints.proof.proving import Mismatch
from llavakit.checkpoints.proof.served import Served, prove_served
from llavakit.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_processes")]  # those of proofs

MLP = {"projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"}
SIGLIP = {"encoder": "SigLIP", "image_aspect_ratio": "squeeze"}
FEWER_KEYS = {"num_key_value_heads": 2}
# What is written: the type, and arguments of `llava_checkpoint`
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaVA": ("f32", {}),
    "LLaVA-1.5": ("f32", {**MLP, "language": "mistral", "text": FEWER_KEYS}),
    "two layers": ("f32", {**MLP, "vision_feature_layer": [-3, -2]}),
    "the last layer, without bias": ("f32", {"vision_feature_layer": -1, "multimodal_projector_bias": False}),
    "SigLIP and Qwen2": (
        "f32",
        {**SIGLIP, "language": "qwen2", "text": {**FEWER_KEYS, "tie_word_embeddings": True}},
    ),
    "SigLIP's last layer and Qwen3": (
        "f32",
        {**SIGLIP, **MLP, "language": "qwen3", "vision_feature_layer": -1, "text": {**FEWER_KEYS, "head_dim": 16}},
    ),
    "Llama 3's positions": (
        "f32",
        {
            "text": {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            }
        },
    ),
    # In eight bits a random model, whose tokens are all about as likely, says other things: benchmarks/gguf_answers.py
    "half": ("f16", MLP),
}


def export(checkpoint: Path, out: Path, outtype: str = "f32") -> list[list[str]]:
    return export_checkpoint(checkpoint, out, "gguf", outtype=outtype, square_pictures=True).proof


@pytest.mark.parametrize("name", WRITTEN)
def test_llama_cpp_says_what_transformers_says(
    name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    outtype, options = WRITTEN[name]
    heads, *lines = export(llava_checkpoint(**options), tmp_path / "out", outtype)
    assert heads == ["asked", "tokens", "ids", "first token", "answer"] and len(lines) == 6
    # A random model may hold two tokens for equally likely, or only tokens that are parts of characters
    assert all(line[2] == "same" for line in lines), lines
    differences: dict[bool, list[float]] = {
        False: [],
        True: [],
    }  # by whether llama.cpp resized the picture, in its own way
    for line in lines:
        resized = "px" in line[0] and "(28 x 28 px)" not in line[0]
        differences[resized] += [float(cell.split()[-1]) for cell in line[3:] if "within" in cell]
    assert sum(map(len, differences.values())) >= 3 and sum(line[4] == "same" for line in lines) >= 4, lines
    assert max(differences[False]) < {"f32": 0.01, "f16": 0.1}[outtype], lines
    assert max(differences[True], default=0) < TOLERANCES[outtype], lines
    _, tensors = read_gguf(tmp_path / "out" / f"mmproj-{outtype}.gguf")
    assert {tensor.dtype.name for tensor in tensors.values()} == {
        "f32": {"float32"},
        "f16": {"float32", "float16"},
    }[outtype]


TEXTS = [
    "What is in this picture?",
    "  two  spaces,\ttabs\t\tand\n\nlines \n  end  ",
    "I'll say it's they're WE'VE don'T can't y'all'd",
    "1 12 123 1234 12345 3.14 1,000,000 ½ ²³ ٣٤",
    "Größe façade naïve Ωμέγα привет 你好，世界 こんにちは 한국어 עברית العربية हिन्दी ไทย",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 ✓ … — “quotes” «guillemets»",
    "def f(x):\n    return x**2  # comment\n\n\n\nprint(f(3))",
    "<image> </s> <s> typed <|im_end|> [INST]",
    "aaaaaaaaaaaaa bbbbbbb ------- ....... !!!!? \r\n\r\n \u00a0\u2003x",
    "",
]


def byte_level(pre_tokenizer: dict[str, Any], ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts texts in this way, trained on the texts of this file."""
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    built = json.loads(backend.to_str()) | {"pre_tokenizer": pre_tokenizer}
    backend = Tokenizer.from_str(json.dumps(built))
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator([*TEXTS, Path(__file__).read_text()], trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("name", [*PRE_TOKENIZERS, "llama2", "llama2_legacy"])
def test_llama_cpp_comes_to_the_ids_of_the_tokenizer(
    name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name in PRE_TOKENIZERS:
        tokenizer: Any = byte_level(*PRE_TOKENIZERS[name])
    else:
        tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue("shared_data") / "tokenizers" / name)
    checkpoint = llava_checkpoint(tokenizer=tokenizer)
    lines = export(checkpoint, tmp_path / "out")
    assert all(line[2] == "same" for line in lines[1:])
    inner = load_processor(checkpoint).tokenizer
    texts = [*TEXTS[:-3], *TEXTS[-2:], Path(__file__).read_text()[:6000].replace("</s>", "").replace("<", "")]
    with llama_cpp(*(tmp_path / "out" / f"{part}-f32.gguf" for part in ("model", "mmproj"))) as server:
        for text in texts:
            theirs = server.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            ours = inner(f"<image>{text}", add_special_tokens=False)["input_ids"][1:]
            assert theirs == ours, text


CANNOT: dict[str, tuple[dict[str, Any], str]] = {
    "tiles": ({**MLP, "image_aspect_ratio": "anyres"}, "image_aspect_ratio='anyres': llama.cpp has 'crop' and 'pad'"),
    "another tower": ({"encoder": "DINOv2"}, "vision encoder='dinov2': llama.cpp has 'clip_vision_model' and"),
    "another connector": ({"projector_type": "mlp3x_gelu"}, "projector_type='mlp3x_gelu': llama.cpp has 'linear'"),
    "fewer tokens": ({"projector_options": {"pooled_tokens": 4}}, "pooled_tokens=4"),
    "the class token": ({"vision_feature_select_strategy": "full"}, "keeps the class token"),
    "another order of layers": ({"vision_feature_layer": [-1, -2]}, "joins layers in an order of its own"),
    "another language model": (
        {"language": "mixtral", "text": {"num_key_value_heads": 2, "num_local_experts": 4}},
        "the language model is a 'mixtral'",
    ),
    "ends of no token": ({"chat_template": "llava_v0"}, "answers end with '###', which is no token"),
    "gated attention": (
        {
            "projector_type": "perceiver",
            "image_fusion": "attend",
            "projector_options": {"num_heads": 4, "num_latents": 4},
        },
        "image_fusion='attend': llama.cpp has 'splice'",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_it_cannot_say_is_refused(name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    options, reason = CANNOT[name]
    with pytest.raises(CannotExpress, match=reason):
        export(llava_checkpoint(**options), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(
    llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    split = {"type": "Split", "pattern": {"Regex": r"\w\w?|\W"}, "behavior": "Isolated", "invert": False}
    byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = byte_level({"type": "Sequence", "pretokenizers": [split, byte]})
    with pytest.raises(CannotExpress, match="the tokenizer cuts texts by pre_tokenizer=.*'gpt-2' and 'smollm'"):
        export(llava_checkpoint(tokenizer=tokenizer), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "'crop' takes the centre of a picture, and llama.cpp shows a picture whole"),
        (SIGLIP, "'squeeze' stretches a picture"),
        ({**MLP, "encoder": "SigLIP"}, r"'pad' fills up with \(127, 127, 127\)"),
    ],
)
def test_other_layouts_are_written_for_square_pictures_alone(
    options: dict[str, Any], reason: str, llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(CannotExpress, match=f"{reason}.*--square_pictures"):
        export_checkpoint(llava_checkpoint(**options), tmp_path / "out", "gguf")


def test_a_server_that_says_something_else_is_told(llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    ours, other = llava_checkpoint(**MLP), llava_checkpoint(**MLP, encoder="SigLIP")
    export(ours, tmp_path / "out")
    with llama_cpp(*(tmp_path / "out" / f"{part}-f32.gguf" for part in ("model", "mmproj"))) as server:
        served = Served(server.base_url, "m", 0.05, server.tokens)
        assert len(prove_served(ours, served, (28, 28))) == 7
        with pytest.raises(Mismatch, match="asked 'What is in this picture.*part first in the (first token|answer)"):
            prove_served(other, served, (28, 28))


def test_without_llama_cpp_the_command_says_that_it_was_not_asked(
    llava_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gguf_format, "has_llama_cpp", lambda: False)
    ours, out = llava_checkpoint(**MLP), tmp_path / "out"
    command = ["export", str(ours), "--format", "gguf", "-o", str(out), "--outtype", "q8_0"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "not asked: llama.cpp is not installed (pip install xllamacpp)" in printed and "same bits" in printed
    assert "hold the same tensors" in printed
    assert "not asked: llama.cpp is not installed" in (out / "README.md").read_text()
    assert {file.name for file in out.iterdir()} == {"README.md", "model-q8_0.gguf", "mmproj-q8_0.gguf"}


def test_flags_of_gguf_are_refused_for_other_formats(
    llava_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(llava_checkpoint()), "-o", str(tmp_path / "out"), "--outtype", "f16"]
    assert main([*command, "--format", "llava"]) == 1
    assert "--outtype f16: this format has no such choice" in capsys.readouterr().err
    assert main([*command, "--merge"]) == 1
    assert "--outtype belongs to --format gguf" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_any_server_is_checked_by_its_address(
    llava_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = llava_checkpoint(**MLP), llava_checkpoint(**MLP, encoder="SigLIP")
    export(ours, tmp_path / "out")
    with llama_cpp(*(tmp_path / "out" / f"{part}-f32.gguf" for part in ("model", "mmproj"))) as server:
        check = ["--check_server", server.base_url, "--square_pictures"]
        assert main(["export", str(ours), *check]) == 0
        assert "say the same" in capsys.readouterr().out
        assert main(["export", str(other), *check]) == 1
        assert "part first in the" in capsys.readouterr().err
        assert main(["export", str(ours), *check, "--model", "x", "-o", str(tmp_path / "new")]) == 1
        assert "--check_server writes nothing" in capsys.readouterr().err
    assert main(["export", str(ours), *check]) == 1
    assert "does not say which models it has" in capsys.readouterr().err
