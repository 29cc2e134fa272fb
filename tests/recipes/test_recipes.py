"""Each shipped recipe parses, and holds the paper's values."""

from pathlib import Path

import pytest

from llavakit.train.sft import make_parser

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"

# stage, epochs, learning rate, rows of a step: arXiv:2304.08485 (appendix), arXiv:2310.03744 (hyperparameters), the code of
# LLaVA-NeXT (scripts/train) and arXiv:2408.03326 (hyperparameters)
PAPERS = {
    "llava_v1_stage1_align": ("align", 1, 2e-3, 128),
    "llava_v1_stage2_instruct": ("instruct", 3, 2e-5, 32),
    "llava_v1_scienceqa": ("instruct", 12, 2e-5, 32),
    "llava_v1.5_stage1_align": ("align", 1, 1e-3, 256),
    "llava_v1.5_stage2_instruct": ("instruct", 1, 2e-5, 128),
    "llava_next_stage1_align": ("align", 1, 1e-3, 256),
    "llava_next_stage2_instruct": ("instruct", 1, 1e-5, 128),
    "llava_onevision_stage2_instruct": ("instruct", 1, 1e-5, 256),
}
MAX_LENGTHS = {"llava_next": 4096, "llava_onevision": 32768}  # 2048 in the others
PLAIN = ("llava_v1.5_stage1_align", "llava_next_stage1_align")  # stage 1 with the template of that name
BY_MODALITY = ("llava_v1.5_stage2_instruct", "llava_next_stage2_instruct", "llava_onevision_stage2_instruct")
DEVICES = 8


def test_every_recipe_is_checked():
    assert {path.stem for path in RECIPES.iterdir()} == set(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_has_the_papers_values(name: str, tmp_path: Path):
    arguments = ["--config", str(RECIPES / f"{name}.yaml"), "--output_dir", str(tmp_path), "--use_cpu"]
    script, training, model = make_parser().parse_args_and_config(arguments)  # refuses unknown keys
    stage, epochs, learning_rate, rows = PAPERS[name]
    assert training.stage == stage
    assert training.num_train_epochs == epochs
    assert training.learning_rate == learning_rate
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps * DEVICES == rows
    assert training.optim == "adamw_torch" and training.weight_decay == 0
    assert training.lr_scheduler_type == "cosine" and training.get_warmup_steps(1000) == 30
    assert (
        training.max_length == MAX_LENGTHS.get(name.partition("_stage")[0], 2048)
        and training.bf16
        and model.dtype == "float32"
    )  # weights that learn; autocast computes in bf16
    assert training.chat_template == ("plain" if name in PLAIN else None)
    assert training.group_by_modality_length == (name in BY_MODALITY)
    assert script.dataset_name and model.model_name_or_path
