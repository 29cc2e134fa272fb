"""The page that `llavakit data view` writes: what is on it, where the boxes lie, and what a browser makes of it."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.data_generation.contexts.coco import read_coco_instances
from llavakit.data_generation.viewing.viewer import share_out, view
from llavakit.reports.pictures import COLOURS, LABEL_HEIGHT, Picture, draw_boxes
from llavakit.rows.files import write_rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium to show the page")

OBJECTS = [{"category": "dog", "bbox": [0.1, 0.2, 0.5, 0.7]}, {"category": "cat", "bbox": [0.6, 0.05, 0.95, 0.4]}]
EVIL = '"><script>document.title="broken"</script>&<img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The elements of a page: articles with their attributes and text, and every tag that could load or run a thing."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.articles: list[dict[str, Any]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "article":
            self.articles.append({**attributes, "text": "", "boxes": [], "labels": [], "images": []})
        elif self.articles:
            classes = (attributes.get("class") or "").split()
            for kind, found in (("boxes", "box" in classes), ("labels", "label" in classes), ("images", tag == "img")):
                if found:
                    self.articles[-1][kind].append(attributes)

    def handle_data(self, data: str) -> None:
        if self.articles:
            self.articles[-1]["text"] += data


def place(box: dict[str, str | None]) -> dict[str, float]:
    style = box["style"] or ""
    return {side: float(re.search(rf"\b{side}: ([\d.]+)%", style)[1]) for side in ("left", "top", "width", "height")}  # type: ignore[index]


def decoded(image: dict[str, str | None]) -> Image.Image:
    start, _, data = (image["src"] or "").partition(",")
    assert start == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def in_browser(page: Path, *flags: str, fragment: str = "") -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *flags]
    command += [f"--user-data-dir={page.parent / 'profile'}", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Contexts, rows and rejected rows of six images, in the files that the steps write."""
    contexts, rows, rejected = [], [], []
    for number in range(6):
        name = f"{number}.png"
        Image.new("RGB", (900, 600 + 100 * number), (30 * number, 90, 120)).save(tmp_path / name)
        context = {"id": str(number), "image": name, "captions": [f"caption {number}"], "instances": OBJECTS}
        contexts.append(context)
        type_ = ("conversation", "detail", "reasoning")[number % 3]
        talk = [{"from": "human", "value": f"<image>\nask {number}"}, {"from": "gpt", "value": f"say {number}"}]
        rows.append({"id": f"{number}-{type_}", "type": type_, "image": name, "conversations": talk})
        failed = {"id": f"{number}-detail", "type": "detail", "image": name, "context": context}
        filter_ = ("meta_talk", "generic")[number // 5]
        rejected.append({**failed, "filter": filter_, "reason": f"because {number}", "text": f"raw {number}"})
    write_rows(contexts, tmp_path / "contexts.jsonl")
    write_rows(rows, tmp_path / "rows.jsonl")
    write_rows(rejected, tmp_path / "rows.rejected.jsonl")
    return tmp_path


def test_boxes_lie_where_the_annotation_says(desk: Path):
    view([desk / "contexts.jsonl"], desk / "page.html")
    page = Page(desk / "page.html")
    assert len(page.articles) == 6
    for number, article in enumerate(page.articles):
        for box, known in zip(article["boxes"], OBJECTS, strict=True):
            found, (left, top, right, bottom) = place(box), known["bbox"]
            assert found["left"] == pytest.approx(100 * left) and found["top"] == pytest.approx(100 * top)
            assert found["left"] + found["width"] == pytest.approx(100 * right)
            assert found["top"] + found["height"] == pytest.approx(100 * bottom)
            assert box["title"] == f"{known['category']}: {known['bbox']}"
        (image,) = article["images"]
        width, height = decoded(image).size
        assert max(width, height) == 640
        # Shares of the picture stay shares of what is shown only if its proportions stay
        assert width / height == pytest.approx(900 / (600 + 100 * number), rel=0.005)
        assert int(image["width"]) / int(image["height"]) == pytest.approx(width / height, rel=0.005)
        assert f"caption {number}" in article["text"] and "dog: [0.1, 0.2, 0.5, 0.7]" in article["text"]


@needs_browser
def test_boxes_lie_on_the_object_in_a_browser(tmp_path: Path):
    """A rectangle is painted into a photograph's pixels; what the browser draws around it must meet its edges."""
    left, top, right, bottom = 300, 150, 700, 450
    picture = Image.new("RGB", (1000, 600), (255, 255, 255))
    picture.paste((0, 255, 0), (left, top, right, bottom))
    picture.save(tmp_path / "a.png")
    corners = [left / 1000, top / 600, right / 1000, bottom / 600]
    context = {"id": "a", "image": "a.png", "captions": ["a"], "instances": [{"category": "x", "bbox": corners}]}
    write_rows([context], tmp_path / "contexts.jsonl")
    view([tmp_path / "contexts.jsonl"], tmp_path / "page.html")
    in_browser(tmp_path / "page.html", "--window-size=1200,700", f"--screenshot={tmp_path / 'seen.png'}")

    seen = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB")).astype(int)
    seen = seen[:, 61 : 61 + 440]  # the column of the picture
    border = np.abs(seen - list(bytes.fromhex(COLOURS[0][1:]))).max(axis=2) == 0
    green = (seen[..., 1] > 200) & (seen[..., 0] < 90) & (seen[..., 2] < 90)
    (columns, rows), (inner_columns, inner_rows) = (
        [np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1)] for mask in (border, green)
    )
    assert columns[-1] - columns[0] + 1 == pytest.approx(0.4 * 440, abs=2), "the box is as wide as the rectangle"
    assert inner_columns[0] - columns[0] == pytest.approx(2, abs=1)  # the border's own two pixels lie over the edge
    assert columns[-1] - inner_columns[-1] == pytest.approx(2, abs=1)
    assert rows[-1] - inner_rows[-1] == pytest.approx(2, abs=1)
    assert inner_rows[0] - rows[0] == pytest.approx(LABEL_HEIGHT + 2, abs=1), "above the box stands its label"


def test_labels_cover_neither_each_other_nor_leave_the_picture(shared_data: Path):
    lines = (shared_data / "caps_boxes_coco2014_val_80.jsonl").read_text().splitlines()
    labelled = total = 0
    for context in map(json.loads, lines):
        picture = Picture("", 440, 330)
        boxes = draw_boxes(context["instances"], [], picture)
        spots = []
        for box in boxes:
            total += 1
            if not box.label:
                continue
            labelled += 1
            x, y, width = box.label_left * 4.40, box.label_top * 3.30, 7 * len(box.label) + 8
            assert -0.01 <= x and x + width <= 440.01 and -0.01 <= y and y + LABEL_HEIGHT <= 330.01
            # The label touches its box
            assert box.left * 4.4 - width <= x <= (box.left + box.width) * 4.4
            assert box.top * 3.3 - LABEL_HEIGHT - 0.01 <= y <= (box.top + box.height) * 3.3 + 0.01
            spots.append((x, y, x + width, y + LABEL_HEIGHT))
        for i, a in enumerate(spots):
            for b in spots[:i]:
                free = a[0] >= b[2] - 0.01 or b[0] >= a[2] - 0.01 or a[1] >= b[3] - 0.01 or b[1] >= a[3] - 0.01
                assert free, context["id"]
    print(f"{labelled} of {total} boxes are labelled in the picture")
    assert labelled > 0.85 * total


def test_real_photographs(shared_data: Path, tmp_path: Path):
    folder = shared_data / "coco_photos"
    contexts = []
    for name, objects in read_coco_instances(folder / "instances.json").items():
        instances = []
        for thing in objects:
            (x, y, w, h), (width, height) = thing["bbox"], thing["size"]
            corners = [x / width, y / height, (x + w) / width, (y + h) / height]
            instances.append({"category": thing["category"], "bbox": [round(corner, 3) for corner in corners]})
        contexts.append({"id": name, "image": name, "captions": ["a"], "instances": instances})
    write_rows(contexts, tmp_path / "contexts.jsonl")
    shown = view([tmp_path / "contexts.jsonl"], tmp_path / "page.html", image_folder=folder / "images")
    page = Page(tmp_path / "page.html")
    assert len(page.articles) == len(contexts) and shown.num_missing == 0
    for article, context in zip(page.articles, contexts, strict=True):
        assert len(article["boxes"]) == len(context["instances"])
        with Image.open(folder / "images" / context["image"]) as photograph:
            width, height = decoded(article["images"][0]).size
            assert width / height == pytest.approx(photograph.width / photograph.height, rel=0.01)


def test_rows_and_rejected_rows_on_one_page(desk: Path, capsys: pytest.CaptureFixture[str]):
    """The answers, and the boxes of the context that the row came from."""
    files = [str(desk / "rows.jsonl"), str(desk / "rows.rejected.jsonl")]
    page_file = desk / "pages" / "page.html"
    assert main(["data", "view", *files, "-o", str(page_file), "--contexts", str(desk / "contexts.jsonl")]) == 0
    assert capsys.readouterr().out == f"12 of 12 rows -> {page_file}\n"
    page = Page(page_file)
    assert [path.name for path in page_file.parent.iterdir()] == ["page.html"]
    verdicts = Counter((article["data-type"], article["data-verdict"]) for article in page.articles)
    each = {("conversation", "kept"): 2, ("detail", "kept"): 2, ("reasoning", "kept"): 2}
    assert verdicts == {**each, ("detail", "meta_talk"): 5, ("detail", "generic"): 1}
    for number, article in enumerate(page.articles[:6]):
        assert f"ask {number}" in article["text"] and f"say {number}" in article["text"]
        assert len(article["boxes"]) == 2 and f"caption {number}" in article["text"]
    for number, article in enumerate(page.articles[6:]):
        assert f"because {number}" in article["text"] and f"raw {number}" in article["text"]
    view([desk / "rows.rejected.jsonl"], page_file)
    assert [len(article["boxes"]) for article in Page(page_file).articles] == [2] * 6, "the context came along"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("fragment", "expected"),
    [("", 12), ("#type=reasoning", 2), ("#type=detail&verdict=generic", 1)],
)
def test_filters_work_in_a_browser(desk: Path, fragment: str, expected: int):
    view([desk / "rows.jsonl", desk / "rows.rejected.jsonl"], desk / "page.html")
    seen = in_browser(desk / "page.html", "--dump-dom", fragment=fragment)
    articles = re.findall(r"<article[^>]*>", seen)
    shown = [article for article in articles if "hidden" not in article]
    assert (len(articles), len(shown)) == (12, expected) and f"{expected} of 12 on this page" in seen
    for name, value in re.findall(r"(type|verdict)=(\w+)", fragment):
        assert all(f'data-{name}="{value}"' in article for article in shown)


def hostile_rows(folder: Path) -> Path:
    context = {"id": EVIL, "image": EVIL, "captions": [EVIL], "instances": [{"category": EVIL, "bbox": [0, 0, 1, 1]}]}
    row = {"id": EVIL, "type": EVIL, "filter": EVIL, "reason": EVIL, "context": context, "text": EVIL + "\ud800"}
    # A second row with a picture, so that the category becomes a label
    Image.new("RGB", (90, 60)).save(folder / "a.png")
    short = {**context, "image": "a.png", "instances": [{"category": "<b>x</b>", "bbox": [0, 0.5, 1, 1]}]}
    lines = [json.dumps(line) for line in (row, {**row, "image": "a.png", "context": short})]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def test_rows_are_text_whatever_they_contain(tmp_path: Path):
    view([hostile_rows(tmp_path)], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert len(page.articles) == 2 and page.articles[0]["text"].count(EVIL) >= 4
    tags = Counter(tag for tag, _ in page.tags)
    assert tags["script"] == 1 and tags["img"] == 1 and not tags["b"]
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), "the page needs no other file"
    # The policy lets one script run: the page's own
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in (policy or "") and "default-src 'none'" in (policy or "")


@needs_browser
def test_hostile_rows_in_a_browser(tmp_path: Path):
    view([hostile_rows(tmp_path)], tmp_path / "page.html")
    seen = in_browser(tmp_path / "page.html", "--dump-dom")
    assert f"<title>{html.escape(str(tmp_path / 'rows.jsonl'))}</title>" in seen
    assert "2 of 2 on this page" in seen, "the page's own script ran"


def test_rare_verdicts_have_their_place_on_the_page(tmp_path: Path):
    rows = [{"id": str(i), "type": "detail", "text": "t", "filter": "generic", "reason": "r"} for i in range(1000)]
    rows[990]["filter"] = "boxes"
    write_rows(rows, tmp_path / "rows.jsonl")
    view([tmp_path / "rows.jsonl"], tmp_path / "page.html", num_rows=10)
    articles = Page(tmp_path / "page.html").articles
    assert Counter(article["data-verdict"] for article in articles) == {"generic": 9, "boxes": 1}
    ids = [int(re.match(r"\s*(\d+)", article["text"])[1]) for article in articles]  # type: ignore[index]
    gaps = [b - a for a, b in zip(ids[:9], ids[1:9], strict=False)]
    assert ids == sorted(ids) and max(gaps) - min(gaps) <= 1, "spread evenly over the file"


@pytest.mark.parametrize("total", [1, 2, 3, 10, 57, 1000])
def test_places_are_shared_out(total: int):
    counts = {("a", "x"): 500, ("a", "y"): 1, ("b", "x"): 50, ("c", "x"): 3}
    shares = share_out(counts, total)
    assert sum(shares.values()) == min(total, 554)
    assert all(shares[group] <= counts[group] for group in counts)
    assert total < 4 or min(shares.values()) >= 1


def test_rows_find_the_run_that_they_came_from(desk: Path):
    """Its contexts and its image folder, by the report that the filter writes beside them."""
    (desk / "RUN").mkdir()
    shutil.move(desk / "contexts.jsonl", desk / "RUN")
    (desk / "RUN" / "run.json").write_text(json.dumps({"image_folder": str(desk)}))
    (desk / "made").mkdir()
    for name in ("rows.jsonl", "rows.rejected.jsonl"):
        shutil.move(desk / name, desk / "made")
    (desk / "made" / "rows.report.json").write_text(json.dumps({"source": "../RUN"}))
    view([desk / "made" / "rows.jsonl", desk / "made" / "rows.rejected.jsonl"], desk / "page.html")
    articles = Page(desk / "page.html").articles
    assert [(len(article["boxes"]), len(article["images"])) for article in articles] == [(2, 1)] * 12


def test_a_run_shows_every_answer_and_failure(desk: Path):
    run = desk / "RUN"
    run.mkdir()
    shutil.copy(desk / "contexts.jsonl", run)
    (run / "run.json").write_text("{}")
    common = {"type": "detail", "question": "Describe it.", "text": None, "reason": None}
    lines = [
        {**common, "key": "0/detail", "id": "0", "status": "answered", "text": "A dog."},
        {**common, "key": "2/detail", "id": "2", "status": "failed", "reason": "asked again since"},
        {**common, "key": "1/detail", "id": "1", "status": "failed", "reason": "timeout after 3 attempts"},
        {**common, "key": "2/detail", "id": "2", "status": "answered", "text": "A cat."},
    ]
    write_rows(lines, run / "journal.jsonl")
    with (run / "journal.jsonl").open("a") as journal:
        journal.write('{"key": "3/detail", "id"')  # being written, or torn by a kill
    view([run], desk / "page.html", image_folder=desk)
    answered, failed, retried = Page(desk / "page.html").articles
    assert "A cat." in retried["text"] and retried["data-verdict"] == "answered"
    assert "A dog." in answered["text"] and "Describe it." in answered["text"] and "caption 0" in answered["text"]
    assert "timeout after 3 attempts" in failed["text"] and failed["data-verdict"] == "failed"
    assert len(answered["boxes"]) == len(failed["boxes"]) == 2


def test_boxes_that_the_answer_names_are_drawn_dashed(desk: Path):
    talk = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "At [0.25, 0.5, 0.75, 1.0]."}]
    row = {"id": "0-detail", "type": "detail", "image": "0.png", "conversations": talk}
    write_rows([row], desk / "one.jsonl")
    view([desk / "one.jsonl"], desk / "page.html")
    (box,) = Page(desk / "page.html").articles[0]["boxes"]
    assert "from-answer" in box["class"] and place(box) == {"left": 25, "top": 50, "width": 50, "height": 50}


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_rows_of_the_ecosystem(desk: Path, suffix: str):
    """`messages`, and images stored in the row as `datasets` stores them."""
    content = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog"}]},
    ]
    image: Any = "0.png" if suffix == "json" else {"bytes": (desk / "0.png").read_bytes(), "path": None}
    rows = [{"images": [image, image], "messages": messages}]
    if suffix == "json":
        write_rows(rows, desk / "own.json")
    else:
        pq.write_table(pa.Table.from_pylist(rows), desk / "own.parquet")
    view([desk / f"own.{suffix}"], desk / "page.html")
    (article,) = Page(desk / "page.html").articles
    assert "What is it?" in article["text"] and "A dog" in article["text"] and len(article["images"]) == 2


def test_pictures_that_cannot_be_shown_are_said(desk: Path, capsys: pytest.CaptureFixture[str]):
    folder = desk / "pictures"
    folder.mkdir()
    (folder / "text.jpg").write_text("no image")
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    names = ["text.jpg", "none.jpg", "../0.png", str(desk / "0.png")]
    write_rows([{"id": name, "image": name, "conversations": talk} for name in names], desk / "own.jsonl")
    page = desk / "page.html"
    assert main(["data", "view", str(desk / "own.jsonl"), "-o", str(page), "--image_folder", str(folder)]) == 0
    articles = Page(page).articles
    for article, words in zip(articles, ("cannot be read", "no image", "outside", "outside"), strict=True):
        assert words in article["text"] and not article["images"]
    said = capsys.readouterr().out
    assert "4 of 4 rows" in said and "4 without a picture" in said and "--image_folder" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: write_rows([{"id": 1, "question": "?"}], path), "row 1 has none of 'conversations'"),
        (lambda path: path.write_text(""), "no rows to show"),
        (lambda path: path.write_text("{oh"), "line 1 is not JSON"),
        (lambda path: path.mkdir(), "no journal.jsonl"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_cannot_be_viewed_is_named(
    make: Callable[[Path], Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make(tmp_path / "rows.jsonl")
    assert main(["data", "view", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "page.html")]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "page.html").exists()
    with pytest.raises(ValueError, match="num_rows=0"):
        view([tmp_path / "rows.jsonl"], tmp_path / "page.html", num_rows=0)
