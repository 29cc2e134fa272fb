"""`--expected_trainable`: a run whose recipe says how much learns stops where it is otherwise."""

from pathlib import Path

import pytest

from llavakit import LlavaSFTTrainer, load_conversations
from llavakit.train.expected_shares import check_shares, parse_expected
from llavakit.train.sft_config import LlavaSFTConfig
from llavakit.train.stages import PartSize

from ..cpu_training import CPU_SETTINGS

# 4.53 % of the language model, as LoRA of rank 128 on a Llama of 7B
SIZES = [
    PartSize("vision tower", 0, 303_507_456),
    PartSize("connector", 20_979_712, 20_979_712),
    PartSize("language model", 319_815_680, 7_058_231_296, adapters=True),
]


@pytest.mark.parametrize("said", ["4.5%", "5%", "4.53%", "4.531%", "319815680", "319_815_680"])
def test_as_many_digits_as_are_written_count(said: str):
    check_shares(SIZES, ["connector=100%", f"language_model={said}"])


@pytest.mark.parametrize("said", ["4.6%", "4%", "4.54%", "100%", "319815681", "0%"])
def test_another_share_stops_the_run(said: str):
    with pytest.raises(
        ValueError, match=rf"language model: expected_trainable says language_model={said}, and 319,815,680"
    ):
        check_shares(SIZES, ["connector=100%", f"language_model={said}"])


def test_a_part_that_is_not_named_is_frozen():
    with pytest.raises(
        ValueError, match=r"connector: expected_trainable does not name it: it is frozen, and 20,979,712"
    ):
        check_shares(SIZES, ["language_model=4.5%"])
    check_shares(SIZES, ["language_model=4.5%", "connector=100%", "vision_tower=0%"])


@pytest.mark.parametrize(
    "value",
    ["4.5%", "language model=4.5%", "head=1%", "connector=", "connector=1.5", "connector=-1%", "connector=all"],
)
def test_what_cannot_be_read_is_refused_at_once(value: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"expected_trainable=.*write PART=PERCENT% or PART=PARAMETERS"):
        LlavaSFTConfig(output_dir=str(tmp_path), expected_trainable=[value], **CPU_SETTINGS)
    with pytest.raises(ValueError, match="expected_trainable names connector twice"):
        parse_expected(["connector=1%", "connector=2%"])


def test_the_run_stops_before_its_rows_are_read(tiny_llava: str, rows_file: Path, tmp_path: Path):
    said = ["connector=100%", "language_model=1%"]
    args = LlavaSFTConfig(output_dir=str(tmp_path / "out"), expected_trainable=said, **CPU_SETTINGS)
    with pytest.raises(ValueError, match=r"language_model=1%.*\(100\.0000%\) would learn\. Nothing was trained"):
        LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    assert not (tmp_path / "out").exists()
