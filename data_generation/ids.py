"""Ids of what is made: from the image's path below its folder, and no two alike."""

from pathlib import PurePosixPath


def image_id(path: str) -> str:
    """What is made of an image is called by: its path below the image folder, without the suffix.

    The path and not the name alone, since `SKU1/front.jpg` and `SKU2/front.jpg` are two photographs.
    """
    posix = PurePosixPath(path.replace("\\", "/"))
    return str(posix.relative_to(posix.anchor).with_suffix("")) if posix.name else path


class UniqueIds:
    """Hands out ids, each once; asked in the same order it gives the same ones."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}  # of a wanted id, the highest number behind it
        self._of_image: dict[str, str] = {}

    def take(self, wanted: str, other: str | None = None) -> str:
        """`wanted`; where it is taken, `other`; where that is too, `wanted-1`, `wanted-2`, ..."""
        for name in (wanted, other):
            if name is not None and name not in self._taken:
                self._taken.add(name)
                return name
        number = self._last.get(wanted, 0) + 1
        while f"{wanted}-{number}" in self._taken:
            number += 1
        self._last[wanted] = number
        self._taken.add(f"{wanted}-{number}")
        return f"{wanted}-{number}"

    def of_image(self, path: str) -> str:
        """The id of an image, the same one whenever it comes; of `front.jpg` and `front.png` the second has its suffix."""
        if path not in self._of_image:
            self._of_image[path] = self.take(image_id(path), path)
        return self._of_image[path]
