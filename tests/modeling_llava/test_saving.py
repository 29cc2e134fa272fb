"""What was saved comes back, bit for bit: with llavakit, and by the code beside the weights where there is none."""

import ast
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from llavakit import LlavaConfig, LlavaForConditionalGeneration, LlavaModel

from ..warm_python import WITHOUT_LLAVAKIT

REMOTE = """
import importlib.util, sys, torch
assert importlib.util.find_spec("torch") is not None
try:
    import llavakit
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("llavakit can be imported here, so that this shows nothing")
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

folder, again = sys.argv[1:]
batch = torch.load(f"{folder}/batch.pt")
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert type(config).__name__ == "LlavaConfig" and "llavakit" not in type(config).__module__
assert config.num_image_tokens == batch["num_image_tokens"]

model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, stage="align")
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert not hasattr(model, "from_backbones")  # nor anything else that only a builder needs
learning = [name for name, p in model.named_parameters() if p.requires_grad]
assert learning and all("multi_modal_projector" in name for name in learning), learning
model.train()
assert not model.model.vision_tower.training
model.eval()
with torch.no_grad():
    assert torch.equal(model(**batch["inputs"]).logits, batch["logits"])
assert torch.equal(model.generate(**batch["inputs"], max_new_tokens=8, do_sample=False), batch["text"])

body = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(body).__name__ == "LlavaModel"
with torch.no_grad():
    assert torch.equal(body(**batch["inputs"]).last_hidden_state, batch["hidden"])

model.save_pretrained(again)  # a fine-tuned copy brings its code along
"""


# The fields of configs whose code lies in other files
MODELS = {
    "mlp": {"projector_type": "mlp2x_gelu", "vision_feature_layer": [-1, -2]},
    "attending": {
        "projector_type": "perceiver",
        "image_fusion": "attend",
        "projector_options": {"num_latents": 3, "num_heads": 4},
    },
}


@pytest.fixture(params=MODELS)
def model(request, tiny_model):
    model = tiny_model(**MODELS[request.param])
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):  # shut at first
            parameter.data.fill_(0.7)
    return model


def test_the_auto_classes_give_our_classes_and_the_same_logits(model, inputs, tmp_path):
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        logits, hidden = model(**batch).logits, model.model(**batch).last_hidden_state
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is LlavaConfig
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert (type(loaded), type(body)) == (LlavaForConditionalGeneration, LlavaModel)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, logits)
        assert torch.equal(body(**batch).last_hidden_state, hidden)


def test_a_saved_body_loads(model, inputs, tmp_path):
    batch = inputs(model.config)
    model.model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(body(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_survive(tiny_model, inputs, tmp_path, tied):
    model = tiny_model(text={"tie_word_embeddings": tied})
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    model.save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) is tied
    loaded.resize_token_embeddings(192)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) is tied
    assert loaded.lm_head.weight.shape[0] == loaded.config.text_config.vocab_size == 192
    batch = inputs(model.config)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, loaded(**batch).logits[..., :128])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_comes_back(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).dtype == dtype


@pytest.mark.slow
def test_the_code_beside_the_weights_stands_alone(model, inputs, tmp_path, warm_python):
    batch = inputs(model.config, images=[1, 2])
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    assert not (folder / "__init__.py").exists()
    with torch.no_grad():
        expected = {
            "inputs": batch,
            "num_image_tokens": model.config.num_image_tokens,
            "logits": model(**batch).logits,
            "hidden": model.model(**batch).last_hidden_state,
            "text": model.generate(**batch, max_new_tokens=8, do_sample=False),
        }
    torch.save(expected, folder / "batch.pt")
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + REMOTE, folder, tmp_path / "again"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    again = tmp_path / "again"
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in again.glob("*.py")}
    first, second = (json.loads((path / "config.json").read_text()) for path in (folder, again))
    assert first["auto_map"] == second["auto_map"]
    loaded = AutoModelForImageTextToText.from_pretrained(again)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, expected["logits"])


def test_every_file_that_ships_imports_only_its_neighbours(model, tmp_path, repository):
    model.save_pretrained(tmp_path)
    shipped = {path.name for path in tmp_path.glob("*.py")}
    assert shipped == {path.name for path in (repository / "modeling_llava").glob("*.py")} - {"__init__.py"}
    for name in shipped:
        for node in ast.walk(ast.parse((tmp_path / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in shipped, f"{name}, line {node.lineno}"
            elif isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("llavakit"), f"{name}, line {node.lineno}"
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("llavakit") for alias in node.names), (
                    f"{name}, line {node.lineno}"
                )
