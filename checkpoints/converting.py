"""Checkpoints of other formats in, ours out, and the other way round: written beside, proven, and only then put in place.

SRC ──READERS──> LLaVA ──> OUT/.saving-…  ──prove──> OUT          import_checkpoint
CKPT ──> LLaVA ──WRITERS──> OUT/.saving-… ──prove──> OUT          export_checkpoint
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..rows.registry import look_up
from .adapter_files import base_name
from .adapters import Merged, merge_adapter
from .checkpoint_files import SHARD_SIZE, read_json
from .damage import find_damage
from .formats import READERS, WRITERS
from .formats.format_base import Given, Reader
from .loading import DamagedFile, load_model, load_processor
from .model_card import CARD_FILE, exported_card
from .safe_writing import replace_files, staging_folder
from .stop_tokens import add_stop_tokens

REMEDY = "Free some space or choose another folder for -o, and start again."


@dataclass(frozen=True)
class Conversion:
    """What became of a conversion.

    Args:
        format: The foreign format.
        proof: A table, headings first, see `Reader.prove`.
        differs: What it does otherwise, and was not asked for, see `Reader`.
    """

    format: str
    proof: list[list[str]]
    differs: str = ""

    @property
    def shown(self) -> str:
        """What the proof shows of the two, as the end of a sentence: they were asked, or their tensors compared."""
        return "say the same" if "answer" in self.proof[0] else "hold the same tensors"


def import_checkpoint(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    given: Given | None = None,
    format: str | None = None,
    max_shard_size: str = SHARD_SIZE,
) -> Conversion:
    """Make a LLaVA of ours from a checkpoint of another format, and prove that it says the same.

    Args:
        source: Folder or Hub id of the checkpoint.
        output_dir: Where ours goes: a new or empty folder.
        given: What the files leave open.
        format: A key of `READERS`. Default: the one that recognises the config.
        max_shard_size: Of a file of weights.

    Raises:
        ValueError: It is of no known format, damaged, or not to be understood; the message says what.
        Mismatch: What was made says something else than the source.
        SaveFailed: Writing failed. `output_dir` is as it was.
    """
    folder, final = local_folder(source), _new_folder(output_dir)
    name, reader = _reader_of(folder, format)
    model, processor = reader.read(folder, given or Given())
    elsewhere = (model.config.provenance or {}).get("backbones") or {}
    model.config.provenance = {
        "backbones": {"vision": str(source), "language": str(source)} | elsewhere,
        "converted": {"format": name, "source": str(source), "differs": reader.DIFFERS},
    }
    view = processor.image_size
    with staging_folder(final, remedy=REMEDY) as staging:
        model.save_pretrained(staging, max_shard_size=max_shard_size)
        processor.save_pretrained(staging)
        del model  # two more are loaded for the proof, one after the other
        proof = reader.prove(folder, staging, view)
        replace_files(staging, final)
    return Conversion(name, proof, reader.DIFFERS)


def export_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    format: str,
    max_shard_size: str = SHARD_SIZE,
    **options: Any,
) -> Conversion:
    """Write a LLaVA of ours in another format, and prove that it says the same.

    Args:
        checkpoint: Folder or Hub id of ours.
        output_dir: Where the other goes: a new or empty folder.
        format: A key of `WRITERS`.
        max_shard_size: Of a file of weights.
        **options: Of the writer: its fields.

    Raises:
        CannotExpress: The format has no way to say what the checkpoint is.
        ValueError: There is no such format, or the checkpoint is an adapter or damaged.
        Mismatch: What was written says something else than the source.
        SaveFailed: Writing failed. `output_dir` is as it was.
    """
    writer = look_up(WRITERS, format, "format").with_options(**options)
    folder, final = local_folder(checkpoint), _new_folder(output_dir)
    if (base := base_name(folder)) is not None:
        raise ValueError(
            f"{checkpoint} is an adapter of {base}: make one model of the two first, by llavakit export {checkpoint} --merge "
            "-o MERGED, and export that."
        )
    model, processor = load_model(folder, dtype="auto"), load_processor(folder)
    writer.check(model, processor)
    config, view = model.config, processor.image_size
    with staging_folder(final, remedy=REMEDY) as staging:
        writer.write(model.eval(), processor, staging, max_shard_size)
        del model
        proof = writer.prove(folder, staging, view)
        (staging / CARD_FILE).write_text(exported_card(config, format, proof, writer.DIFFERS), encoding="utf-8")
        replace_files(staging, final)
    return Conversion(format, proof, writer.DIFFERS)


def merge_checkpoint(
    adapter: str | os.PathLike,
    output_dir: str | os.PathLike,
    dtype: str | None = None,
    max_shard_size: str = SHARD_SIZE,
) -> Merged:
    """Write the whole model that an adapter and the model below it are together.

    Args:
        adapter: Folder or Hub id of the adapter.
        output_dir: Where the model goes: a new or empty folder.
        dtype: Of its weights. Default: as the model below the adapter was saved.
        max_shard_size: Of a file of weights.

    Returns:
        What was merged.

    Raises:
        ValueError: `adapter` is a whole model, or what else `merge_adapter` refuses.
        SaveFailed: Writing failed. `output_dir` is as it was.
    """
    final = _new_folder(output_dir)
    merged, processor = merge_adapter(adapter, dtype=dtype), load_processor(adapter)
    add_stop_tokens(merged.model, processor)
    with staging_folder(final, remedy=REMEDY) as staging:
        merged.model.save_pretrained(staging, max_shard_size=max_shard_size)
        processor.save_pretrained(staging)
        replace_files(staging, final)
    return merged


def local_folder(name: str | os.PathLike) -> Path:
    """The folder of a checkpoint; one of the Hub is fetched into the cache.

    Raises:
        ValueError: There is none, a file of it is damaged, or one of its files is a link to somewhere else.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(name)))
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            raise ValueError(f"{name} is neither a folder nor a model that the Hub gives: {error}") from error
    _refuse_links(folder)
    if damage := find_damage(folder):
        raise DamagedFile(damage)
    return folder


def _refuse_links(folder: Path) -> None:
    """Refuse files that lie elsewhere, but for the Hub's own cache, where a snapshot is links to `blobs/`."""
    home = folder.resolve()
    allowed = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not any(file.resolve().is_relative_to(place) for place in allowed):
            raise ValueError(
                f"{file} is a link to {file.resolve()}, outside of the checkpoint. Copy the file into the folder if it "
                "belongs there."
            )


def _new_folder(output_dir: str | os.PathLike) -> Path:
    final = Path(output_dir)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ValueError(f"-o {output_dir}: there is something already; name a new folder.")
    return final


def _reader_of(folder: Path, format: str | None) -> tuple[str, Reader]:
    """The reader of a name, or the one that recognises the config."""
    if format is not None:
        return format, look_up(READERS, format, "format")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ValueError(f"{folder} has no config.json, which says what its weights are.")
    for name, reader in READERS.items():
        if reader.recognises(config):
            return name, reader
    raise ValueError(
        f"{folder}: a config of model_type {config.get('model_type')!r} is of no format that is read: {list(READERS)}."
    )
