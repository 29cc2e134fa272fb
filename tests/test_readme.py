"""README.md says what is true: its commands parse, run and agree with the Makefile; its links lead somewhere."""

import configparser
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))


def blocks(text: str, opening: str) -> list[str]:
    """The code blocks of a page that open with this after the fence, lines that a backslash continues joined."""
    found = re.findall(rf"^```{re.escape(opening)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", " ") for block in found]


def commands(page: Path) -> list[list[str]]:
    """Every shell command on a page, or in the comment that opens a recipe."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        comment = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        lines = [line for line in comment.replace("\\\n", " ").splitlines() if line.startswith("llavakit ")]
    else:
        lines = [
            line
            for block in re.findall(r"^```bash.*?^```$", text, re.DOTALL | re.MULTILINE)
            for line in block.replace("\\\n", " ").splitlines()[1:-1]
        ]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# whether commands parse


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: page.name)
def test_commands_are_known(page: Path) -> None:
    from llavakit.cli import parser_of

    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *arguments in commands(page):
        if program == "make":
            assert set(arguments) <= set(targets), f"make {arguments}: the Makefile has {targets}"
        elif program == "llavakit" and arguments[0] == "sft":
            assert_sft_flags_are_known(arguments[1:])
        elif program == "llavakit":
            parser_of(arguments[0]).parse_args(
                arguments[1:]
            )  # leaves with a message where it does not know an argument


def assert_sft_flags_are_known(arguments: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    from llavakit.train.sft import make_parser

    if "--config" in arguments:
        assert (ROOT / arguments[arguments.index("--config") + 1]).is_file()
    else:
        assert "--model_name_or_path" in arguments and "--dataset_name" in arguments
    known = {flag for parser in (make_parser(), launch_command_parser()) for flag in parser._option_string_actions}
    unknown = {word for word in arguments if word.startswith("--")} - known - {"--config"}
    assert not unknown


def test_set_up_by_hand_is_what_make_and_ci_do() -> None:
    for words in ("pip install -c constraints.txt -e '.[dev]'", 'pytest -m "not slow"'):
        assert words in README and words in (ROOT / "Makefile").read_text()
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / ".ci" / "run").read_text()


# whether what it tells is so


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_dependency_is_explained() -> None:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    required = {line.split(">=")[0].strip() for line in parsed["options"]["install_requires"].strip().splitlines()}
    table = README.partition("| dependency | what for |")[2]
    explained = {
        name.split("(")[0].strip() for name in re.findall(r"^\| ([a-z_ (0-9.]+[a-z)]) \|", table, re.MULTILINE)
    }
    assert explained == required


def test_rows_on_the_page_are_rows() -> None:
    from llavakit.rows.schema import normalize_row

    rows = [normalize_row(json.loads(block)) for block in blocks(README, "json")]
    assert len(rows) == 2
    assert rows[0]["messages"] == rows[1]["messages"], "the page shows one conversation in two formats"


def test_templates_on_the_page_are_those_that_ship() -> None:
    shipped = {file.stem for file in (ROOT / "processing").glob("*.jinja")}
    paragraph = README.partition("Chat templates, chosen by name")[2].partition("\n\n")[0]
    assert shipped <= set(re.findall(r"`(\w+)`", paragraph))


# whether it runs


@pytest.mark.slow
def test_train_your_own(warm_python: WarmPython, tiny_backbones: tuple[str, str], tmp_path: Path) -> None:
    """All of "Train your own", from two backbones to an answer, on tiny backbones and a few drawn pictures."""
    write_coco(tmp_path)

    def execute(*arguments: str) -> None:
        done = warm_python.run(arguments, tmp_path)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

    section = README.partition("## Train your own")[2].partition("\n## ")[0]
    names = {"openai/clip-vit-large-patch14": tiny_backbones[0], "lmsys/vicuna-7b-v1.3": tiny_backbones[1]}
    for line in blocks(section, "bash")[0].splitlines():
        words = [names.get(word, word) for word in shlex.split(line, comments=True)]
        if not words:
            continue
        if words[:2] == ["llavakit", "sft"]:
            words += ["--max_steps", "2", "--use_cpu", "--report_to", "none"]
        assert words[0] == "llavakit"
        execute("-m", "llavakit.cli", *words[1:])
    assert (tmp_path / "inspect.html").stat().st_size > 1000
    train, load = blocks(section, "python")
    assert "max_length=2048" in train
    execute("-c", train.replace("max_length=2048", "max_steps=2, use_cpu=True"))
    execute("-c", load)


def write_coco(folder: Path) -> None:
    """Pictures with captions and boxes, in COCO's format, under the names that the page uses."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, captions, boxes = [], [], []
    for number in range(6):
        name = f"{number}.jpg"
        picture = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        picture.save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": 80, "height": 60})
        captions.append({"id": number, "image_id": number, "caption": f"A red cat left of {number + 2} dogs."})
        for index, category in enumerate((1, 2)):
            box = {"id": 2 * number + index, "image_id": number, "category_id": category, "iscrowd": 0}
            boxes.append({**box, "bbox": [5 + 40 * index, 10, 25, 30], "area": 750})
    picture.save(folder / "photo.jpg")
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    categories = [
        {"id": 1, "name": "cat", "supercategory": "animal"},
        {"id": 2, "name": "dog", "supercategory": "animal"},
    ]
    instances = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances))
