"""A tiny model whose answers depend on its images, random conversations, what recomputing gives, and a browser."""

import copy
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ..warm_python import TRANSFORMERS, WarmPython

WORDS = (
    "what is in the picture a red green blue cat dog house on left of right there are two three say it again".split()
)


@pytest.fixture(scope="session")
def vivid_llava(tiny_llava: str) -> tuple[Any, Any]:
    """A model whose answers differ, and its processor."""
    from llavakit.inference.chat import load_llava

    return vivid(*load_llava(tiny_llava))


@pytest.fixture(scope="session")
def attending_llava(tiny_backbones: tuple[str, str]) -> tuple[Any, Any]:
    """One whose text attends to its images."""
    from transformers import set_seed

    from llavakit.checkpoints.building import build_llava

    set_seed(0)
    options = {"num_latents": 4, "num_layers": 2, "num_heads": 4, "cross_attention_every": 1}
    fields = {"projector_type": "perceiver", "projector_options": options, "image_fusion": "attend"}
    return vivid(*build_llava(*tiny_backbones, chat_template="vicuna_v1", **fields))


def vivid(model: Any, processor: Any) -> tuple[Any, Any]:
    """Untrained weights of the usual size give nearly the same answer to everything, so they are made larger; and only
    tokens that are readable text are generated, so that texts can be compared."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(20 if "multi_modal_projector" in name else 6)
            elif name.endswith("_gate"):  # shut at first
                weight.fill_(2.0)
    tokenizer = processor.tokenizer
    garbled = [token for token in range(len(tokenizer)) if not tokenizer.decode([token]).isprintable()]
    garbled += [token for token in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([token])]
    garbled += [token for token in tokenizer.all_special_ids if token != tokenizer.eos_token_id]
    unused = range(len(tokenizer), model.config.text_config.vocab_size)
    # What ends an answer must come now and then: the eos token, and the ### of llava_v0
    [hash_sign] = tokenizer("#", add_special_tokens=False).input_ids
    model.generation_config.sequence_bias = [
        [[tokenizer.eos_token_id], 1.7],
        [[hash_sign], 1.0],
        [[hash_sign, hash_sign], 3.0],
        [[hash_sign, hash_sign, hash_sign], 3.0],
    ]
    model.generation_config.suppress_tokens = sorted({*garbled, *unused})
    return model, processor


@pytest.fixture(scope="session")
def with_template(vivid_llava: tuple[Any, Any]) -> Callable[..., tuple[Any, Any]]:
    """The model, and its processor with another chat template and padding side."""
    return templates_of(*vivid_llava)


@pytest.fixture(scope="session")
def attending_with_template(attending_llava: tuple[Any, Any]) -> Callable[..., tuple[Any, Any]]:
    """The same of the one whose text attends to its images."""
    return templates_of(*attending_llava)


def templates_of(model: Any, processor: Any) -> Callable[..., tuple[Any, Any]]:
    from llavakit import LlavaProcessor

    def make(template: str, padding_side: str = "right") -> tuple[Any, Any]:
        tokenizer = copy.deepcopy(processor.tokenizer)
        tokenizer.padding_side = padding_side
        return model, LlavaProcessor(
            processor.image_processor,
            tokenizer,
            patch_size=processor.patch_size,
            chat_template=template,
            image_seq_length=processor.image_seq_length,
            image_token_grid=processor.image_token_grid,
            image_tokens_of=processor.image_tokens_of,
        )

    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of pictures that look different."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(6)]
    for path in paths:
        colours = rng.integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((rng.integers(28, 60), 40), Image.Resampling.NEAREST).save(path)
    return [str(path) for path in paths]


@pytest.fixture(scope="session")
def some_words() -> Callable[[random.Random], str]:
    """Draws a sentence."""
    return lambda rng: " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))


@pytest.fixture(scope="session")
def recomputed() -> Callable[..., str]:
    """What `generate` answers to a whole conversation, read anew, as any user of transformers would ask."""

    def answer(model: Any, processor: Any, messages: list[dict[str, Any]], images: list[str], tokens: int) -> str:
        opened = iter([Image.open(Path(path)) for path in images])
        filled = [
            message
            if isinstance(message["content"], str)
            else {
                **message,
                "content": [
                    {**block, "image": next(opened)} if block["type"] == "image" else block
                    for block in message["content"]
                ],
            }
            for message in messages
        ]
        inputs = processor.apply_chat_template(
            filled, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        stop = processor.stop_string
        generated = model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, stop_strings=[stop], tokenizer=processor.tokenizer
        )
        text = processor.tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :])
        return text.split(stop)[0].split("</s>")[0].strip()

    return answer


@pytest.fixture(scope="session")
def warm_servers() -> Iterator[WarmPython]:
    """One that has imported what servers and their clients are made of, too, where that is installed."""
    libraries = ["gradio", "uvicorn", "openai", "transformers.cli.transformers", "transformers.cli.serving.server"]
    with WarmPython([*TRANSFORMERS, "datasets", *(name for name in libraries if find_spec(name))]) as python:
        yield python


@pytest.fixture(scope="module")
def forked_servers(warm_servers: WarmPython) -> Iterator[None]:
    """What this process starts by `sys.executable` is forked from that one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_servers.interpreter())
        yield


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium from the system's packages, driven by selenium."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()
