"""A GGUF file: facts, then tensors, each brought to its type as it is written, so that one at a time is held twice."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from ...rows.extras import require
from .format_base import CannotExpress

# How matrices are written -> the type of ggml. Vectors and what says so is float32 in all of them.
OUTTYPES = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}
BLOCK = 32  # numbers of a row that q8_0 has one scale for
LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file.

    Args:
        name: llama.cpp's name for it.
        shape: As torch has it; ggml counts from the other end.
        make: Gives it, when its turn comes.
        exact: It is float32 whatever the file's type.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]
    exact: bool = False

    def type_in(self, outtype: str) -> str:
        """The type of ggml that it has in a file of such a type."""
        if self.exact or len(self.shape) == 1:
            return "F32"
        if outtype == "q8_0" and self.shape[-1] % BLOCK:
            return "F16"
        return OUTTYPES[outtype]

    def data(self, outtype: str) -> Any:
        """Its numbers, as they lie in the file.

        Raises:
            CannotExpress: One is too large for float16.
        """
        gguf, kind = require("gguf", "gguf"), self.type_in(outtype)
        numbers = self.make().detach().float().contiguous()
        if kind == "F16" and (largest := numbers.abs().max().item()) > LARGEST_F16:
            raise CannotExpress(
                f"{self.name} holds {largest:g}, and float16 ends at {LARGEST_F16:g}: write it with --outtype f32."
            )
        return gguf.quants.quantize(numbers.cpu().numpy(), gguf.GGMLQuantizationType[kind])


def as_is(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Gives the tensor."""
    return lambda: tensor


def write_gguf(
    path: Path, architecture: str, facts: Mapping[str, Any], tensors: Iterable[GgufTensor], outtype: str
) -> None:
    """Write a file.

    Args:
        path: Where to.
        architecture: What llama.cpp reads it as.
        facts: Keys and values; a list is of one type, and whole numbers are 32 bits.
        tensors: In the order in which they are to lie.
        outtype: A key of `OUTTYPES`.
    """
    gguf, tensors = require("gguf", "gguf"), list(tensors)
    logging.getLogger("gguf").setLevel(logging.WARNING)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_file_type(getattr(gguf.LlamaFileType, {"f32": "ALL_F32"}.get(outtype, f"MOSTLY_{outtype.upper()}")))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in facts.items():
        (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.type_in(outtype)]
        num_bytes = math.prod(gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind))
        writer.add_tensor_info(tensor.name, tensor.shape, numpy.dtype(numpy.float32), num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data(outtype))
    writer.close()


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts by key, and the numbers of tensors by name as they lie in the file."""
    reader = require("gguf", "gguf").GGUFReader(path)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    return facts, {tensor.name: tensor.data for tensor in reader.tensors}
