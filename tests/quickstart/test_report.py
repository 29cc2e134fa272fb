"""The quickstart's report: its figures are those of the results, and the page stands alone and shows text as text."""

import base64
import io
import math
import random
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from llavakit.quickstart.report import render_table, write_report
from llavakit.rows.schema import BadRow

COLOURS = ("red", "green", "blue", "orange")
KINDS = ("presence", "colour", "count", "relation")


def fall(rng: random.Random, steps: int, start: float, end: float) -> list[list[float]]:
    """A loss that falls from `start` towards `end`, with noise."""
    return [
        [step, (end + (start - end) * math.exp(-5 * step / steps)) * rng.uniform(0.8, 1.25)]
        for step in range(1, steps + 1, 2)
    ]


def fake_results(folder: Path) -> dict[str, Any]:
    """Results such as the quickstart finds, and pictures where they say; no two pictures are the same."""
    rng = random.Random(0)
    (folder / "scenes").mkdir(parents=True)
    examples = []
    for number in range(24):
        picture = Image.new("RGB", (72, 72), (220, 220, 200 + number))
        colour, other = rng.sample(COLOURS, 2)
        left = rng.randrange(3) * 24 + 2
        ImageDraw.Draw(picture).ellipse((left, left, left + 20, left + 20), fill=colour)
        picture.save(folder / f"scenes/{number:04}.png")
        examples.append(
            {
                "image": f"scenes/{number:04}.png",
                "kind": KINDS[number % 4],
                "question": "What colour is the circle?"
                if number % 3
                else "Where is the ring, seen from the red cross?",
                "truth": colour if number % 3 else f"from west to east, so {colour}",
                "answers": {
                    "model": colour if number % 5 else other,
                    "skip_stage_1": f"from south to northeast, so {other}",
                    "blind": rng.choice(COLOURS),
                },
                "held_out_pair": number % 3 == 0,
            }
        )
    shares = {"model": 0.93, "skip_stage_1": 0.72, "blind": 0.51, "guess": 0.4949}
    return {
        "seed": 0,
        "settings": {"image": "72 x 72 pixels, 9 grid tokens", "vision": "CLIP, 4 layers of 128", "scenes": "6,000"},
        "seconds": {"world": 3.2, "CLIP": 80.1, "Llama": 41.0, "align": 20.4, "instruct": 62.0, "skip_stage_1": 48.0}
        | {"blind": 39.5, "evaluation": 10.0, "total": 304.2},
        "peak_memory_mb": 1500.0,
        "questions": dict.fromkeys(KINDS, 120),
        "accuracy": {
            who: {kind: share - 0.01 * place for place, kind in enumerate((*KINDS, "all", "held_out_pairs"))}
            for who, share in shares.items()
        },
        "curves": {
            "CLIP": fall(rng, 900, 4.2, 1.6),
            "Llama": fall(rng, 120, 5.0, 0.7),
            "align": fall(rng, 400, 4.0, 0.5),
            "instruct": fall(rng, 800, 3.0, 0.05),
            "skip_stage_1": fall(rng, 800, 3.5, 0.3),
            "blind": fall(rng, 800, 3.0, 0.35),
        },
        "examples": examples,
        "description": {
            "image": "scenes/0001.png",
            "truth": "A large red circle in the west and a small blue ring in the south.",
            "model": "A large red circle in the west and a small blue cross in the south.",
        },
    }


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    return fake_results(tmp_path)


class Page(HTMLParser):
    """Elements of a page, and its text without styles."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] != "style":
            self.words.append(data)

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and css_class in (attrs.get("class") or "")]


def page_of(results: dict[str, Any], folder: Path) -> Page:
    return Page(write_report(results, folder).read_text(encoding="utf-8"))


def test_table_numbers(results: dict[str, Any]) -> None:
    lines = render_table(results).splitlines()
    figures = {cells[0]: cells[1:] for line in lines if len(cells := re.split(r" {2,}", line)) == 5}
    assert figures.pop("per cent right") == ["the model", "stage 1", "withheld)", "looking"]
    assert figures == {
        "presence": ["93.0", "72.0", "51.0", "49.5"],
        "colour": ["92.0", "71.0", "50.0", "48.5"],
        "count": ["91.0", "70.0", "49.0", "47.5"],
        "relation": ["90.0", "69.0", "48.0", "46.5"],
        "all": ["89.0", "68.0", "47.0", "45.5"],
        "all, pairs never trained on": ["88.0", "67.0", "46.0", "44.5"],
    }
    assert max(map(len, lines)) <= 80


def test_kinds_are_those_asked(results: dict[str, Any]) -> None:
    """A kind more is a row more, and what was not measured is not a number."""
    results["questions"]["place"] = 50
    results["accuracy"]["model"]["place"] = 1.0
    assert re.search(r"^place +100\.0 +- +- +-$", render_table(results), re.MULTILINE)


def test_page_has_the_figures_of_the_table(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    for row in results["accuracy"].values():
        for share in row.values():
            assert f"{100 * share:.1f} %" in page.text
    lead = page.text.split("How often")[0]
    assert all(figure in lead for figure in ("89.0 %", "47.0 %", "45.5 %", "88.0 %", "5 min 4 s"))


def test_pictures_are_inlined(results: dict[str, Any], tmp_path: Path) -> None:
    shown = [attrs["src"] or "" for attrs in page_of(results, tmp_path).all("img")]
    pictures = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in shown]
    expected = [results["description"], *results["examples"]]
    assert pictures == [(tmp_path / example["image"]).read_bytes() for example in expected]
    assert all(Image.open(io.BytesIO(picture)).size == (72, 72) for picture in pictures)


def test_page_stands_alone(results: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(results, tmp_path)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.all("script") and not page.all("link") and not page.all("a")
    assert "http://" not in source and "https://" not in source and "url(" not in source and "@import" not in source
    for _, attrs in page.elements:
        assert all((attrs.get(name) or "data:").startswith("data:") for name in ("src", "href", "srcset"))
    assert len(page.all("svg")) == 3 and len(page.all("path", "curve")) == 6
    assert [file.name for file in tmp_path.iterdir() if "report" in file.name] == [path.name]


def test_text_is_escaped(results: dict[str, Any], tmp_path: Path) -> None:
    nasty = "<script>alert('\"')</script>&amp;\x1b\u202e"
    example = results["examples"][0]
    example |= {"question": nasty, "truth": nasty, "kind": nasty, "answers": {"model": nasty, "blind": nasty}}
    results["settings"] = {nasty: nasty}
    results["seconds"][nasty] = 1.0
    results["description"] |= {"truth": nasty, "model": nasty}
    page = page_of(results, tmp_path)
    assert not page.all("script")
    shown = "<script>alert('\"')</script>&amp;\\x1b\\u202e"
    assert page.text.count(shown) == 10  # five of the example, two settings, one phase, two of the description
    assert "\x1b" not in page.text and "\u202e" not in page.text


def test_right_and_wrong_are_signs_too(results: dict[str, Any], tmp_path: Path) -> None:
    """Right is what the evaluation counts: the answer word for word. Empty answers are shown as such."""
    results["examples"] = results["examples"][:1]
    answers = {"model": "from east to west, so left", "skip_stage_1": "from west to east, so left", "blind": ""}
    results["examples"][0] |= {"truth": "from east to west, so left", "answers": answers, "held_out_pair": True}
    page = page_of(results, tmp_path)
    verdicts = [attrs["aria-label"] for attrs in page.all("b") if "aria-label" in attrs]
    assert verdicts == ["right", "wrong", "wrong"]
    assert page.text.count("✓") == 1 and page.text.count("✗") == 2 and "(nothing)" in page.text
    assert len(page.all("span", "tag")) == 1


def test_scarce_results(results: dict[str, Any], tmp_path: Path) -> None:
    """No description, a curve of one point, one that is broken, one flat at zero, and none at all."""
    del results["description"]
    results["examples"] = []
    results["curves"] = {"CLIP": [[1, 2.0]], "align": [[1, math.nan]], "instruct": [[0, 0.0], [5, 0.0]]}
    page = page_of(results, tmp_path)
    assert len(page.all("svg")) == 2 and "describe" not in page.text
    results["curves"] = {}
    assert not page_of(results, tmp_path).all("svg")


def test_commands_survive_a_shell(results: dict[str, Any], tmp_path: Path) -> None:
    results["examples"][0]["question"] = "What's this?"
    path = write_report(results, tmp_path, final=Path("my runs/quickstart"))
    text = Page(path.read_text(encoding="utf-8")).text
    command = re.search(r"llavakit chat .*? Load it", text)
    assert command is not None
    assert shlex.split(command[0].removesuffix("Load it")) == [
        *("llavakit", "chat", "my runs/quickstart/model"),
        *("--image", "my runs/quickstart/scenes/0000.png", "--question", "What's this?"),
    ]
    assert "AutoModelForImageTextToText.from_pretrained('my runs/quickstart/model', trust_remote_code=True)" in text


def test_commands_never_name_a_passing_folder(results: dict[str, Any], tmp_path: Path) -> None:
    source = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert tmp_path.name not in source
    assert "In the folder of this page" in source and "llavakit chat ./model --image scenes/0000.png" in source


def test_a_missing_picture_leaves_the_page_before(results: dict[str, Any], tmp_path: Path) -> None:
    before = write_report(results, tmp_path).read_bytes()
    (tmp_path / results["examples"][3]["image"]).unlink()
    with pytest.raises(BadRow, match="there is no image .*0003.png"):
        write_report(results, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
