"""The quickstart as a newcomer runs it: a smoke run, and the whole of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit.quickstart import run_quickstart
from llavakit.quickstart.evaluate import ask_batch
from llavakit.quickstart.pipeline import MARK
from llavakit.quickstart.questions import KINDS

from ..warm_python import WarmPython


@pytest.mark.slow
def test_smoke_run_leaves_a_checkpoint_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture, warm_python: WarmPython, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "executable", warm_python.interpreter())  # of the process beside
    folder = tmp_path / "quickstart"
    (folder / "model").mkdir(parents=True)
    (folder / MARK).touch()  # a former quickstart's, which is replaced
    (folder / "model" / "former.txt").touch()
    results = run_quickstart(str(folder), scale=0.01)
    assert (folder / MARK).exists() and not (folder / "model" / "former.txt").exists()
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert set(results["accuracy"]) == {"model", "skip_stage_1", "blind", "guess"}
    assert "report.html" in capsys.readouterr().out and (folder / "report.html").stat().st_size > 10_000
    model = AutoModelForImageTextToText.from_pretrained(folder / "model")
    assert [record["stage"] for record in model.config.provenance["training_history"]] == ["align", "instruct"]
    assert AutoProcessor.from_pretrained(folder / "model").num_image_tokens == model.config.num_image_tokens

    stranger = tmp_path / "thesis"
    stranger.mkdir()
    (stranger / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        run_quickstart(str(stranger), scale=0.01)
    assert [file.name for file in stranger.iterdir()] == ["chapter.txt"]


@pytest.mark.slow(minutes=5)
def test_the_whole_of_it_learns_to_see(tmp_path: Path):
    """The bars that the quickstart is held to, on one seed; the README has the figures of three."""
    folder = tmp_path / "quickstart"
    subprocess.run([sys.executable, "-m", "llavakit.cli", "quickstart", "--output_dir", str(folder)], check=True)
    results = json.loads((folder / "results.json").read_text())
    model, blind, guess = (results["accuracy"][name] for name in ("model", "blind", "guess"))
    print({name: (round(model[name], 3), round(blind[name], 3)) for name in model})
    assert set(KINDS) < set(model)
    assert model["all"] >= 0.85
    assert model["all"] >= blind["all"] + 0.35
    assert blind["all"] < 0.5 and guess["all"] < 0.5
    assert results["peak_memory_mb"] <= 4096

    checkpoint = AutoModelForImageTextToText.from_pretrained(folder / "model")
    processor = AutoProcessor.from_pretrained(folder / "model")
    examples = results["examples"]
    pictures = [Image.open(folder / example["image"]) for example in examples]
    said = ask_batch(checkpoint, processor, [example["question"] for example in examples], pictures)
    assert said == [example["answers"]["model"] for example in examples]
