"""Checkpoints of others: `READERS` and `WRITERS`, by the name of the format."""

from .format_base import Reader, Writer
from .gguf_format import GgufWriter
from .internvl import InternVLFormat
from .llava import LlavaFormat
from .llava_next import LlavaNextFormat
from .llava_onevision import LlavaOnevisionFormat
from .original import OriginalReader
from .original_writer import OriginalWriter

READERS: dict[str, Reader] = {
    "original": OriginalReader(),
    "llava": LlavaFormat(),
    "llava_next": LlavaNextFormat(),
    "llava_onevision": LlavaOnevisionFormat(),
    "internvl": InternVLFormat(),
}
WRITERS: dict[str, Writer] = {
    "original": OriginalWriter(),
    "llava": LlavaFormat(),
    "llava_next": LlavaNextFormat(),
    "llava_onevision": LlavaOnevisionFormat(),
    "internvl": InternVLFormat(),
    "gguf": GgufWriter(),
}
