"""What is wrong with the files of a checkpoint: those that cannot be read, and those that would do more than be read."""

import json
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .checkpoint_files import kind_of

# A header is read into memory whole; safetensors itself refuses more
MAX_HEADER_BYTES = 100_000_000
# Bytes before the header that say how long it is
_LENGTH_BYTES = 8

_AGAIN = "Download it again, or save the checkpoint again."

# What a file of tensors needs of Python: modules that only make tensors and the containers they stand in
_HARMLESS = ("collections", "torch", "_codecs", "numpy")
# Harmless by module, but they run or fetch something
_HARMFUL = (
    "torch.hub",
    "torch.utils",
    "torch.jit",
    "torch.load",
    "torch.serialization",
    "numpy.load",
    "numpy.testing",
)


def find_damage(folder: Path) -> str | None:
    """Look through the files of a checkpoint, without loading weights.

    Returns:
        A line that names the first file that is damaged, what is wrong and what to do; None if none is.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and kind_of(Path(file.name))]
    for suffix, check in CHECKS.items():
        for file in files:
            what = check(file) if file.suffix == suffix else None
            if what is not None:
                return f"{file}: {what}"
    return None


def _json_damage(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        return f"it is nested deeper than any config is. {_AGAIN}"
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 at byte {error.start}. {_AGAIN}"
    except json.JSONDecodeError as error:
        return f"it is not JSON at line {error.lineno}: {error.msg}. {_AGAIN}"
    except OSError as error:
        return f"it cannot be read: {error.strerror}. Check who may read it."
    if file.name.endswith(".index.json") and isinstance(content, dict):
        shards = content.get("weight_map")
        names = sorted(set(shards.values())) if isinstance(shards, dict) else []
        missing = [name for name in names if not (file.parent / str(name)).is_file()]
        if missing:
            return f"it names {missing[0]}, which is not there. {_AGAIN}"
    if file.name == "config.json" and not isinstance(content, dict):
        return f"it holds a {type(content).__name__}, where a config is an object with fields. {_AGAIN}"
    return None


def _safetensors_damage(file: Path) -> str | None:
    size = file.stat().st_size
    with open(file, "rb") as opened:
        header_bytes = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES:
            return f"it has {size} bytes: it was cut short or is no safetensors. {_AGAIN}"
        if header_bytes > min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
            return (
                f"it says that its header has {header_bytes:,} bytes, and the whole file has {size:,}: it was cut short or "
                f"is no safetensors. {_AGAIN}"
            )
        try:
            header = json.loads(opened.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
            return f"its header cannot be read. {_AGAIN}"
    expected = _LENGTH_BYTES + header_bytes + max(ends, default=0)
    if size < expected:
        return f"it has {size:,} of {expected:,} bytes: it was cut short. {_AGAIN}"
    return None


def _pickle_damage(file: Path) -> str | None:
    try:
        for name in _names_called(file):
            module = name.split(".")[0]
            if module not in _HARMLESS or name.startswith(_HARMFUL):
                return (
                    f"it is no file of weights alone: loading it would call {name}, so it was not loaded, and nothing in it "
                    "was run. Do not load it by other means; ask for the weights as .safetensors."
                )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        return f"it cannot be read ({error}): it was cut short, or holds no weights. {_AGAIN}"
    return None


def _names_called(file: Path) -> Iterator[str]:
    """What a pickled file would import, `module.name`, told from its instructions, which are not carried out."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            pickled = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        if not pickled:
            raise ValueError("a zip file without data.pkl")
    else:
        pickled = [file.read_bytes()]
    for content in pickled:
        strings: list[str] = []
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".", 1)
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)


CHECKS: dict[str, Callable[[Path], str | None]] = {
    ".json": _json_damage,
    ".safetensors": _safetensors_damage,
    ".bin": _pickle_damage,
}
