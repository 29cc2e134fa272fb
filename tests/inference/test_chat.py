"""`llavakit init` and `llavakit chat`: the command, the loop, and what they say about bad input."""

import _thread
import itertools
from pathlib import Path

import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.inference.chat import HELP, chat, load_llava, pasted_image
from llavakit.inference.generation import AnswerEnd
from llavakit.inference.session import ChatSession
from llavakit.inference.streaming import TokenStream

from ..video_files import video
from ..warm_python import WarmPython


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (50, 40), "red").save(path)
    return path


def test_one_question(warm_python: WarmPython, tiny_llava: str, photo: Path):
    command = ["-m", "llavakit.cli", "chat", tiny_llava, "--image", photo]
    done = warm_python.run([*command, "--question", "what is it", "--max_new_tokens", "4"])
    assert done.returncode == 0, done.stderr
    session = ChatSession(*load_llava(tiny_llava))
    session.set_image(str(photo))
    assert done.stdout.strip() == session.ask("what is it", stream=False, max_new_tokens=4)


def conversation(llava: str, lines: list[str], **options) -> None:
    """Type lines into a conversation that answers in few tokens."""
    typed = iter([*lines, "/quit"])
    chat(llava, max_new_tokens=4, read=lambda prompt: next(typed), **options)


def test_a_talk_streams_remembers_and_takes_back(tiny_llava: str, photo: Path, capsys: pytest.CaptureFixture):
    lines = ["what is it", "say it again", "/undo", "/history", "/what", "/reset", "/history", "/undo"]
    conversation(tiny_llava, lines, image=str(photo))
    session = ChatSession(*load_llava(tiny_llava))
    session.set_image(str(photo))
    first, second = (session.ask(line, stream=False, max_new_tokens=4) for line in lines[:2])
    out = capsys.readouterr().out.replace(HELP, "HELP")
    expected = ["HELP", first, second, "(took back: say it again)", "> what is it", first, "HELP"]
    assert out == "\n".join([*expected, "(there is nothing to take back)", ""])


def test_a_talk_survives_bad_input(tiny_llava: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "text.jpg").write_text("no picture")
    lines = ["what is it", "/image nowhere.png", str(tmp_path / "text.jpg"), "cat " * 2000, "/history"]
    conversation(tiny_llava, lines, image=str(photo))
    captured = capsys.readouterr()
    missing, unreadable, too_long = captured.err.splitlines()[-3:]
    assert "there is no image 'nowhere.png'" in missing and "not an image" in unreadable
    assert "1024 positions" in too_long and captured.out.count("> what is it") == 1


def test_pasted_pictures(tiny_llava: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    spaced = tmp_path / "my photo.png"
    spaced.write_bytes(photo.read_bytes())
    escaped = str(spaced).replace(" ", "\\ ")
    for line, rest in (
        (str(photo), ""),
        (f"{photo} what is it", "what is it"),
        (str(spaced), ""),
        (f"'{spaced}'", ""),
        (f'"{spaced}" what is it', "what is it"),
        (f"{escaped} what is it", "what is it"),
        (spaced.as_uri(), ""),
        (f"file://localhost{photo} what", "what"),
    ):
        path, after = pasted_image(line)
        assert path in (str(photo), str(spaced)) and after == rest, line
    for line in ("", "what is it", "photo.png", "it's", f"what is {photo}", "x" * 5000, str(tmp_path), "\0.png", "'"):
        assert pasted_image(line) == (None, line)

    conversation(tiny_llava, ["what is it", f"{photo} say it again", "/history"])
    said = capsys.readouterr().out
    assert f"(looking at {photo})" in said
    assert "> say it again" in said and "> what is it" not in said  # another picture starts another talk


def test_a_video_is_talked_about_like_a_picture(tiny_llava: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "clip.mp4").write_bytes(video(20))
    (tmp_path / "early.mp4").write_bytes(video(20)[:-300])
    clip, early = str(tmp_path / "clip.mp4"), str(tmp_path / "early.mp4")
    session = ChatSession(*load_llava(tiny_llava))
    session.set_image({"video": clip})
    answer = session.ask("what is it", stream=False, max_new_tokens=4)
    conversation(tiny_llava, ["what is it", f"{clip} what is it", early, f"/image {clip}", "/history"], image=clip)
    captured = capsys.readouterr()
    assert captured.out.replace(HELP, "HELP") == f"HELP\n{answer}\n(looking at {clip})\n{answer}\n"
    assert captured.err.splitlines()[-1].startswith(f"image: the video {early!r} ends early: ")
    assert main(["chat", tiny_llava, "--image", early, "--question", "x"]) == 1
    assert capsys.readouterr().err.startswith(f"llavakit chat: --image: the video {early!r} ends early: ")


def test_ctrl_c_stops_an_answer_and_not_the_talk(
    tiny_llava: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    put, tokens = TokenStream.put, []

    def put_and_press(stream, value):  # as if it were pressed at the third token
        put(stream, value)
        tokens.append(value)
        if len(tokens) == 3:
            _thread.interrupt_main()

    monkeypatch.setattr(TokenStream, "put", put_and_press)
    lines = iter(["say it again", "/history", "/quit"])
    chat(tiny_llava, max_new_tokens=800, temperature=2.0, read=lambda prompt: next(lines))
    assert len(tokens) < 150
    out = capsys.readouterr().out
    assert "(stopped; the question is taken back)" in out and "> say" not in out


def test_the_end_of_input_ends_the_loop(tiny_llava: str):
    def no_more(prompt: str) -> str:
        raise EOFError

    chat(tiny_llava, read=no_more)


@pytest.mark.parametrize("template", ["vicuna_v1", "llava_v0"])
def test_an_answer_ends_at_its_stop(with_template, template: str):
    model, processor = with_template(template)
    end, stop = AnswerEnd(model, processor), processor.stop_string

    def ids(text: str) -> list[int]:
        return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    assert end.cut(ids(f" a red cat{stop}###</s> dog")) == ("a red cat", "stop")
    assert end.cut(ids(" a red cat</s> dog")) == ("a red cat", "stop")  # whatever the template
    assert end.cut(ids(" a # red cat")) == ("a # red cat", "length")
    assert end.cut([]) == ("", "length")
    text = ids(f" a # red é cat house{stop} dog")
    settled = [end.settled(text[:length]) for length in range(len(text) + 1)]
    assert settled[-1] == "a # red é cat house"
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(settled))
    assert len(set(settled)) > 4


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
    assert model.config.provenance["backbones"] == {"vision": vision, "language": language}
    assert (
        main(["init", "--vision", vision, "--language", language, "--output_dir", "x", "--chat_template", "no"]) == 1
    )
    assert "chat_template='no'" in capsys.readouterr().err
