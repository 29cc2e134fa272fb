"""What prepared samples depend on, as one key: another key is another preparation."""

import hashlib
import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..rows import schema
from .collator import LlavaCollator

FORMAT = 2  # of the files that `samples` writes
LIBRARIES = ("transformers", "tokenizers", "jinja2", "pillow")


def sample_key(dataset: Dataset, collator: LlavaCollator, rows_of_chunk: int) -> dict[str, Any]:
    """Everything that decides what rows become: the rows, how they are read and tokenized, and by which code.

    Pictures are not among it: whether they are still the same is seen file by file (see `prepare_samples`). Nor is the
    rule for bad rows, which are kept with what is wrong with them.

    Args:
        dataset: The rows. Their fingerprint stands for them; that of `load_conversations` changes with the files.
        collator: The one that training will use.
        rows_of_chunk: Rows a file.

    Returns:
        Names and values, ready for JSON, the same in every process.
    """
    processor = collator.processor
    return {
        "format": FORMAT,
        "rows": dataset._fingerprint,
        "num_rows": len(dataset),
        "rows_of_chunk": rows_of_chunk,
        "max_length": collator.max_length,
        "max_positions": collator.max_positions,
        "chat_template": collator.chat_template or processor.chat_template,
        "processor": _plain(processor.to_dict()),
        "special_tokens": _plain(processor.tokenizer.special_tokens_map),
        "tokenizer": _digest(_vocabulary(processor.tokenizer)),
        "code": _digest(*_sources(type(processor)), *_sources(type(collator)), *_sources(schema)),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def key_digest(key: dict[str, Any]) -> str:
    """The key as the name of a folder."""
    return _digest(json.dumps(key, sort_keys=True).encode())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def _vocabulary(tokenizer: Any) -> bytes:
    """The backend as it is on disk. Padding and truncation are left out: they change with every call."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec.update(padding=None, truncation=None)
    return json.dumps(spec, sort_keys=True).encode()


def _sources(what: Any) -> list[bytes]:
    """The code beside a class or module, which is what reads rows and makes ids of them."""
    folder = Path(inspect.getfile(what)).parent
    return [file.read_bytes() for file in sorted(folder.glob("*.py"))]


def _digest(*contents: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()
