"""What holds for every connector: batches, beams, caches, compilation, stages, and the way to disk and back."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from llavakit.modeling_llava.connectors import CONNECTORS

from ..warm_python import WITHOUT_LLAVAKIT

# Those that are not one token a patch, each of 4 tokens or fewer for a view of 16 patches
VARIANTS = {
    "linear, pooled": {"projector_type": "linear", "projector_options": {"pooled_tokens": 4}},
    "mlp3x_gelu, pooled": {"projector_type": "mlp3x_gelu", "projector_options": {"pooled_tokens": [1, 3]}},
    "linear, pooled behind the class token": {
        "projector_type": "linear",
        "projector_options": {"pooled_tokens": 1},
        "vision_feature_select_strategy": "full",
    },
    "resampler": {"projector_type": "resampler", "projector_options": {"num_queries": 4, "num_heads": 2}},
    "perceiver": {"projector_type": "perceiver", "projector_options": {"num_latents": 3, "num_heads": 4}},
    "perceiver, attended to": {
        "projector_type": "perceiver",
        "image_fusion": "attend",
        "projector_options": {"num_latents": 3, "num_layers": 2, "num_heads": 4, "cross_attention_every": 2},
    },
    "qformer": {
        "projector_type": "qformer",
        "projector_options": {
            "num_queries": 3,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "hidden_size": 16,
        },
    },
}


@pytest.fixture(params=VARIANTS)
def model(request, tiny_model):
    model = tiny_model(vision={"patch_size": 7}, **VARIANTS[request.param])
    with torch.no_grad():  # pictures are to change the text
        for name, weight in model.model.multi_modal_projector.named_parameters():
            weight.mul_(1 if weight.ndim < 2 else 4)
            weight.add_(0.7 if name.endswith("_gate") else 0)  # shut at first
    return model


def samples_of(batch, images):
    """Each sample alone and without its padding."""
    first = [sum(images[:sample]) for sample in range(len(images) + 1)]
    for sample, mask in enumerate(batch["attention_mask"].bool()):
        alone = {name: batch[name][sample : sample + 1, mask] for name in ("input_ids", "attention_mask")}
        if images[sample]:
            alone["pixel_values"] = batch["pixel_values"][first[sample] : first[sample + 1]]
        yield alone


def padded_right(batch):
    """A batch that is padded on the left, padded on the right."""
    rolled = dict(batch)
    for name in ("input_ids", "attention_mask"):
        shifts = (batch["attention_mask"] == 0).sum(1).tolist()
        rolled[name] = torch.stack([row.roll(-shift) for row, shift in zip(batch[name], shifts, strict=True)])
    return rolled


def continuation(model, batch, **options):
    options = {"max_new_tokens": 8, "do_sample": False, **options}
    return model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]


def test_a_batch_is_its_samples(model, inputs):
    images = [1, 0, 2]
    batch = inputs(model.config, images=images)
    alone = list(samples_of(batch, images))
    with torch.no_grad():
        for together in (batch, padded_right(batch)):
            scores = model(**together).logits
            for row, mask, sample in zip(scores, together["attention_mask"].bool(), alone, strict=True):
                torch.testing.assert_close(row[mask], model(**sample).logits[0], rtol=1e-4, atol=1e-4)
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        texts = continuation(model, batch, **options)
        assert torch.equal(texts, torch.cat([continuation(model, sample, **options) for sample in alone]))


@pytest.mark.slow
def test_caches_and_compilation_change_nothing(model, inputs):
    batch = inputs(model.config, images=[1, 2])
    expected = continuation(model, batch, use_cache=False)
    for cache in ("dynamic", "static"):
        assert torch.equal(continuation(model, batch, cache_implementation=cache), expected)
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    with torch.no_grad():
        scores = model(**batch).logits
        assert not torch.allclose(model(**other).logits, scores, atol=1e-3)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)(**batch).logits
    torch.testing.assert_close(compiled, scores)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_all_of_it_learns_and_what_is_frozen_stays(model, inputs, stage):
    model.set_stage(stage)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in before if "multi_modal_projector" in name} <= learning
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for images in ([1, 2], [0, 0], [2, 1]):  # a step on text alone touches all of it too
        batch = inputs(model.config, images=images)
        model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == learning


def test_gradient_checkpointing_changes_no_gradient(model, inputs):
    model.set_stage("align")
    model.train()
    batch = inputs(model.config, images=[1, 2])
    gradients = []
    for enable in (lambda: None, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        torch.manual_seed(0)  # of dropout, where a connector has it
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.model.multi_modal_projector.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


LOADED_ELSEWHERE = """
import sys, torch
try:
    import llavakit
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("llavakit can be imported here, so that this shows nothing")
from transformers import AutoModelForImageTextToText

folder = sys.argv[1]
expected = torch.load(f"{folder}/expected.pt")
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules.")
with torch.no_grad():
    assert torch.equal(model(**expected["inputs"]).logits, expected["logits"])
assert torch.equal(model.generate(**expected["inputs"], max_new_tokens=8, do_sample=False), expected["text"])
"""


def test_what_was_saved_comes_back(model, inputs, tmp_path):
    batch = inputs(model.config, images=[1, 2])
    model.save_pretrained(tmp_path / "float32")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "float32").eval()
    half = AutoModelForImageTextToText.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16).eval()
    half.save_pretrained(tmp_path / "bfloat16")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "bfloat16").eval()
    assert (loaded.dtype, again.dtype) == (torch.float32, torch.bfloat16)
    with torch.no_grad():
        for one, other in ((model, loaded), (half, again)):
            assert torch.equal(one(**batch).logits, other(**batch).logits)


@pytest.mark.slow
def test_the_code_beside_the_weights_stands_alone(model, inputs, tmp_path, warm_python):
    batch = inputs(model.config, images=[1, 2])
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    with torch.no_grad():
        expected = {"inputs": batch, "logits": model(**batch).logits}
    expected["text"] = model.generate(**batch, max_new_tokens=8, do_sample=False)
    torch.save(expected, folder / "expected.pt")
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + LOADED_ELSEWHERE, str(folder)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_variants_are_connectors():
    assert {fields["projector_type"] for fields in VARIANTS.values()} <= CONNECTORS.keys()
