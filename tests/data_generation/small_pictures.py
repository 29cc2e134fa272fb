"""Pictures for annotations to be of."""

from pathlib import Path

from PIL import Image


def picture(path: Path, size: tuple[int, int] = (200, 100)) -> Path:
    """Write a picture of one colour to a file, whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 20, 30)).save(path)
    return path
