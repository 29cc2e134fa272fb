"""Pictures of a benchmark, found again in a training set: the same pixels, or resized, recompressed and cropped.

A picture is kept as 64 x 64 grey values. Candidates are found by 8 x 8 means of it and of windows that lie in it, each made
free of brightness and contrast, whose products are correlations: a hash that keeps the values of which others keep the signs
(compare the average hash of N. Krawetz, "Looks like it", 2011). A candidate counts once it has been *laid over* the picture:
offsets and scales are refined by Gauss-Newton steps (B. Lucas and T. Kanade, "An iterative image registration technique",
1981), and what correlates then is the detail alone, since the broad light and shade of many pictures agree.

A mirrored or turned picture, and one of which less than three quarters of a side are left, is not found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from PIL import Image

SIDE, CELLS = 64, 8
# Shares of a side that a window has, and where it may start
WINDOWS = ((1.0, (0.0,)), (0.9, (0.0, 0.05, 0.1)), (0.8, (0.0, 0.1, 0.2)))
# Least correlations: of cells; of what was laid over; of its detail; and of the detail of all squares but a tenth
CANDIDATE, BROAD, DETAIL, EVERYWHERE = 0.85, 0.8, 0.85, 0.7
EMBEDDED = 0.95  # least cosine of embeddings
SQUARE = 8  # pixels a side, of 64
SHARES = (0.7, 1.1)  # of a side that a window may have once it is refined
MOST_CANDIDATES = 5  # of a picture that are laid over it
FLATTEST = 2.0  # standard deviation of grey values; flatter pictures are known by their pixels alone
BLUR = 4  # radius; what is broader is no detail
STEPS = 8


@dataclass(frozen=True)
class Seen:
    """What is kept of a picture: a digest of its pixels, and its grey values, (64, 64), float32."""

    digest: bytes
    grey: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image) -> "Seen":
        """Look at a picture, upright and RGB."""
        digest = sha256(repr(picture.size).encode() + picture.tobytes()).digest()[:16]
        small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return cls(digest, np.asarray(small, dtype=np.float32))


@dataclass(frozen=True)
class PictureMatch:
    """A picture of the index that was found: its number, how ("exact", "near" or "embedding"), and how alike, up to 1."""

    number: int
    kind: str
    score: float


class PictureIndex:
    """Pictures to be found again. Each takes some 21 kB.

    Args:
        pictures: Numbered by their order.
        embeddings: Theirs by a vision encoder, of length one, where these are compared too. Shape: (pictures, dimensions).
    """

    def __init__(self, pictures: Sequence[Seen], embeddings: np.ndarray | None = None) -> None:
        self.pictures, self._embeddings = pictures, embeddings
        self._digests: dict[bytes, list[int]] = {}
        for number, seen in enumerate(pictures):
            self._digests.setdefault(seen.digest, []).append(number)
        shape = (len(pictures), len(PLACES), CELLS * CELLS)
        self._windows = np.array([_windows(seen.grey) for seen in pictures], dtype=np.float32).reshape(shape)

    def find(self, batch: Sequence[Seen], embeddings: np.ndarray | None = None) -> Iterator[list[PictureMatch]]:
        """What each picture of a batch shows of the index. Some dozens at once are quicker than each alone.

        Args:
            batch: Of the training set.
            embeddings: Theirs, where the index has some. Shape: (batch, dimensions).
        """
        found = list(self._laid_over(batch))
        if self._embeddings is not None and embeddings is not None:
            similar = embeddings @ self._embeddings.T
            for matches, row in zip(found, similar, strict=True):
                known = {match.number for match in matches}
                others = (int(each) for each in np.flatnonzero(row >= EMBEDDED) if each not in known)
                matches += [PictureMatch(number, "embedding", round(float(row[number]), 3)) for number in others]
        yield from found

    def _laid_over(self, batch: Sequence[Seen]) -> Iterator[list[PictureMatch]]:
        if not self.pictures:
            yield from ([] for _ in batch)
            return
        windows = np.array([_windows(seen.grey) for seen in batch])  # (batch, places, cells)
        flat = self._windows.reshape(-1, CELLS * CELLS)
        # Either may be a window of the other
        within = (windows[:, 0] @ flat.T).reshape(len(batch), len(self.pictures), len(PLACES))
        around = np.einsum("bpc,nc->bnp", windows, self._windows[:, 0], optimize=True)
        for seen, inner, outer in zip(batch, within, around, strict=True):
            exact = self._digests.get(seen.digest, [])
            found = [PictureMatch(number, "exact", 1.0) for number in exact]
            best = np.maximum(inner.max(axis=1), outer.max(axis=1))
            likely = np.argsort(-best, kind="stable")[: MOST_CANDIDATES + len(exact)]
            for number in (int(each) for each in likely if best[each] >= CANDIDATE and each not in exact):
                whole, part, places = self.pictures[number].grey, seen.grey, inner[number]
                if outer[number].max() > places.max():
                    whole, part, places = part, whole, outer[number]
                score = laid_over(whole, part, PLACES[int(places.argmax())])
                if score >= DETAIL:
                    found.append(PictureMatch(number, "near", round(score, 3)))
            yield found


def laid_over(whole: np.ndarray, part: np.ndarray, place: tuple[float, float, float]) -> float:
    """How well the detail of `part` agrees with that of the window of `whole` that fits it best.

    Args:
        whole, part: Grey values, (64, 64).
        place: Where the window begins across and down, and its share of the sides: the first guess.

    Returns:
        The correlation, -1 to 1.
    """
    across, down, share = place
    guess = np.array([across, share, down, share])  # x' = guess[0] + guess[1] x, in sides; likewise y'
    broad = _halved(whole), _halved(part)  # the details fit only where the whole nearly does
    guess = _refined(*broad, guess)
    if _correlation(_sampled(broad[0], guess), broad[1]) < BROAD:
        return 0.0
    detailed = _detail(whole), _detail(part)
    window = _normal(_sampled(detailed[0], _refined(*detailed, guess)))
    target = _normal(detailed[1])
    # Where something was added or moved the rest agrees all the same
    return float((window * target).mean()) if _agreement(window, target) >= EVERYWHERE else 0.0


def _places() -> list[tuple[float, float, float]]:
    return [(across, down, share) for share, starts in WINDOWS for down in starts for across in starts]


def _averages(start: float, share: float) -> np.ndarray:
    """What takes the means of the cells of a window of a line, (CELLS, SIDE)."""
    edges = SIDE * (start + share * np.arange(CELLS + 1) / CELLS)
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(covered, 0, None) / np.diff(edges)[:, None]).astype(np.float32)


PLACES = _places()
_ACROSS = np.stack([_averages(across, share) for across, _, share in PLACES])
_DOWN = np.stack([_averages(down, share) for _, down, share in PLACES])


def _windows(grey: np.ndarray) -> np.ndarray:
    """The cells of each window, of mean 0 and length 1, or 0 where the picture is flat. (places, CELLS * CELLS)."""
    cells = (_DOWN @ grey @ _ACROSS.transpose(0, 2, 1)).reshape(len(PLACES), -1)
    cells -= cells.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(cells, axis=1, keepdims=True)
    return np.where(lengths < FLATTEST * CELLS, 0, cells / np.maximum(lengths, 1e-6)).astype(np.float32)


def _smooth(grey: np.ndarray, radius: int) -> np.ndarray:
    """Means over squares."""
    width = 2 * radius + 1
    for axis in (0, 1):
        sums = np.cumsum(np.pad(grey, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)], "edge"), axis)
        grey = (np.take(sums, range(width, sums.shape[axis]), axis) - np.take(sums, range(SIDE), axis)) / width
    return grey


def _detail(grey: np.ndarray) -> np.ndarray:
    return grey - _smooth(grey, BLUR)


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation that all squares in which there is anything reach, but for a tenth of them."""
    ones, others = (
        each.reshape(SIDE // SQUARE, SQUARE, -1, SQUARE).swapaxes(1, 2).reshape(-1, SQUARE**2) for each in (one, other)
    )
    both = (ones**2).sum(axis=1), (others**2).sum(axis=1)
    busy = sum(both) > sum(both).mean() / 4
    return float(np.percentile(((ones * others).sum(axis=1) / np.sqrt(np.maximum(both[0] * both[1], 1e-9)))[busy], 10))


def _halved(grey: np.ndarray) -> np.ndarray:
    return grey.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))


def _sampled(grey: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The window of a picture as a picture of its own, by linear interpolation; beyond the edge stands the edge."""
    side = len(grey)
    centres = (np.arange(side) + 0.5) / side
    x, y = (
        np.clip((start + share * centres) * side - 0.5, 0, side - 1.001) for start, share in (guess[:2], guess[2:])
    )
    left, top = x.astype(int), y.astype(int)
    x, y = (x - left)[None], (y - top)[:, None]
    rows = grey[top] * (1 - y) + grey[top + 1] * y
    return rows[:, left] * (1 - x) + rows[:, left + 1] * x


def _refined(whole: np.ndarray, part: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The guess after Gauss-Newton steps; where one does not help, the last that did."""
    side = len(part)
    target, (y, x) = _normal(part), (np.mgrid[0:side, 0:side] + 0.5) / side
    window = _normal(_sampled(whole, guess))
    best = float((window * target).mean())
    for _ in range(STEPS):
        slope_y, slope_x = np.gradient(window, 1 / side)
        moves = np.stack([slope_x, slope_x * x, slope_y, slope_y * y]).reshape(4, -1)
        # A step counts in sides of the window, which are `share` of those of the whole
        step = np.linalg.lstsq(moves @ moves.T, moves @ (target - window).ravel(), rcond=None)[0]
        moved = guess + step * guess[[1, 1, 3, 3]]
        moved[[1, 3]] = np.clip(moved[[1, 3]], *SHARES)
        window = _normal(_sampled(whole, moved))
        score = float((window * target).mean())
        if score < best + 0.001:
            return moved if score > best else guess
        best, guess = score, moved
    return guess


def _normal(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    return values / max(float(values.std()), 1e-6)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float((_normal(one) * _normal(other)).mean())
