"""The connectors: their sizes at the paper's widths, what they compute, and their file."""

import os

import pytest
import torch
from safetensors.torch import load_file

from llavakit import LlavaConfig
from llavakit.checkpoints import connector_files
from llavakit.checkpoints.connector_files import load_connector, save_connector
from llavakit.modeling_llava.connectors import CONNECTORS


@pytest.mark.parametrize(
    ("projector_type", "expected"),
    [("linear", 4_198_400), ("mlp2x_gelu", 20_979_712), ("mlp3x_gelu", 37_761_024), ("mlp4x_gelu", 54_542_336)],
)
def test_parameters_at_the_papers_widths(projector_type, expected):
    with torch.device("meta"):
        connector = CONNECTORS[projector_type](LlavaConfig(projector_type=projector_type))
    assert sum(parameter.numel() for parameter in connector.parameters()) == expected


def test_the_linear_connector_is_equation_1(tiny_config):
    connector = CONNECTORS["linear"](tiny_config(multimodal_projector_bias=False))
    features = torch.randn(2, 4, 32)
    assert [name for name, _ in connector.named_parameters()] == ["linear.weight"]
    torch.testing.assert_close(connector(features), torch.einsum("dz,nfz->nfd", connector.linear.weight, features))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_mlp_has_a_gelu_between_each_two_layers(tiny_config, depth):
    connector = CONNECTORS[f"mlp{depth}x_gelu"](tiny_config(projector_type=f"mlp{depth}x_gelu"))
    layers = [f"linear_{layer}.{kind}" for layer in range(1, depth + 1) for kind in ("weight", "bias")]
    assert list(connector.state_dict()) == layers  # the names of transformers' Llava, and on from there
    features = hidden = torch.randn(2, 4, 32)
    for layer in range(1, depth + 1):
        hidden = torch.nn.functional.gelu(hidden) if layer > 1 else hidden
        hidden = torch.nn.functional.linear(hidden, *(connector.state_dict()[name] for name in layers[:2]))
        layers = layers[2:]
    torch.testing.assert_close(connector(features), hidden)


@pytest.mark.parametrize("projector_type", ["linear", "mlp2x_gelu"])
def test_the_connector_alone_can_be_saved_and_loaded(tiny_model, tmp_path, projector_type):
    model, other = tiny_model(projector_type=projector_type), tiny_model(projector_type=projector_type)
    path = save_connector(model, tmp_path / "new" / "folder")
    names = {name for name, _ in model.named_parameters() if "multi_modal_projector" in name}
    assert set(load_file(path)) == names and names
    others = {name: value.clone() for name, value in other.state_dict().items() if name not in names}
    load_connector(other, tmp_path / "new" / "folder")
    for name in names:
        assert torch.equal(other.state_dict()[name], model.state_dict()[name])
    for name, value in others.items():
        assert torch.equal(other.state_dict()[name], value)
    assert os.listdir(tmp_path / "new" / "folder") == ["connector.safetensors"]


def test_another_connector_is_refused(tiny_model, tmp_path):
    save_connector(tiny_model(), tmp_path)
    with pytest.raises(ValueError, match=r"holds .*linear\.weight.*but the connector of this model is .*linear_1"):
        load_connector(tiny_model(projector_type="mlp2x_gelu"), tmp_path)
    with pytest.raises(ValueError, match=r"\(32, 32\).*\(48, 32\)"):
        load_connector(tiny_model(text={"hidden_size": 48}), tmp_path)
    with pytest.raises(ValueError, match=r"has no connector\.safetensors"):
        load_connector(tiny_model(), tmp_path / "elsewhere")


def test_a_sharded_connector_is_not_saved_empty(tiny_model, tmp_path):
    model = tiny_model()
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.data = torch.empty(0)  # as ZeRO-3 leaves it
    with pytest.raises(ValueError, match="gather the weights"):
        save_connector(model, tmp_path)
    assert not os.listdir(tmp_path)
    name = "model.multi_modal_projector.linear.weight"
    assert torch.equal(load_file(save_connector(model, tmp_path, whole))[name], whole[name])


def test_a_full_disk_leaves_the_old_file(tiny_model, tmp_path, monkeypatch):
    old = tiny_model()
    path = save_connector(old, tmp_path)

    def full(weights, beside, **kwargs):
        with open(beside, "wb") as file:
            file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(connector_files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_connector(tiny_model(), tmp_path)
    assert os.listdir(tmp_path) == ["connector.safetensors"]
    saved = load_file(path)["model.multi_modal_projector.linear.weight"]
    assert torch.equal(saved, old.model.multi_modal_projector.linear.weight)
