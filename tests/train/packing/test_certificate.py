"""Packed equals unpacked, for every family of language models; and the certificate says no where it does not."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit import LlavaConfig, LlavaForConditionalGeneration, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.cli import main
from llavakit.train.batching import IGNORE_INDEX, Sample
from llavakit.train.packing import attention
from llavakit.train.packing.attention import CannotPack, check_packable
from llavakit.train.packing.certificate import _apart, _Compared, _distance, _most, certify
from llavakit.train.packing.laying_out import packed_batch
from llavakit.train.packing.pieces import Pieces
from llavakit.train.step.training_forward import training_forward

from ...cpu_training import CPU_SETTINGS
from ...modeling_llava.backbone_families import LANGUAGE

SIDE, IMAGE_TOKENS = 28, 4
NOT_BY_THE_INTERFACE = {"gpt2"}


@pytest.fixture(scope="module")
def processor(tiny_llava: str) -> Any:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture(scope="module")
def llava(tiny_llava: str) -> Any:
    return AutoModelForImageTextToText.from_pretrained(tiny_llava, stage="instruct", dtype=torch.float32)


def picture(seed: int) -> Image.Image:
    return Image.effect_noise((SIDE, SIDE), 20 + seed).convert("RGB")


@pytest.fixture(scope="module")
def samples(processor) -> list[Sample]:
    """Rows of unequal lengths: two about one picture, one about two pictures, one of text alone, one that asks first."""
    pictures = [picture(seed) for seed in range(4)]
    chance = random.Random(0)

    def words(number: int) -> list[int]:
        return [chance.randrange(10, 90) for _ in range(number)]

    def sample(ids: list[int], answers: list[int], shown: list[int]) -> Sample:
        supervised = torch.tensor([0] * len(ids) + [1] * len(answers), dtype=torch.bool)
        all_ids = torch.tensor(ids + answers)
        labels = all_ids.masked_fill(~supervised, IGNORE_INDEX)
        return Sample(all_ids, labels, [pictures[each] for each in shown], tuple(shown))

    image = [processor.image_token_id] * IMAGE_TOKENS
    begin = words(3)
    return [
        sample([*begin, *image, *words(4)], words(5), [0]),
        sample([*begin, *image, *words(9)], words(2), [0]),
        sample([*begin, *image], words(7), [0]),  # supervised from the first token behind the picture
        sample([*words(2), *image, *words(3), *image, 5], words(4), [1, 2]),
        sample(words(6), words(3), []),
        sample([*words(8), *image], words(1), [3]),
    ]


def of_family(model_type: str, processor: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"vocab_size": 400, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14, **sizes},
        text_config={"model_type": model_type, **text, **sizes, **LANGUAGE[model_type], **fields},
        image_token_index=processor.image_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.set_stage("instruct")
    return model


@pytest.mark.parametrize("model_type", LANGUAGE)
def test_every_family_is_certified_or_refused_by_name(model_type: str, processor, samples):
    model = of_family(model_type, processor)
    try:
        check_packable(model.model.language_model)
    except CannotPack as error:
        assert type(model.model.language_model).__name__ in str(error)
        assert model_type in {"gemma2"}
        return
    certificate = certify(model, processor, samples)
    assert certificate.holds, certificate
    assert len(certificate.findings) == 7
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_shared_picture_changes_no_gradient(llava, processor, samples):
    """It and its connector get the sum of what each row would give them. In float64 Llama's norms are still float32."""
    for dtype, most in ((torch.float32, 1e-6), (torch.float64, 1e-7)):
        model = copy.deepcopy(llava).eval().to(dtype)
        with training_forward(model):
            compared = _Compared(model, processor, torch.device("cpu"))
            shared = compared._gradients([samples])
            apart = compared._gradients([[_apart(sample) for sample in samples]])
        assert set(shared) == {"connector", "language model"}
        for part, gradients in shared.items():
            assert _distance(gradients, apart[part]) < most, (dtype, part)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_implementations_that_take_a_mask_agree(implementation: str, llava, processor, samples):
    assert certify(llava, processor, samples, attention=implementation).holds


def test_a_window_is_kept_to(processor, samples):
    model = of_family("mistral", processor, sliding_window=5)
    alone = of_family("mistral", processor, sliding_window=None)
    alone.load_state_dict(model.state_dict())
    certificate = certify(model, processor, samples)
    assert certificate.holds, certificate
    # The window changes what a row alone is, so that the certificate has seen it
    with training_forward(model), training_forward(alone), torch.no_grad():
        batch = packed_batch(samples[:1], pad_token_id=0, image_token_id=processor.image_token_id, **images(processor))
        inputs = {**batch, "use_cache": False, "fused_lm_head": True}
        assert not torch.allclose(model(**inputs).log_probs, alone(**inputs).log_probs, atol=1e-3)
    with torch.no_grad():
        direct = stock_log_probs(model, processor, samples[0])
        with training_forward(model):
            packed = model(**inputs).log_probs
    assert torch.allclose(direct, packed, atol=1e-5)
    refused = certify(model, processor, samples, attention="eager")
    assert not refused.holds and "longer than the window of 5" in str(refused.refusal)


def images(processor: Any) -> dict[str, Callable[..., Any]]:
    return {"process_images": processor.process_images}


def stock_log_probs(model: Any, processor: Any, sample: Sample) -> torch.Tensor:
    """Of the supervised tokens of one row, by the model's own forward with transformers' attention."""
    pixels = processor.process_images(sample.images) if sample.images else {}
    logits = model.eval()(input_ids=sample.input_ids[None], use_cache=False, **pixels).logits[0, :-1]
    targets = sample.labels[1:]
    supervised = targets != IGNORE_INDEX
    return logits.log_softmax(-1)[supervised].gather(1, targets[supervised, None])[:, 0]


def test_no_where_a_loss_is_no_number(llava, processor, samples):
    """Of one row among others, and not of the first."""
    broken_model = copy.deepcopy(llava)
    token = int(samples[-1].input_ids[3])
    assert not any((each.input_ids == token).any() for each in samples[:2])
    with torch.no_grad():
        broken_model.get_input_embeddings().weight[token] = float("nan")
    certificate = certify(broken_model, processor, samples)
    assert not certificate.holds
    assert certificate.findings[0].difference == float("inf")


def test_rows_of_text_alone_where_the_connector_alone_learns(tiny_llava: str, processor, samples):
    llava = AutoModelForImageTextToText.from_pretrained(tiny_llava, stage="align", dtype=torch.float32)
    text = [sample for sample in samples if not sample.images] * 2
    certificate = certify(llava, processor, text)
    assert certificate.holds and not any("gradients" in each.what for each in certificate.findings)


def test_a_pack_scores_as_transformers_does_row_by_row(llava, processor, samples):
    """The certificate compares our forward with itself; here it is that of the model."""
    with training_forward(llava.eval()), torch.no_grad():
        for sample in samples:
            batch = packed_batch(
                [sample], pad_token_id=0, image_token_id=processor.image_token_id, **images(processor)
            )
            packed = llava(**batch, use_cache=False, fused_lm_head=True)
            stock = stock_log_probs(llava, processor, sample)
            assert torch.allclose(packed.log_probs, stock, atol=1e-6)


def test_what_is_learnt_by_heart_differs_by_rounding_and_not_by_share():
    """Of a model after stage 1 (a row's loss 0.004 to 0.13) rounding was 9e-7 nats in float32, 2e-5 of a loss."""
    assert _most([2.2, 0.0044], [2.0, 0.004]) == pytest.approx(0.1)
    assert _most([2.0, 0.0044], [2.0, 0.004]) == pytest.approx(4e-4)
    assert _most([0.004, 0.9], [0.004, 0.1]) == pytest.approx(0.8), "a leak is no rounding"


# ---- what the certificate says no to ----


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Puts another attention in the place of the one for packs."""

    def replace(other: Callable[..., Any]) -> None:
        monkeypatch.setattr(
            attention.AttentionInterface, "_global_mapping", mapping | {attention.PACKED_ATTENTION: other}
        )

    mapping = attention.AttentionInterface._global_mapping
    yield replace


def causal(module, query, key, value, mask, dropout=0.0, scaling=None, pieces=None, **kwargs):
    """A pack as one text."""
    all_in_one = Pieces((pieces.num_tokens,), (None,))
    return attention.packed_attention(module, query, key, value, mask, dropout, scaling, all_in_one, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_where_rows_see_one_another_of_what_is_learnt_by_heart(processor, samples, broken, dtype):
    """Losses are next to nothing then, and compared in nats."""
    model = of_family("llama", processor)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    batch = packed_batch(samples, pad_token_id=0, image_token_id=processor.image_token_id, **images(processor))
    with training_forward(model):
        for _ in range(60):
            log_probs = model(**batch, use_cache=False, fused_lm_head=True).log_probs
            (-log_probs.mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert log_probs.min() > -0.05
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert certify(model, processor, samples).holds
        broken(causal)
        certificate = certify(model, processor, samples)
    refused = {finding.what for finding in certificate.findings if not finding.holds}
    assert "loss of every row, packed and alone" in refused
    assert "loss of every row when its pack is turned around" in refused


def test_no_where_rows_see_one_another(llava, processor, samples, broken):
    broken(causal)
    certificate = certify(llava, processor, samples)
    assert not certificate.holds
    worst = {finding.what: finding.difference for finding in certificate.findings if not finding.holds}
    assert (
        "loss of every row, packed and alone" in worst
        and "loss of a row when all others in its pack change" not in worst
    )
    assert "loss of every row when its pack is turned around" in worst


@pytest.mark.parametrize(
    ("trap", "said"),
    [
        ({"use_cache": None}, "needs use_cache=False"),
        ({"use_cache": True}, "needs use_cache=False"),
        ({"attention_mask": "ones"}, "came with an attention_mask"),
        ({"position_ids": None}, "without position_ids"),
        ({"cu_seq_lens_q": torch.tensor([0, 3], dtype=torch.int32)}, "came with cu_seq_lens_q besides its pieces"),
    ],
)
def test_a_trap_is_an_error(llava, processor, samples, trap: dict[str, Any], said: str):
    batch = packed_batch(samples, pad_token_id=0, image_token_id=processor.image_token_id, **images(processor))
    inputs = {**batch, "use_cache": False, **trap}
    if inputs.get("attention_mask") == "ones":
        inputs["attention_mask"] = torch.ones_like(batch["input_ids"])
    with training_forward(llava), pytest.raises(CannotPack, match=said):
        llava(**inputs, fused_lm_head=True)


def test_a_model_that_hands_nothing_on_is_refused(llava, processor, samples, broken):
    def deaf(module, query, key, value, mask, *rest, pieces=None, **kwargs):
        return attention.packed_attention(module, query, key, value, mask, *rest, **kwargs)

    broken(deaf)
    certificate = certify(llava, processor, samples)
    assert not certificate.holds and "hands nothing on" in str(certificate.refusal)

    def aside(module, query, key, value, mask, *rest, pieces=None, **kwargs):
        return attention.sdpa_attention_forward(module, query, key, value, mask, *rest, **kwargs)

    broken(aside)
    certificate = certify(llava, processor, samples)
    assert not certificate.holds and "0 of 2 layers" in str(certificate.refusal)


def test_other_implementations_are_refused(llava, processor, samples):
    batch = packed_batch(samples, pad_token_id=0, image_token_id=processor.image_token_id, **images(processor))
    with training_forward(llava):
        llava.model.language_model.config._attn_implementation = "flex_attention"
        with pytest.raises(CannotPack, match="'flex_attention': its rows would see one another"):
            llava(**batch, use_cache=False, fused_lm_head=True)


# ---- of a run, and of the command ----


def trainer_of(model: Any, rows: Any, folder: Path, **changes: Any) -> LlavaSFTTrainer:
    settings = {"per_device_train_batch_size": 4, "max_steps": 1, "save_strategy": "no", **CPU_SETTINGS, **changes}
    return LlavaSFTTrainer(model, LlavaSFTConfig(str(folder), **settings), train_dataset=load_conversations(rows))


@pytest.mark.slow
def test_a_run_certifies_itself_once(tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    trainer_of(tiny_llava, rows_file, tmp_path / "out").train()
    [kept] = (tmp_path / "llavakit-certificates").glob("*.json")
    assert json.loads(kept.read_text())["attention"] == attention.PACKED_ATTENTION
    assert "certified: packed rows train this model as they do alone" in caplog.text
    caplog.clear()
    trainer_of(tiny_llava, rows_file, tmp_path / "out").train()
    assert "certified" not in caplog.text
    trainer_of(tiny_llava, rows_file, tmp_path / "out", stage="align").train()
    assert "certified" in caplog.text and len(list(kept.parent.glob("*.json"))) == 2


def test_a_run_whose_certificate_says_no_pads_or_stops(
    tiny_llava: str, rows_file: Path, tmp_path: Path, monkeypatch, caplog, broken
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))

    def leaky(module, query, key, value, mask, dropout=0.0, scaling=None, pieces=None, **kwargs):
        if pieces is not None:
            pieces = Pieces((pieces.num_tokens,), (None,))
        return attention.packed_attention(module, query, key, value, mask, dropout, scaling, pieces, **kwargs)

    broken(leaky)
    with pytest.raises(CannotPack, match="do not train this model as they do alone: largest difference"):
        trainer_of(tiny_llava, rows_file, tmp_path / "out", padding_free=True).train()
    trainer = trainer_of(tiny_llava, rows_file, tmp_path / "out")
    trainer.train()
    assert "batches are padded from here on" in caplog.text and trainer.padding_free is False
    assert "attention_mask" in next(iter(trainer.get_train_dataloader()))
    assert not (tmp_path / "llavakit-certificates").exists()


@pytest.mark.slow
def test_the_command(tiny_llava: str, rows_file: Path, tmp_path: Path, capsys, broken):
    page = tmp_path / "certificate.json"
    assert main(["certify", tiny_llava, str(rows_file), "-o", str(page)]) == 0
    said = capsys.readouterr().out
    assert "Yes: packed rows train this model as they do alone." in said and "gradients of the connector" in said
    found = json.loads(page.read_text())
    assert found["holds"] and found["rows"] == 8 and found["dtype"] == "float32" and found["shared"] == 0
    rows = json.loads(rows_file.read_text())
    twice = [row for row in rows for _ in range(2)]
    rows_file.with_name("twice.json").write_text(json.dumps(twice))
    assert main(["certify", tiny_llava, str(rows_file.with_name("twice.json")), "-o", str(page)]) == 0
    assert json.loads(page.read_text())["shared"] > 0
    assert "of them shared, packed and alone" in capsys.readouterr().out
    assert main(["certify", tiny_llava, str(rows_file), "--attn_implementation", "eager", "--stage", "align"]) == 0
    assert "gradients of the language model" not in capsys.readouterr().out
    assert main(["certify", tiny_llava, str(rows_file), "--dtype", "bfloat16"]) == 0
    assert main(["certify", tiny_llava, str(rows_file), "--dtype", "int3"]) == 1
    assert "--dtype int3 is unknown" in capsys.readouterr().err

    def deaf(module, query, key, value, mask, *rest, pieces=None, **kwargs):
        return attention.packed_attention(module, query, key, value, mask, *rest, **kwargs)

    broken(deaf)
    capsys.readouterr()
    assert main(["certify", tiny_llava, str(rows_file)]) == 1
    assert "No: LlamaAttention hands nothing on to its attention" in capsys.readouterr().out
