"""Every flag of `llavakit sft` works or is refused by name, and none is taken and dropped."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from trl import ModelConfig, ScriptArguments, SFTConfig

from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.train import launch, sft
from llavakit.train.flags import FLAGS, FOREIGN_FLAGS, refuse_flags, refuse_idle_flags

STOCK = (ScriptArguments, SFTConfig, ModelConfig)
COMMON = ["--max_length", "512", "--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none"]
COMMON += ["--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no", "--logging_steps", "1"]


def fields() -> dict[str, dataclasses.Field]:
    return {field.name: field for stock in STOCK for field in dataclasses.fields(stock) if field.init}


def test_every_flag_of_the_installed_versions_is_known():
    """A new version's flag has to be looked at: it is added to the table as working, or refused with a remedy."""
    assert sorted(fields().keys() - FLAGS.keys()) == []


def other_value(name: str, field: dataclasses.Field):
    """A value that nobody leaves by accident."""
    chosen = {"completion_only_loss": False, "assistant_only_loss": False}
    return chosen.get(name, not field.default if isinstance(field.default, bool) else "something")


@pytest.mark.parametrize("name", sorted(name for name, flag in FLAGS.items() if flag.refused))
def test_refused_flags_are_refused_by_name(name: str, tmp_path: Path):
    field = fields().get(name)
    if field is None:
        pytest.skip("the installed versions have no such flag")
    value = other_value(name, field)
    config = next(stock for stock in STOCK if name in {known.name for known in dataclasses.fields(stock)})
    if config is not SFTConfig:
        with pytest.raises(ValueError, match=f"--{name} .* is refused: ..."):
            refuse_flags(config(**{name: value}), command=True)
    elif not FLAGS[name].command_only:
        with pytest.raises(ValueError, match=f"--{name} .* is refused: ..."):
            LlavaSFTConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})
    else:
        args = LlavaSFTConfig(output_dir=str(tmp_path), use_cpu=True)
        setattr(args, name, value)
        refuse_flags(args)
        with pytest.raises(ValueError, match=f"--{name} .* is refused: ..."):
            refuse_flags(args, command=True)


def test_defaults_are_never_refused(tmp_path: Path):
    args = LlavaSFTConfig(output_dir=str(tmp_path), use_cpu=True, eval_strategy="steps", eval_steps=1)
    for config in (sft.LlavaScriptArguments(), ModelConfig()):
        refuse_flags(config, command=True)
    refuse_flags(args, ["do_eval"], command=True)
    assert LlavaSFTConfig(output_dir=str(tmp_path), assistant_only_loss=True, eval_packing=False).stage == "instruct"
    assert LlavaSFTConfig.of(SFTConfig(str(tmp_path), use_cpu=True)).assistant_only_loss is None


def test_a_stock_config_with_a_refused_setting_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="--eval_packing True is refused"):
        LlavaSFTConfig.of(SFTConfig(str(tmp_path), use_cpu=True, eval_packing=True))


@pytest.mark.parametrize(
    ("given", "asking"),
    [
        ({"lora_r": 64}, "use_peft"),
        ({"lora_target_modules": ["q_proj"]}, "use_peft"),
        ({"use_dora": True}, "use_peft"),
        ({"bnb_4bit_quant_type": "fp4"}, "load_in_4bit"),
    ],
)
def test_a_flag_that_says_how_needs_the_one_that_asks(given: dict, asking: str):
    with pytest.raises(ValueError, match=f"--{next(iter(given))} .* does nothing without --{asking}: add that"):
        refuse_idle_flags(ModelConfig(**given))
    refuse_idle_flags(ModelConfig(**given, **{asking: True}))


@pytest.mark.parametrize("name", sorted(FOREIGN_FLAGS))
def test_flags_of_the_launchers_that_would_do_nothing(name: str, capsys: pytest.CaptureFixture, tmp_path: Path):
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"{name}: 1\noutput_dir: {tmp_path}\n")
    assert launch.main(["--config", str(settings)]) == 1
    assert f"--{name} is refused: " in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"--{name} is refused"):
        sft._parse(["--config", str(settings)])  # as torchrun starts it, past the launcher


def test_one_process_needs_no_backend(tmp_path: Path):
    assert LlavaSFTConfig(output_dir=str(tmp_path), use_cpu=True, ddp_backend="gloo").ddp_backend is None


def test_what_a_cpu_cannot_do_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no GPU"):
        LlavaSFTConfig(output_dir=str(tmp_path), use_cpu=True, activation_offloading=True)


def test_a_connectors_rate_that_no_optimizer_sees_is_refused(tiny_llava: str, rows_file: Path, tmp_path: Path):
    args = LlavaSFTConfig(str(tmp_path), use_cpu=True, report_to="none", connector_learning_rate=1e-2)
    own = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1e-3})}
    with pytest.raises(ValueError, match=r"connector_learning_rate=0.01 needs parameter groups"):
        LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file), **own)
    args = LlavaSFTConfig(str(tmp_path), use_cpu=True, report_to="none", model_init_kwargs={"stage": "align"})
    with pytest.raises(ValueError, match="--stage alone decides"):
        LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[LlavaSFTTrainer]:
    """Every trainer that is made in the test."""
    made: list[LlavaSFTTrainer] = []
    init = LlavaSFTTrainer.__init__

    def remembered(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(LlavaSFTTrainer, "__init__", remembered)
    return made


@pytest.mark.slow
def test_evaluation_is_on_rows_kept_back(tiny_llava: str, rows_file: Path, tmp_path: Path, trainers: list):
    def run(data: Path, *flags: str) -> tuple[set[str], set[str]]:
        argv = [*COMMON, "--model_name_or_path", tiny_llava, "--output_dir", str(tmp_path / "out"), *flags]
        sft._run([*argv, "--dataset_name", str(data), "--eval_strategy", "steps", "--eval_steps", "1"])
        return {*trainers[-1].train_dataset["id"]}, {*trainers[-1].eval_dataset["id"]}

    rows = json.loads(rows_file.read_text())
    with pytest.raises(ValueError, match=r"needs rows kept back.*--eval_dataset_name"):
        run(rows_file)
    with pytest.raises(ValueError, match="evaluation needs rows kept back"):
        run(rows_file, "--dataset_test_split", "train")

    folder = tmp_path / "folder"
    folder.mkdir()
    held_out = {row["id"] for row in rows[:4]}
    for name, part in (("test", rows[:4]), ("train", rows[4:])):
        (folder / f"{name}.json").write_text(json.dumps(part))
    images = ("--image_folder", str(tmp_path))
    train, test = run(folder, *images)
    assert test == held_out and not train & test and len(train) == 8
    train, test = run(folder / "train.json", *images, "--eval_dataset_name", str(folder / "test.json"))
    assert test == held_out and not train & test and len(train) == 8


@pytest.mark.slow
def test_rows_are_shuffled_when_asked(tiny_llava: str, rows_file: Path, tmp_path: Path, trainers: list):
    argv = [*COMMON, "--model_name_or_path", tiny_llava, "--output_dir", str(tmp_path / "out"), "--max_steps", "1"]
    orders = []
    for flags in ([], ["--shuffle_dataset", "true"], ["--shuffle_dataset", "true", "--seed", "1"]):
        sft._run([*argv, "--dataset_name", str(rows_file), "--train_sampling_strategy", "sequential", *flags])
        orders.append(tuple(trainers[-1].train_dataset["id"]))
    assert len({*orders}) == 3 and len({frozenset(order) for order in orders}) == 1


def test_a_template_in_a_file_is_what_is_trained_on(tiny_llava: str, rows_file: Path, tmp_path: Path, trainers: list):
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
        "{% for block in message.content %}{% if block.type == 'image' %}<image>{% else %}Q {{ block.text }} A {% endif %}"
        "{% endfor %}{% elif message.role == 'assistant' %}{% generation %}{% for block in message.content %}"
        "{{ block.text }}{% endfor %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    argv = [*COMMON, "--model_name_or_path", tiny_llava, "--output_dir", str(tmp_path / "out"), "--max_steps", "1"]
    sft._run([*argv, "--dataset_name", str(rows_file), "--chat_template", str(template)])
    trainer = trainers[-1]
    batch = trainer.data_collator([trainer.train_dataset[1]])
    assert "A a green cat</s>" in trainer.processing_class.tokenizer.decode(batch["input_ids"][0])
    assert "ASSISTANT" in trainer.processing_class.chat_template  # the checkpoint keeps its own
