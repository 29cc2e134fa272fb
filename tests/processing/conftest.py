"""Tokenizers of every family, and processors around them."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from PIL import Image
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.processing import SHIPPED_TEMPLATES, LlavaProcessor

settings.register_profile(
    "processing",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("processing")

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. USER: What is it? ASSISTANT: It is a cat.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions. Human: Why? Assistant: Because.",
    "You are a helpful assistant. [INST] How many dogs are there? [/INST] There are 3 of them, on the left of a house.",
    "system\nuser\nassistant\nDescribe the picture.\nA red ball, two green cubes and a yellow cone; naïve café, 日本語 œuf.",
    "### # < | > / _ <|system|> <|user|> <|assistant|> <|end|> <|im_start|> <|im_end|> <<SYS>> <</SYS>>",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
CHAT_TOKENS = ["<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def wrap(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    names = names or {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def byte_level_bpe() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    return wrap(backend)


def byte_level_bpe_prefixed() -> PreTrainedTokenizerFast:
    """As RoBERTa's: a space before every text, and one token that both begins and ends a text, as GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    return wrap(backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def chat_token_bpe() -> PreTrainedTokenizerFast:
    """With tokens of its own for chats, which swallow white space on their right as Phi-3's do."""
    tokenizer = byte_level_bpe()
    swallows = [AddedToken(token, rstrip="im" not in token, special=True) for token in CHAT_TOKENS]
    tokenizer.add_tokens(swallows, special_tokens=True)
    # Runs of spaces as added tokens, as GPT-NeoX has them: vocabulary, no control.
    tokenizer.add_tokens([AddedToken("  ", normalized=True), AddedToken("    ", normalized=True)])
    return tokenizer


def prepend_bpe() -> PreTrainedTokenizerFast:
    """As transformers before version 5 converted the Llama tokenizer: the mark is put by the normalizer."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=SPECIAL + bytes_)
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no piece spans two words, as in Llama's
    backend.train_from_iterator(CORPUS, trainer)
    backend.pre_tokenizer = None
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SPECIAL]
    backend = Tokenizer.from_str(json.dumps(spec))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return wrap(backend)


def unigram() -> PreTrainedTokenizerFast:
    """Its vocabulary holds the special tokens as pieces, with the best scores of all."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    assert backend.token_to_id("</s>") == 2
    return wrap(backend)


def word_piece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    return wrap(backend, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]")


TRAINED = {
    "byte_level_bpe": byte_level_bpe,
    "byte_level_bpe_prefixed": byte_level_bpe_prefixed,
    "chat_token_bpe": chat_token_bpe,
    "prepend_bpe": prepend_bpe,
    "unigram": unigram,
    "word_piece": word_piece,
}
LLAMA = {"llama2": "the Llama tokenizer", "llama2_legacy": "the Llama tokenizer in legacy mode"}


@pytest.fixture(scope="session")
def shared_tokenizers(shared_data: Path) -> Path:
    folder = shared_data / "tokenizers"
    if not folder.is_dir():
        pytest.skip("the folder tokenizers/ of the development data is absent")
    return folder


@pytest.fixture(scope="session", params=[*LLAMA, *TRAINED])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def tokenizer_of(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """The tokenizer of a family, one object a session."""
    built: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in built:
            if family in LLAMA:
                folder = request.getfixturevalue("shared_tokenizers") / family
                built[family] = AutoTokenizer.from_pretrained(folder)
            else:
                built[family] = TRAINED[family]()
        return built[family]

    return get


@pytest.fixture(scope="session")
def processor_of(tokenizer_of: Callable[[str], Any]) -> Callable[..., LlavaProcessor]:
    """A processor for a family and a template: 28 pixels in patches of 14, four tokens an image."""

    def get(family: str, chat_template: str | None, **options: Any) -> LlavaProcessor:
        image_processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        return LlavaProcessor(
            image_processor, tokenizer_of(family), patch_size=14, chat_template=chat_template, **options
        )

    return get


@pytest.fixture
def each_template(
    processor_of: Callable[..., LlavaProcessor], family: str
) -> Callable[[], Iterator[tuple[str, LlavaProcessor]]]:
    """Yields the shipped templates with their processors, for what is drawn: to draw it takes longer than to encode it."""
    processors = {template: processor_of(family, template) for template in SHIPPED_TEMPLATES}

    def each() -> Iterator[tuple[str, LlavaProcessor]]:
        for template, processor in processors.items():
            note(f"template={template}")
            yield template, processor

    return each


@pytest.fixture
def tokenizer(tokenizer_of: Callable[[str], Any]) -> Any:
    """A copy: what a test does to it stays in the test."""
    return copy.deepcopy(tokenizer_of("byte_level_bpe"))


@pytest.fixture
def processor(processor_of: Callable[..., LlavaProcessor]) -> LlavaProcessor:
    return processor_of("byte_level_bpe", "vicuna_v1")


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """40 x 30 pixels, no two of them alike."""
    return Image.frombytes("RGB", (40, 30), bytes((index * 7 + index // 251) % 256 for index in range(40 * 30 * 3)))
