"""One thread, so that sums do not depend on how they were split."""

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def wide_llava(write_backbones: Callable[..., tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a LLaVA whose language model is wide enough for weights of 4 bits, which are kept 64 to a block."""
    from transformers import set_seed

    from llavakit.checkpoints.building import build_llava, save_llava

    folder = tmp_path_factory.mktemp("wide")
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    language = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 28, "patch_size": 14}
    words = ["what is in the picture a red green blue cat dog there are two three say it again"] * 50
    backbones = write_backbones(folder, words, 400, vision, language)
    set_seed(0)
    save_llava(*build_llava(*backbones, projector_type="mlp2x_gelu"), folder / "llava")
    return str(folder / "llava")
