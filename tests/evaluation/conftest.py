"""What the tests of evaluations share: the command line, and small benchmarks made of the formats' own rules."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..servers.chat_server import ChatServer, last_text


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON lines to a file of the temporary folder."""

    def write(name: str, rows: list[dict]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., int]:
    """`llavakit eval ...`, in this process; errors come as they are raised."""
    from llavakit.cli import parser_of

    def run(*argv: str | Path) -> int:
        args = parser_of("eval").parse_args([*map(str, argv)])
        return args.run(args)

    return run


@pytest.fixture
def pope_folder(tmp_path: Path) -> Path:
    """Two splits of POPE about four pictures, in the official form, beside the pictures."""
    from PIL import Image

    folder = tmp_path / "pope"
    folder.mkdir()
    for split, objects in {"random": ("cat", "dog"), "adversarial": ("cat", "bus")}.items():
        rows = []
        for number in range(8):
            image = f"{number // 2}.png"
            Image.new("RGB", (40, 30), (60 * (number // 2), 80, 120)).save(folder / image)
            text, label = f"Is there a {objects[number % 2]} in the image?", "no" if number % 2 else "yes"
            rows.append({"question_id": number + 1, "image": image, "text": text, "label": label})
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    """Twelve objects on three pictures, two expressions each, in the official form."""
    import pickle
    import random

    from PIL import Image

    sizes, splits, draw = [(64, 48), (48, 64), (50, 50)], ("train", "val", "testA", "testB"), random.Random(0)
    folder = tmp_path / "refcoco"
    folder.mkdir()
    images, objects, references = [], [], []
    for number, (width, height) in enumerate(sizes):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", (width, height), (90, 80 * number, 120)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    for number in range(12):
        width, height = sizes[number % 3]
        across, down = draw.uniform(8, width / 2), draw.uniform(8, height / 2)
        box = [draw.uniform(0, width - across), draw.uniform(0, height - down), across, down]
        objects.append({"id": 100 + number, "image_id": number % 3, "category_id": 1, "bbox": box})
        sentences = [
            {"sent_id": 2 * number + each, "sent": f"cat {number}", "raw": f"Cat {number}.", "tokens": ["cat"]}
            for each in range(2)
        ]
        references.append(
            {
                "ref_id": number,
                "ann_id": 100 + number,
                "image_id": number % 3,
                "category_id": 1,
                "split": splits[number % 4],
                "file_name": f"COCO_train2014_{number % 3:012d}_{number}.jpg",
                "sent_ids": [each["sent_id"] for each in sentences],
                "sentences": sentences,
            }
        )
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, 2))
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": []}))
    return folder


@pytest.fixture
def chat_server() -> Iterator[Callable[..., str]]:
    """Starts a server that answers each chat with what a function says to its last message, and gives its base URL."""
    with contextlib.ExitStack() as servers:

        def start(say: Callable[[str], str]) -> str:
            return servers.enter_context(ChatServer(lambda body: say(last_text(body)))).base_url

        yield start
