"""Each shipped recipe parses, and holds the paper's values."""

from pathlib import Path

import pytest

from llavakit.train.sft import make_parser

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"

# stage, epochs, learning rate, rows of a step: arXiv:2304.08485 (appendix), arXiv:2310.03744 (hyperparameters), the code of
# LLaVA-NeXT (scripts/train), arXiv:2408.03326 (hyperparameters), and the code of InternVL 2.5 (shell/internvl2.5)
PAPERS = {
    "llava_v1_stage1_align": ("align", 1, 2e-3, 128),
    "llava_v1_stage2_instruct": ("instruct", 3, 2e-5, 32),
    "llava_v1_scienceqa": ("instruct", 12, 2e-5, 32),
    "llava_v1.5_stage1_align": ("align", 1, 1e-3, 256),
    "llava_v1.5_stage2_instruct": ("instruct", 1, 2e-5, 128),
    "llava_v1.5_lora_stage2_instruct": ("instruct", 1, 2e-4, 128),
    "llava_next_stage1_align": ("align", 1, 1e-3, 256),
    "llava_next_stage2_joint": ("joint", 1, 1e-5, 128),
    "llava_onevision_stage2_joint": ("joint", 1, 1e-5, 256),
    "internvl2.5_stage1_align": ("align", 1, 2e-4, 512),
    "internvl2.5_stage1.5_align_vision": ("align_vision", 1, 1e-5, 1024),
    "internvl2.5_stage2_joint": ("joint", 1, 4e-5, 512),
    "llava_native_stage1_align": ("align", 1, 1e-3, 256),  # of LLaVA-1.5
    "llava_native_stage2_instruct": ("instruct", 1, 2e-5, 128),
}
LORA = "llava_v1.5_lora_stage2_instruct"
MAX_LENGTHS = {"llava_next": 4096, "llava_onevision": 32768, "internvl2.5": 16384}  # 2048 in the others
WEIGHT_DECAYS = {  # none in the others
    "internvl2.5_stage1_align": 0.01,
    "internvl2.5_stage1.5_align_vision": 0.05,
    "internvl2.5_stage2_joint": 0.01,
}
WARMUPS = {
    "internvl2.5_stage1_align": 100,
    "internvl2.5_stage1.5_align_vision": 100,
}  # steps of 1,000; 3% in the others
VISION_RATES = {"llava_next_stage2_joint": 2e-6, "llava_onevision_stage2_joint": 2e-6}  # that of all in the others
# Stage 1 with the template of that name
PLAIN = ("llava_v1.5_stage1_align", "llava_next_stage1_align", "llava_native_stage1_align")
BY_MODALITY = (
    *("llava_v1.5_stage2_instruct", "llava_next_stage2_joint", "llava_onevision_stage2_joint"),
    *("llava_native_stage2_instruct", LORA),
)
# stage, steps, learning rate and the least of it, steps of warmup, rows of a step, tokens of a row: arXiv:2308.12966 (table of
# hyperparameters) and arXiv:2301.12597 (section 3.4)
PAPERS_IN_STEPS = {
    "qwen_vl_stage1_pretrain": ("align_vision", 50_000, 2e-4, 1e-6, 500, 30_720, 512),
    "qwen_vl_stage2_multitask": ("joint", 19_000, 5e-5, 1e-5, 400, 4_096, 2_048),
    "qwen_vl_stage3_instruct": ("instruct", 8_000, 1e-5, 1e-6, 3_000, 128, 2_048),
    "blip_2_stage2_align": ("align", 80_000, 1e-4, 5e-5, 2_000, 1_920, 512),
}
FLAMINGO = "flamingo_stage1_align"
DEVICES = 8


def test_every_recipe_is_checked():
    assert {path.stem for path in RECIPES.iterdir()} == PAPERS.keys() | PAPERS_IN_STEPS.keys() | {FLAMINGO}


def parsed(name: str, output_dir: Path) -> tuple:
    arguments = ["--config", str(RECIPES / f"{name}.yaml"), "--output_dir", str(output_dir), "--use_cpu"]
    return make_parser().parse_args_and_config(arguments)  # refuses unknown keys


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_has_the_papers_values(name: str, tmp_path: Path):
    script, training, model = parsed(name, tmp_path)
    stage, epochs, learning_rate, rows = PAPERS[name]
    assert training.stage == stage
    assert training.num_train_epochs == epochs
    assert training.learning_rate == learning_rate
    assert training.vision_learning_rate == VISION_RATES.get(name)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps * DEVICES == rows
    assert training.optim == "adamw_torch" and training.weight_decay == WEIGHT_DECAYS.get(name, 0)
    assert training.lr_scheduler_type == "cosine" and training.get_warmup_steps(1000) == WARMUPS.get(name, 30)
    assert (
        training.max_length == MAX_LENGTHS.get(name.partition("_stage")[0], 2048)
        and training.bf16
        and model.dtype == "float32"
    )  # weights that learn; autocast computes in bf16
    assert training.chat_template == ("plain" if name in PLAIN else None)
    assert training.group_by_modality_length == (name in BY_MODALITY)
    assert script.dataset_name and model.model_name_or_path


@pytest.mark.parametrize("name", PAPERS_IN_STEPS)
def test_recipe_in_steps_has_the_papers_values(name: str, tmp_path: Path):
    script, training, model = parsed(name, tmp_path)
    stage, steps, learning_rate, least, warmup, rows, tokens = PAPERS_IN_STEPS[name]
    assert (training.stage, training.max_steps, training.learning_rate) == (stage, steps, learning_rate)
    assert training.lr_scheduler_type == "cosine_with_min_lr" and training.lr_scheduler_kwargs == {"min_lr": least}
    assert training.get_warmup_steps(steps) == warmup and training.max_length == tokens
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps * DEVICES == rows
    assert training.optim == "adamw_torch" and training.weight_decay == 0.05 and training.adam_beta2 == 0.98
    assert training.adam_epsilon == (1e-6 if "qwen" in name else 1e-8) and training.max_grad_norm == 1
    assert training.vision_layer_decay == (0.95 if stage in ("align_vision", "joint") else None)
    assert training.bf16 and model.dtype == "float32"
    assert script.dataset_name and model.model_name_or_path


def test_flamingos_recipe_has_the_papers_values(tmp_path: Path):
    """arXiv:2204.14198, section 3.2 and appendix B.1.2: a rate that is constant after 5,000 steps."""
    script, training, model = parsed(FLAMINGO, tmp_path)
    assert (training.stage, training.learning_rate, training.weight_decay) == ("align", 1e-4, 0.1)
    assert training.lr_scheduler_type == "constant_with_warmup" and training.get_warmup_steps(500_000) == 5_000
    assert training.max_length == 256 and training.max_grad_norm == 1 and training.optim == "adamw_torch"
    assert training.bf16 and model.dtype == "float32"
    assert script.dataset_name and model.model_name_or_path


def test_the_recipe_with_lora_has_the_released_values(tmp_path: Path):
    """scripts/v1_5/finetune_lora.sh of the original code, and the defaults of its train.py."""
    _, training, model = parsed(LORA, tmp_path)
    assert model.use_peft and (model.lora_r, model.lora_alpha, model.lora_dropout) == (128, 256, 0.05)
    assert training.connector_learning_rate == 2e-5 and not training.lora_vision_tower


def test_the_share_that_the_recipe_with_lora_expects_is_that_of_vicuna_7b(tmp_path: Path):
    """Of the sizes of LLaVA-1.5-7B, without its weights; with all of the language model learning, it would stop."""
    import torch
    from trl import get_peft_config

    from llavakit import LlavaConfig, LlavaForConditionalGeneration
    from llavakit.train.adapters import ready_to_learn
    from llavakit.train.expected_shares import check_shares
    from llavakit.train.stages import part_sizes

    _, training, model_args = parsed(LORA, tmp_path)
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **tower, "image_size": 336, "patch_size": 14},
        text_config={"model_type": "llama", **sizes, "vocab_size": 32064},
        image_token_index=32000,
        projector_type="mlp2x_gelu",
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
        whole = part_sizes(llava)
        learner = ready_to_learn(llava, get_peft_config(model_args), training)
    counted = {size.part: size.trainable for size in part_sizes(learner)}
    assert counted == {"vision tower": 0, "connector": 20_979_712, "language model": 319_815_680}
    check_shares(part_sizes(learner), training.expected_trainable)
    with pytest.raises(ValueError, match="expected_trainable"):
        check_shares(whole, training.expected_trainable)
