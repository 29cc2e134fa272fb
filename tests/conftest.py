"""What every test shares: no network, no trace outside temporary folders, and the data beside the repository."""

import gc
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .warm_python import WITHOUT_LLAVAKIT, WarmPython

REPOSITORY = Path(__file__).resolve().parents[1]
SCRATCH = Path(tempfile.mkdtemp(prefix="llavakit-tests-"))

# Set before any test module imports torch or huggingface_hub: both read these once, when they are imported. Processes
# that a test starts inherit them. More threads than two make models of this size no faster, and many make them slow;
# where processes share the tests, each has one.
if "OMP_NUM_THREADS" not in os.environ or "LLAVAKIT_TEST_CHOSE_THREADS" in os.environ:
    threads = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
    # Processes that share the tests inherit what the one that started them chose for itself, and choose anew
    os.environ |= {"OMP_NUM_THREADS": str(threads), "LLAVAKIT_TEST_CHOSE_THREADS": "yes"}
os.environ["HF_HOME"] = str(SCRATCH / "hf")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A tracker that happens to be installed must not open a run for a test.
os.environ["WANDB_MODE"] = "disabled"

# Processors again with torchvision, see `.ci/run`
if folder := os.environ.get("LLAVAKIT_TEST_TORCHVISION"):
    from .torchvision_beside import put_on_path

    put_on_path(folder)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all they start; some tests press it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the longest tests come first, by the `minutes` of their mark, then others with slow ones.

    Where several processes share the tests, none is left with a long one at the end.
    """
    minutes: dict[Path, float] = {}
    for item in items:
        for mark in item.iter_markers("slow"):
            minutes[item.path] = max(mark.kwargs.get("minutes", 0), minutes.get(item.path, 0))
    items.sort(key=lambda item: -minutes.get(item.path, -1))


def pytest_collection_finish() -> None:
    """Whoever collects garbage, as each training does at its start, need not look through all that was imported.

    It is a quarter of the time of tests that train.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Photographs, tokenizers and benchmark formats for development, kept beside the repository and never in it."""
    folder = Path(os.environ.get("LLAVAKIT_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("development data is absent: ../shared/data, or the folder that LLAVAKIT_SHARED_DATA names")
    return folder


@pytest.fixture
def environment_without_llavakit(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds every installed package except llavakit.

    Python runs a `sitecustomize` module at its start, and so does every process that one starts in turn.
    """
    folder = tmp_path / "without_llavakit"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_LLAVAKIT)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    """Runs `python -m llavakit.cli ...` and the like in processes forked from one that has the libraries imported."""
    with WarmPython() as python:
        yield python


@pytest.fixture(scope="module")
def forked_processes(warm_python: WarmPython) -> Iterator[None]:
    """What this process starts by `sys.executable`, as a proof does, is forked from the warm one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python.interpreter())
        yield


@pytest.fixture(scope="session")
def code_block() -> Callable[[str, str], str]:
    """Reads a block of code off a page of docs/, by the words after its opening fence: ``("hub.md", "python push")``.

    A test that runs what a page says keeps the page true.
    """

    def read(page: str, opening: str) -> str:
        text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
        blocks = re.findall(rf"^```{re.escape(opening)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert len(blocks) == 1, f"docs/{page} has {len(blocks)} blocks that open with ```{opening}"
        return blocks[0]

    return read


@pytest.fixture(scope="session")
def write_backbones() -> Callable[..., tuple[str, str]]:
    """Writes an untrained CLIP tower and an untrained Llama, with a byte-level BPE tokenizer of the given texts."""
    # Imported here: tests that need no model stay quick to collect
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        set_seed,
    )

    def write(folder: Path, texts: list[str], vocab_size: int, vision: dict, language: dict) -> tuple[str, str]:
        set_seed(0)
        CLIPVisionModel(CLIPVisionConfig(**vision)).save_pretrained(folder / "vision")
        side = vision["image_size"]
        image_processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        image_processor.save_pretrained(folder / "vision")

        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        backend.train_from_iterator(texts, trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
        )
        tokenizer.save_pretrained(folder / "language")
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        config = LlamaConfig(vocab_size=len(tokenizer), **ids, **language)
        LlamaForCausalLM(config).save_pretrained(folder / "language")
        return str(folder / "vision"), str(folder / "language")

    return write


@pytest.fixture(scope="session")
def tiny_backbones(
    write_backbones: Callable[..., tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """Paths of a CLIP vision tower (28 pixels, 4 grid tokens) and of a Llama, both untrained."""
    words = "what is in the picture a red green blue cat dog house on left of right there are two three say it again"
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    # The dropouts would be seen: if the frozen tower were ever left in training mode, and if a resumed run drew other
    # random numbers
    vision |= {"image_size": 28, "patch_size": 14, "attention_dropout": 0.5}
    language = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    language |= {"num_key_value_heads": 2, "max_position_embeddings": 1024, "attention_dropout": 0.1}
    return write_backbones(tmp_path_factory.mktemp("backbones"), [words] * 50, 400, vision, language)


@pytest.fixture(scope="session")
def tiny_llava(tiny_backbones: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a LLaVA checkpoint of the tiny backbones, as `llavakit init` writes it."""
    from transformers import set_seed

    from llavakit.checkpoints.building import build_llava, save_llava

    set_seed(0)
    folder = tmp_path_factory.mktemp("llava")
    save_llava(*build_llava(*tiny_backbones, chat_template="vicuna_v1"), folder)
    return str(folder)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Twelve rows of the original's format beside their images: one and two turns, one row without an image."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 30 + number, 3), dtype=np.uint8)).save(tmp_path / name)
        turns = [
            {"from": "human", "value": "<image>\nwhat is in the picture" if number % 2 else "what is it\n<image>"},
            {"from": "gpt", "value": f"a {['red', 'green', 'blue'][number % 3]} cat"},
        ]
        if number % 4 == 0:
            turns += [{"from": "human", "value": "say it again"}, {"from": "gpt", "value": "there are two dogs " * 3}]
        rows.append({"id": f"r{number}", "image": name, "conversations": turns})
    rows[5]["image"] = None
    rows[5]["conversations"][0]["value"] = "say it"
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return path
