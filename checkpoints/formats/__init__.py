"""Checkpoints of others: `READERS` and `WRITERS`, by the name of the format."""

from .format_base import Reader, Writer
from .gguf_format import GgufWriter
from .llava import LlavaFormat
from .llava_next import LlavaNextFormat
from .original import OriginalReader
from .original_writer import OriginalWriter

READERS: dict[str, Reader] = {
    "original": OriginalReader(),
    "llava": LlavaFormat(),
    "llava_next": LlavaNextFormat(),
}
WRITERS: dict[str, Writer] = {
    "original": OriginalWriter(),
    "llava": LlavaFormat(),
    "llava_next": LlavaNextFormat(),
    "gguf": GgufWriter(),
}
