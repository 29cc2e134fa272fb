"""What a plan reckons, against what is counted and measured."""

import copy
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoProcessor, CLIPVisionConfig, Dinov2Config, LlamaConfig

from llavakit import LlavaCollator, LlavaConfig, load_conversations
from llavakit.bench import material
from llavakit.bench.apart import run_apart
from llavakit.bench.arms import ARMS, Task
from llavakit.bench.bench import _work
from llavakit.bench.material import write_material
from llavakit.bench.planned import planned_peak
from llavakit.bench.presets import PRESETS
from llavakit.checkpoints.loading import load_model
from llavakit.cli import main
from llavakit.train.packing.attention import PACKED_ATTENTION
from llavakit.train.packing.pieces import Pieces
from llavakit.train.plan import MACHINES
from llavakit.train.plan.activations import bytes_a_token
from llavakit.train.plan.command import machine_of
from llavakit.train.plan.estimate import Rows, Settings, make_plan
from llavakit.train.plan.flops import StepWork, heard_layers, step_flops, tower_flops
from llavakit.train.plan.machines import Machine
from llavakit.train.plan.memory import PROCESS, Load, sizes_of
from llavakit.train.plan.seconds import AROUND, StepTime, bytes_moved
from llavakit.train.step.frozen_vision import heard_layers_alone
from llavakit.train.step.training_forward import training_forward


@pytest.fixture(scope="module")
def config(tiny_llava: str):
    return AutoConfig.from_pretrained(tiny_llava)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_parameters_are_counted_as_they_are(tiny_llava: str, config, stage: str):
    llava = load_model(tiny_llava)
    llava.set_stage(stage)
    sizes = sizes_of(config, stage)
    assert sizes.vision + sizes.connector + sizes.language == llava.num_parameters()
    assert sizes.learning == sum(each.numel() for each in llava.parameters() if each.requires_grad)


@pytest.mark.parametrize("layers", [2, 5])
def test_activations_are_those_that_a_model_keeps(config, layers: int):
    """On real tensors, of more tokens and layers than the plan looks at."""
    text = type(config.text_config).from_dict({**config.text_config.to_dict(), "num_hidden_layers": layers})
    from transformers import AutoModel

    model = AutoModel.from_config(text).eval()
    model.set_attn_implementation(PACKED_ATTENTION)
    weights = {each.untyped_storage()._cdata for each in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    states, pieces = torch.randn(1, 640, text.hidden_size, requires_grad=True), Pieces((400, 240), (None, None))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs_embeds=states, position_ids=pieces.position_ids()[None], use_cache=False, pieces=pieces)
    found = sum(storage.nbytes() for storage in kept.values()) / 640
    assert bytes_a_token(text) == pytest.approx(found, rel=0.05)
    assert bytes_a_token(text, checkpointing=True) < found


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_operations_are_those_that_torch_counts(tiny_llava: str, rows_file: Path, config, stage: str):
    """But for attention's scores, of which torch counts those behind a token too, and twice more on the way back."""
    llava = load_model(tiny_llava, dtype=torch.float32)
    llava.set_stage(stage)
    collator = LlavaCollator(AutoProcessor.from_pretrained(tiny_llava), padding_free=True)
    batch = collator(list(load_conversations(rows_file).select([0, 1, 2, 3])))
    with heard_layers_alone(llava), training_forward(llava.train()), FlopCounterMode(display=False) as counter:
        (-llava(**batch, use_cache=False, fused_lm_head=True).log_probs.sum()).backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(
        number for name, number in counts.items() if "attention" not in str(name) and "bmm" not in str(name)
    )
    lengths = list(batch["pieces"].lengths)
    supervised = int((batch["labels"] != -100).sum())
    work = StepWork(lengths, supervised, len(batch["pixel_values"]))
    text = config.text_config
    between = 6 * sum(length**2 for length in lengths) * text.hidden_size * text.num_hidden_layers
    assert step_flops(config, stage, work) - between == pytest.approx(products, rel=0.02)


ROWS = Rows([100, 200, 300, 600], supervised=80.0, views=1.0, shared=0.25, number=1000)


@pytest.mark.slow
def test_a_plan_adds_up(config):
    plan = make_plan(config, ROWS, MACHINES["h100"], Settings(epochs=3, price=2.5, devices=2))
    memory = plan.memory
    assert memory.total == pytest.approx(memory.fixed + memory.of_rows) and plan.fits
    assert plan.seconds == pytest.approx((plan.flops / 989e12 + plan.moved / 3350e9) / 0.4, abs=0.03)
    assert plan.hours == pytest.approx(1000 * 3 / (8 * 2) * plan.seconds / 3600)
    assert plan.cost == pytest.approx(plan.hours * 2 * 2.5)
    assert "25% of all tokens saved" in plan.measures.values()
    largest = make_plan(config, ROWS, MACHINES["h100"], Settings(batch_size=plan.largest_batch))
    assert largest.fits
    assert not make_plan(config, ROWS, MACHINES["h100"], Settings(batch_size=int(plan.largest_batch * 1.1))).fits


def test_what_is_saved(config):
    machine, plain = Machine(24, 0.01, 1), Settings()  # so slow that its host is never waited for
    base = make_plan(config, ROWS, machine, plain)
    checkpointed = make_plan(config, ROWS, machine, Settings(checkpointing=True))
    assert checkpointed.memory.activations < base.memory.activations and checkpointed.seconds > base.seconds
    adapters = make_plan(config, ROWS, machine, Settings(lora_rank=4))
    assert adapters.memory.optimizer < base.memory.optimizer and adapters.seconds < base.seconds
    sharded = make_plan(config, ROWS, machine, Settings(devices=4, sharded=True))
    assert sharded.memory.fixed - PROCESS["cuda"] == pytest.approx((base.memory.fixed - PROCESS["cuda"]) / 4)
    assert make_plan(config, ROWS, machine, Settings(stage="align")).memory.optimizer < base.memory.optimizer
    assert 0.3 < ROWS.padding(8) < 0.6 and ROWS.padding(1) == 0


def test_a_step_is_what_is_computed_what_is_moved_and_what_is_around():
    step, slow = StepTime(flops=4e12, moved=2e9, layers=10), Machine(1, 2, 1, layer_seconds=0.1, host_runs_ahead=False)
    assert step.at_best(slow) == pytest.approx(2 + 2)
    assert step.on_host(slow) == pytest.approx(1 + AROUND)
    assert step.seconds(slow, 0.5) == pytest.approx(8 + 1 + AROUND)
    assert step.utilization(slow, step.seconds(slow, 0.7)) == pytest.approx(0.7)
    assert step.utilization(slow, 1.0) == 1  # of next to nothing, the host's part alone
    ahead = replace(slow, host_runs_ahead=True)
    assert step.seconds(ahead, 0.5) == pytest.approx(8) and step.utilization(ahead, 8) == pytest.approx(0.5)
    assert replace(step, layers=1000).seconds(ahead, 0.5) == pytest.approx(100 + AROUND)  # small kernels wait for it
    assert replace(step, pictures=3.0).seconds(slow, 1.0) == pytest.approx(4 + 1 + AROUND + 3)


def test_what_is_moved(config):
    """More where more learns, is supervised, or is computed twice; half the bytes of activations in half precision."""

    def moved(stage: str = "instruct", **given: Any) -> float:
        step = {"tokens": 1000, "supervised": 100, "views": 4, "half": False}
        return bytes_moved(config, sizes_of(config, stage), Load(**{**step, **given}))

    text, sizes = config.text_config, sizes_of(config, "instruct")
    learning = sizes_of(config, "instruct").learning - sizes_of(config, "align").learning
    assert moved() - moved("align") == pytest.approx(11 * 4 * learning)
    assert moved(supervised=101) - moved() == pytest.approx(15 * 4 * text.vocab_size)
    assert moved(tokens=1001) - moved() == pytest.approx(5 * bytes_a_token(text))
    assert moved(checkpointing=True) - moved() == pytest.approx(2 * 1000 * bytes_a_token(text) + 4 * sizes.language)
    halves = moved(tokens=1001, half=True) - moved(half=True)
    assert halves == pytest.approx(5 * bytes_a_token(text, torch.bfloat16)) and halves < 3.2 * bytes_a_token(text)


# Rows, text of one, its supervised part, rows a device; and the hours of LLaVA-1.5's 7B on eight A100s, by its README
PUBLISHED = {"align": (558_128, 25, 18, 32, 3.5), "instruct": (665_298, 330, 190, 16, 10.0)}


@pytest.mark.parametrize("stage", PUBLISHED)
def test_hours_of_llava_7b_are_those_that_were_published(stage: str):
    number, text, supervised, size, hours = PUBLISHED[stage]
    preset = PRESETS["7b-336"]
    vision, language = CLIPVisionConfig(**preset.vision), LlamaConfig(**preset.language)
    llava = LlavaConfig(vision_config=vision, text_config=language, projector_type="mlp2x_gelu")
    rows = Rows([llava.num_image_tokens + text], supervised, views=1.0, number=number)
    settings = Settings(stage, size, checkpointing=True, devices=8, sharded=stage == "instruct")
    plan = make_plan(llava, rows, MACHINES["a100-80gb"], settings)
    assert plan.fits and plan.hours == pytest.approx(hours, rel=0.33)


@pytest.mark.slow
def test_the_peak_is_the_one_that_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the benchmark's model, in a process of its own. What glibc does not give back comes on top, and differs from run to
    run, so that the least of two counts."""
    monkeypatch.setattr(material, "NUM_ROWS", 64)
    write_material(tmp_path, PRESETS["tiny-cpu"])
    for stage in ("align", "instruct"):
        task = Task(tmp_path, PRESETS["tiny-cpu"], stage, 3, tmp_path / "out")
        trainer = ARMS["llavakit"].make(task)
        planned = planned_peak(trainer, stage, _work(trainer, range(3)))
        peaks = (run_apart(tmp_path, "tiny-cpu", stage, "llavakit", 3)["peak"] for _ in range(2))
        assert min(peaks) == pytest.approx(planned, rel=0.15)


def test_the_command(tiny_llava: str, rows_file: Path, tmp_path: Path, capsys):
    page = tmp_path / "plan.json"
    assert main(["plan", tiny_llava, str(rows_file), "--price", "2", "-o", str(page)]) == 0
    said = capsys.readouterr().out
    assert "Stage instruct, 8 rows of" in said and "in money for 12 rows, 1 epochs" in said
    assert "no padding" in said and "shared pictures (--packing true)" in said
    assert json.loads(page.read_text())["fits"]
    assert main(["plan", tiny_llava, "--machine", "0.0001:1:1"]) == 1
    assert "It does not fit; at most 0 rows a step do" in capsys.readouterr().out
    assert main(["plan", tiny_llava, "--machine", "abacus"]) == 1
    assert "abacus" in capsys.readouterr().err
    assert main(["plan", tiny_llava, "--machine", "24:fast"]) == 1
    assert "give memory in GB, TFLOP/s and GB/s" in capsys.readouterr().err


def test_the_page_s_command(tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "speed.md").read_text()
    [block] = re.findall(r"^```bash plan\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(rows_file.parent)
    Path("llava").symlink_to(tiny_llava)
    Path("images").symlink_to(rows_file.parent)
    Path("train.json").symlink_to(rows_file)
    assert main(shlex.split(block.replace("\\\n", " "))[1:]) == 0
    assert "8 h100" in capsys.readouterr().out


def test_a_machine_by_its_figures():
    assert machine_of("24:165:1008") == Machine(24, 165, 1008)
    assert machine_of("24:165") == Machine(24, 165, math.inf)  # what is moved takes no time
    for wrong in ("24:", "24:165:1008:2", "24:fast"):
        with pytest.raises(ValueError, match="such as 24:165:1008"):
            machine_of(wrong)


def test_features_of_several_layers_take_as_much_as_those_of_the_last(config):
    vision = config.vision_config
    assert heard_layers(vision, [-2, -4]) == heard_layers(vision, -2) == vision.num_hidden_layers - 1
    assert heard_layers(vision, [0, 1]) == 1
    config, flops = copy.deepcopy(config), {}
    for layers in (-2, -3, [-4, -2]):
        config.vision_feature_layer = layers
        flops[str(layers)] = tower_flops(config)
    assert flops["[-4, -2]"] == flops["-2"] > flops["-3"]


def test_a_tower_that_interpolates_its_positions_is_counted_as_it_sees():
    """DINOv2: made for 518 pixels, shown 224; its inner layer is given as a ratio."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
    tower = Dinov2Config(**sizes, image_size=518, mlp_ratio=4)
    llava = LlavaConfig(vision_config=tower, text_config=LlamaConfig(), view_size=(224, 224))
    clip = CLIPVisionConfig(**sizes, image_size=224, intermediate_size=4 * 384)
    assert tower_flops(llava) == tower_flops(LlavaConfig(vision_config=clip, text_config=LlamaConfig()))
