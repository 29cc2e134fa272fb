"""What `llavakit sft` says, as a process of its own: what learns, where it went, and nothing that is not so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llavakit.train import launch
from llavakit.train import sft as script

from ..warm_python import WarmPython

ONE_STEP = ["--max_steps", "1", "--max_length", "512", "--per_device_train_batch_size", "2", "--report_to", "none"]
ONE_STEP += ["--disable_tqdm", "true"]


@pytest.fixture
def run(warm_python: WarmPython, tiny_llava: str, rows_file: Path):
    """Runs `llavakit sft`, or the script that it launches alone."""

    def run(*flags: object, launched: bool = True) -> subprocess.CompletedProcess[str]:
        program = ["llavakit.cli", "sft"] if launched else [script.__name__, "--use_cpu"]
        data = ["--model_name_or_path", tiny_llava, "--dataset_name", rows_file]
        return warm_python.run(["-m", *program, *data, *ONE_STEP, *flags], timeout=300)

    return run


@pytest.mark.slow
def test_what_learns_and_what_comes_next_is_said(run, tmp_path: Path):
    done = run("--stage", "align", "--output_dir", tmp_path / "align", "--save_steps", "1", "--learning_rate", "2e-3")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert re.search(r"connector\s+[\d,]+ of\s+[\d,]+ parameters \(100\.00%\)  learns at 0.002", said)
    assert re.search(r"vision tower\s+0 of\s+[\d,]+ parameters \(0\.00%\)  frozen", said)
    assert f"Saved to {tmp_path / 'align'}." in said and "Next, stage 2: llavakit sft --stage instruct" in said
    for false in ("will be ignored", "Warning", "warning", "were not passed to `accelerate launch`", "Traceback"):
        assert false not in said, said

    done = run("--output_dir", tmp_path / "align", "--resume_from_checkpoint", "true", launched=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert (
        "checkpoint-1 is of stage 'align', and this run is stage 'instruct'" in last
        and "output_dir of its own" in last
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nonsense", "1"], "--nonsense is unknown"),
        (["--mixed_precision", "fp16"], "the flags are --bf16 and --fp16"),
        (["--module"], "always llavakit's"),
        (["stray"], "'stray' follows no flag"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_launch_that_cannot_be_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture):
    assert launch.main(["--output_dir", "out", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("llavakit sft: ") and error.count("\n") == 1 and said in error


@pytest.mark.parametrize(
    ("flags", "here"),
    [
        ([], True),
        (["--num_processes", "1"], True),
        (["--num_processes", "2"], False),
        (["--num_cpu_threads_per_process", "1"], False),
        (["--config_file", "accelerate.yaml"], False),
    ],
)
def test_one_process_is_this_one(flags: list[str], here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another would import everything once more, ten seconds of a start. What the launcher must set is left to it."""
    monkeypatch.chdir(tmp_path)
    Path("accelerate.yaml").write_text(
        "{compute_environment: LOCAL_MACHINE, distributed_type: 'NO', num_processes: 1}"
    )
    arguments, launchers_own = launch._launch_arguments(["--output_dir", "out", "--use_cpu", "true", *flags])
    assert launch._trains_here(arguments, launchers_own) is here


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--packing", "true", "--pack_tokens", "100"], "takes 1"),
        (["--dtype", "bfloat16"], "rounds most of each step away"),
        (["--model_name_or_path", "no/such-model"], "model 'no/such-model' cannot be loaded"),
        (["--save_strategy", "steps", "--load_best_model_at_end", "true"], "load_best_model_at_end requires"),
        (["--learning_rate", "1e30", "--max_steps", "4"], "the loss is nan at step"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    tiny_llava: str, rows_file: Path, tmp_path: Path, flags: list[str], said: str, monkeypatch, capsys
):
    argv = ["sft", "--model_name_or_path", tiny_llava, "--dataset_name", str(rows_file), "--use_cpu", *ONE_STEP]
    monkeypatch.setattr(sys, "argv", [*argv, "--output_dir", str(tmp_path / "out"), *flags])
    assert script.run() == 1
    error = capsys.readouterr().err
    last = error[error.index("llavakit sft: ") :]
    assert said in last and "Traceback" not in last


@pytest.mark.slow
def test_several_processes_on_a_cpu(run, tmp_path: Path):
    flags = ["--num_processes", "2", "--use_cpu", "--per_device_train_batch_size", "1", "--save_steps", "1"]
    done = run("--output_dir", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    history = json.loads((tmp_path / "out" / "config.json").read_text())["provenance"]["training_history"]
    assert history[-1]["batch_size"] == 2
    assert {file.name for file in (tmp_path / "out" / "checkpoint-1").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    assert done.stderr.count("stage 'instruct'") == 1
