"""The quickstart as a newcomer runs it: a smoke run, and the whole of it."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit.quickstart import run_quickstart


def test_smoke_run_leaves_a_checkpoint_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "quickstart"
    results = run_quickstart(str(folder), scale=0.01)
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert set(results["accuracy"]) == {"model", "skip_stage_1", "blind", "guess"}
    assert "report.html" in capsys.readouterr().out and (folder / "report.html").stat().st_size > 10_000
    model = AutoModelForImageTextToText.from_pretrained(folder / "model")
    assert [record["stage"] for record in model.config.training_history] == ["align", "instruct"]
    assert AutoProcessor.from_pretrained(folder / "model").num_image_tokens == model.config.num_image_tokens

    run_quickstart(str(folder), scale=0.01)  # a quickstart's own folder is replaced
    stranger = tmp_path / "thesis"
    stranger.mkdir()
    (stranger / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        run_quickstart(str(stranger), scale=0.01)
    assert [file.name for file in stranger.iterdir()] == ["chapter.txt"]
