"""`llavakit init` and `llavakit chat`: the command, the loop, and what they say about bad input."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.inference.chat import answer, chat, load_llava


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (50, 40), "red").save(path)
    return path


def test_one_question(tiny_llava: str, photo: Path):
    command = [sys.executable, "-m", "llavakit.cli", "chat", tiny_llava, "--image", str(photo)]
    command += ["--question", "what is it", "--max_new_tokens", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, processor = load_llava(tiny_llava)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}
    said = answer(model, processor, [turn], [Image.open(photo)], max_new_tokens=4)
    assert done.stdout.strip() == said


def test_the_loop_keeps_the_talk_and_survives_a_bad_picture(
    tiny_llava: str, photo: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[int, int]] = []

    def record(model, processor, messages, images, **settings):
        seen.append((len(messages), len(images)))
        return answer(model, processor, messages, images, **settings)

    monkeypatch.setattr("llavakit.inference.chat.answer", record)
    lines = iter(
        ["what is it", "say it again", "/image nowhere.png", "and now", "/reset", "what is it", "/what", "/quit"]
    )
    chat(tiny_llava, image=str(photo), max_new_tokens=2, read=lambda prompt: next(lines))
    assert seen == [(1, 1), (3, 1), (5, 1), (1, 1)]
    captured = capsys.readouterr()
    assert "there is no image 'nowhere.png'" in captured.err and captured.out.count("/quit leaves") == 2


def test_the_end_of_input_ends_the_loop(tiny_llava: str):
    def no_more(prompt: str) -> str:
        raise EOFError

    chat(tiny_llava, read=no_more)


def test_an_answer_ends_at_its_stop(tiny_llava: str, photo: Path, monkeypatch: pytest.MonkeyPatch):
    model, processor = load_llava(tiny_llava)
    tokens = processor.tokenizer(" a red cat</s>", add_special_tokens=False)["input_ids"]

    def scripted(input_ids, **inputs):
        import torch

        return torch.cat([input_ids, torch.tensor([[*tokens, 5, 5, 5]])], dim=1)

    monkeypatch.setattr(model, "generate", scripted)
    assert answer(model, processor, [{"role": "user", "content": "what is it"}], []) == "a red cat"
    with pytest.raises(ValueError, match="0 place.* images has 1"):
        answer(model, processor, [{"role": "user", "content": "what is it"}], [Image.open(photo)])


def test_bad_input_is_one_line(tiny_llava: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["chat", tiny_llava, "--image", str(tmp_path / "none.png"), "--question", "x"]) == 1
    assert capsys.readouterr().err.startswith("llavakit chat: --image: there is no image")
    assert main(["chat", str(tmp_path), "--question", "x"]) == 1
    assert "llavakit chat:" in capsys.readouterr().err


def test_init_makes_a_checkpoint(tiny_backbones: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture):
    vision, language = tiny_backbones
    folder = tmp_path / "llava"
    arguments = ["init", "--vision", vision, "--language", language, "--output_dir", str(folder)]
    arguments += ["--projector_type", "mlp2x_gelu", "--chat_template", "plain", "--image_aspect_ratio", "pad"]
    assert main([*arguments, "--vision_feature_layer", "-2", "-1"]) == 0
    assert "4 tokens an image" in capsys.readouterr().out
    model, processor = load_llava(str(folder))
    assert model.config.projector_type == "mlp2x_gelu" and model.config.vision_feature_layer == [-2, -1]
    assert processor.image_aspect_ratio == "pad" and processor.stop_string == "\n"
    assert model.config.backbones == {"vision": vision, "language": language}
    assert (
        main(["init", "--vision", vision, "--language", language, "--output_dir", "x", "--chat_template", "no"]) == 1
    )
    assert "chat_template='no'" in capsys.readouterr().err
