"""Two processes that would decide otherwise on `--feature_cache auto` do what the first decides."""

from pathlib import Path

import pytest

from ..cpu_training import CPU_FLAGS
from ..warm_python import WarmPython

# Only one of the processes finds features worth keeping; what each makes of it, in a file named by its rank
SCRIPT = """
import os, sys
from pathlib import Path
import datasets
from llavakit.train import sft, sft_trainer
from llavakit.train.step import caching
here, rank = Path(__file__).parent, os.environ["LOCAL_RANK"]
datasets.config.HF_DATASETS_CACHE = here / "cache"
caching._is_worth_it = lambda *_: rank == WORTH
settled = sft_trainer.settle_feature_cache
def noting(*args, **kwargs):
    found = settled(*args, **kwargs)
    (here / rank).write_text("off" if found is None else "on")
    return found
sft_trainer.settle_feature_cache = noting
sys.exit(sft.run())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("worth_it_for", "chosen"), [("0", "on"), ("1", "off")])
def test_the_first_process_decides_for_all(
    warm_python: WarmPython, wide_llava: str, rows_file: Path, tmp_path: Path, worth_it_for: str, chosen: str
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("WORTH", repr(worth_it_for)))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command += ["--ddp_backend", "gloo", "--model_name_or_path", wide_llava, "--dataset_name", str(rows_file)]
    command += ["--output_dir", str(tmp_path / "out"), "--num_train_epochs", "2", "--save_strategy", "no"]
    done = warm_python.run([*command, "--per_device_train_batch_size", "3", *CPU_FLAGS])
    assert done.returncode == 0, done.stderr[-4000:]
    assert [(tmp_path / rank).read_text() for rank in "01"] == [chosen, chosen]
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    assert bool(kept) == (chosen == "on")
