"""Official files on the Hub: parquet with the pictures in it, from the small server of tests/hub."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.reading.hub import local_paths
from llavakit.evaluation.tasks import TASKS

from ..hub.hub_server import HubServer

PUSH = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("you/bench", repo_type="dataset")
HfApi().upload_folder(repo_id="you/bench", repo_type="dataset", folder_path=sys.argv[1])
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """POPE and MME as the Hub has them."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": "x.png"}
    pope = [
        {"question_id": str(number), "question": "Is there a cat in the image?", "answer": answer, "category": split}
        | {"image_source": f"{number}", "image": image}
        for split in ("random", "adversarial")
        for number, answer in ((1, "yes"), (2, "no"))
    ]
    mme = [
        {"question_id": "count/1.png", "question": f"Is it {word}?  Please answer yes or no.", "answer": answer}
        | {"category": "count", "image": image}
        for word, answer in (("one", "Yes"), ("two", "No"))
    ]
    for name, rows in {"pope": pope, "mme": mme}.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / name / "test-00000-of-00001.parquet")
    return tmp_path / "set"


def test_pope_and_mme_are_read_from_parquet(tables: Path) -> None:
    pope = TASKS["pope"]
    examples = pope.read([tables / "pope"])
    assert all(example.images[0]["bytes"].startswith(b"\x89PNG") for example in examples)
    answers = {example.id: "Yes" if example.truth else "No" for example in examples}
    assert set(answers) == {"random/1", "random/2", "adversarial/1", "adversarial/2"}
    result = score(pope, examples, answers)
    assert result.scores["f1"] == 100 and result.clusters == ["1", "2"]

    mme = TASKS["mme"]
    (first, second) = mme.read([tables / "mme"])
    assert (first.id, first.truth, second.truth) == ("count/1: Is it one?", "yes", "no")
    assert first.images[0]["bytes"].startswith(b"\x89PNG")


@pytest.mark.slow
def test_files_come_from_the_hub(tables: Path, tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    rows = [{"id": f"{split}/{number}", "text": "Yes"} for split in ("random", "adversarial") for number in (1, 2)]
    answers = write_lines("a.jsonl", rows)
    with HubServer(tmp_path / "hub") as hub:
        environment = {**os.environ, **hub.environment(), "HF_HOME": str(tmp_path / "home")}
        subprocess.run([sys.executable, "-c", PUSH, str(tables)], env=environment, check=True)
        command = [str(Path(sys.executable).with_name("llavakit")), "eval", "score", "pope"]
        command += ["--annotations", "hf://datasets/you/bench/pope", "--answers", str(answers), "-o", "scores.json"]
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "scores.json").read_text())["recall"] == 100


def test_a_name_that_is_none_says_so() -> None:
    assert local_paths(["a/b.json"]) == [Path("a/b.json")]
    with pytest.raises(ValueError, match="'hf://datasets/pope' names no data set"):
        local_paths(["hf://datasets/pope"])
