"""GGUF, for llama.cpp, Ollama and LM Studio: the language model in one file, vision tower and connector in another.

LLaVA ──gguf_language, gguf_vocabulary, gguf_template──> model-f16.gguf
      ──gguf_vision, gguf_class_token──────────────────> mmproj-f16.gguf     ──real llama.cpp──> the proof
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ...modeling_llava import LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from ...rows.extras import require
from ..loading import load_model, load_processor
from ..proof.llama_cpp import PACKAGE, has_llama_cpp, llama_cpp
from ..proof.proving import Mismatch
from ..proof.served import Served, prove_served
from ..stop_tokens import stop_token_ids
from .format_base import CannotExpress, Writer
from .gguf_file import OUTTYPES, GgufTensor, read_gguf, write_gguf
from .gguf_language import ELSEWHERE, LANGUAGES, check_language, language_facts, language_tensors
from .gguf_template import llama_cpp_template, starts_with_bos, word_starts
from .gguf_vision import check_layout, check_vision, vision_facts, vision_tensors
from .gguf_vocabulary import vocabulary_facts

STOPS = ("eos", "eot", "eom")  # llama.cpp's names for tokens that end an answer
# By how much, in nats, the log-likelihood of a first token may differ from transformers' in float32. llama.cpp looks GELU up
# in a table of 16 bits: its numbers differ in the fourth digit whatever they are written as.
TOLERANCES = {"f32": 0.05, "f16": 0.1, "q8_0": 0.5}


@dataclass(frozen=True)
class GgufWriter(Writer):
    """Writes them. Its fields are flags of `llavakit export`.

    Args:
        outtype: How matrices are written, a key of `OUTTYPES`.
        square_pictures: It will be shown square pictures alone, so that layouts that treat others in another way than
            llama.cpp does can be written.
    """

    outtype: str = "f16"
    square_pictures: bool = False

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        require("gguf", "gguf")
        if self.outtype not in OUTTYPES:
            raise ValueError(f"--outtype {self.outtype!r} is unknown; choose one of {list(OUTTYPES)}.")
        check_language(model.config.text_config)
        check_vision(model.config, processor)
        if not self.square_pictures:
            check_layout(processor)
        model_facts(model, processor)

    def write(
        self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path, max_shard_size: str
    ) -> None:
        """See `Writer.write`. llama.cpp reads a file of any size: `max_shard_size` is not needed."""
        architecture = LANGUAGES[model.config.text_config.model_type].architecture
        facts, vision = model_facts(model, processor), vision_facts(model.config, processor)
        names = self.names
        write_gguf(folder / names[0], architecture, facts, language_tensors(model), self.outtype)
        write_gguf(folder / names[1], "clip", vision, vision_tensors(model), self.outtype)

    def prove(self, source: Path, target: Path, view_size: tuple[int, int]) -> list[list[str]]:
        """llama.cpp and transformers are asked the same. Where llama.cpp is not installed, all tensors are read back."""
        files = [target / name for name in self.names]
        if not has_llama_cpp():
            table = self._read_back(source, files)
            return [*table, [f"not asked: llama.cpp is not installed (pip install {PACKAGE})", "", ""]]
        with llama_cpp(*files) as server:
            served = Served(server.base_url, "model", TOLERANCES[self.outtype], server.tokens)
            return prove_served(source, served, view_size)

    @property
    def names(self) -> tuple[str, str]:
        """Of the language model's file and the vision tower's."""
        return f"model-{self.outtype}.gguf", f"mmproj-{self.outtype}.gguf"

    def _read_back(self, source: Path, files: list[Path]) -> list[list[str]]:
        """Compare the files with what they were to hold.

        Raises:
            Mismatch: A tensor differs; it is named.
        """
        model, processor = load_model(source, dtype="auto").eval(), load_processor(source)
        expected: list[tuple[dict[str, Any], Iterable[GgufTensor]]] = [
            (model_facts(model, processor), language_tensors(model)),
            (vision_facts(model.config, processor), vision_tensors(model)),
        ]
        lines = []
        for file, (facts, tensors) in zip(files, expected, strict=True):
            written, data = read_gguf(file)
            count = 0
            for tensor in tensors:
                numbers = data.get(tensor.name)
                if numbers is None or not numpy.array_equal(numbers, tensor.data(self.outtype)):
                    raise Mismatch(f"{tensor.name} of {file.name} is not what it was, read back. It was not written.")
                count += 1
            missing = [key for key in facts if key not in written]
            if missing or count != len(data):
                raise Mismatch(
                    f"{file.name} is not what was to be written: {missing or list(data)}. It was not written."
                )
            lines.append([file.name, str(count), "same bits"])
        return [["file", "tensors", "read back"], *lines]


def model_facts(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> dict[str, Any]:
    """Keys and values of the language model's file.

    Raises:
        CannotExpress: Its tokenizer, template or ends of answers cannot be said.
    """
    config, starts = model.config.text_config, word_starts(processor)
    vocabulary = vocabulary_facts(processor, config.vocab_size)
    if starts.at_first and vocabulary["tokenizer.ggml.model"] == "llama":
        vocabulary["tokenizer.ggml.add_space_prefix"] = (
            starts.always
        )  # else the template writes spaces where they belong
    return {
        "general.type": "model",
        **language_facts(config),
        **vocabulary,
        **{f"tokenizer.ggml.{name}_token_id": id for name, id in zip(STOPS, _ends(model, processor), strict=False)},
        "tokenizer.ggml.add_bos_token": starts_with_bos(processor),
        "tokenizer.chat_template": llama_cpp_template(processor),
    }


def _ends(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> list[int]:
    """Tokens that end an answer, the tokenizer's own first, which templates write."""
    stop, added = processor.stop_string, processor.tokenizer.added_tokens_encoder
    if stop not in added:
        raise CannotExpress(
            f"answers end with {stop!r}, which is no token of its own, and a GGUF file can say no other end: train with a "
            "template that ends them with the eos token, such as 'vicuna_v1' or 'chatml'."
        )
    config = model.generation_config.eos_token_id
    ends = stop_token_ids(processor) + ([config] if isinstance(config, int) else list(config or []))
    own = processor.tokenizer.eos_token_id
    ends = list(dict.fromkeys([own, *ends] if own is not None else ends))
    if len(ends) > len(STOPS):
        raise CannotExpress(
            f"generation_config.eos_token_id={config}: a GGUF file has room for {len(STOPS)} ends of an answer. {ELSEWHERE}"
        )
    return ends
