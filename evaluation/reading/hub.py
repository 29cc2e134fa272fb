"""Official files that lie on the Hub: `hf://datasets/OWNER/NAME/FOLDER` in place of a path."""

from collections.abc import Sequence
from pathlib import Path

PREFIX = "hf://datasets/"


def local_paths(names: Sequence[str | Path]) -> list[Path]:
    """Paths on this machine; what is on the Hub is downloaded into its cache.

    Args:
        names: Paths, or `hf://datasets/OWNER/NAME`, with a folder or file of the data set behind it, or without.

    Raises:
        ValueError: A name on the Hub without owner and name.
        OSError: It cannot be had.
    """
    return [_download(str(name)) if str(name).startswith(PREFIX) else Path(name) for name in names]


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    owner, _, rest = name.removeprefix(PREFIX).strip("/").partition("/")
    repository, _, inner = rest.partition("/")
    if not owner or not repository:
        raise ValueError(f"{name!r} names no data set; it must be {PREFIX}OWNER/NAME, or a folder below it.")
    wanted = [inner, f"{inner}/*"] if inner else None
    folder = snapshot_download(f"{owner}/{repository}", repo_type="dataset", allow_patterns=wanted)
    return Path(folder, inner)
