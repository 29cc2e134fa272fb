"""The images of a text that is read part by part, and which of them each token sees.

Shapes as in `gated_attention`.
"""

from typing import Any

import torch

NOWHERE = torch.iinfo(torch.int64).max
ON_CACHE = "images_read"  # attribute of a key-value cache: the images among the tokens that it holds


class ReadImages:
    """The images of a text, as far as it has been read.

    Args:
        features: `(B, M, L, Z)`.
        places: `(B, M)`, the token of each, counted from the first of the row, padding included; `NOWHERE` where a row
            has fewer images.
    """

    def __init__(self, features: torch.Tensor, places: torch.Tensor):
        self.features, self.places = features, places

    @classmethod
    def of_text(cls, placeholders: torch.Tensor, positions: torch.Tensor, images: torch.Tensor) -> "ReadImages":
        """The images of some tokens.

        Args:
            placeholders: `(B, S)`, where an image token stands.
            positions: `(S,)`, the places of the tokens.
            images: `(N, L, Z)`, at least one.
        """
        counts = placeholders.sum(-1)  # (B,)
        most = len(images) if torch.compiler.is_compiling() else int(counts.max())
        numbers = (counts.cumsum(0) - counts).unsqueeze(-1) + torch.arange(most, device=counts.device)  # (B, M)
        places = positions.where(placeholders, NOWHERE).sort(-1).values[:, :most]
        return cls(images[numbers.clamp(max=len(images) - 1)], places)

    @classmethod
    def none(cls, embeds: torch.Tensor) -> "ReadImages":
        """Those of tokens `(B, S, D)` without an image."""
        return cls(embeds.new_zeros(len(embeds), 0, 0, 0), embeds.new_zeros(len(embeds), 0, dtype=torch.int64))

    def followed_by(self, other: "ReadImages", start: int | torch.Tensor) -> "ReadImages":
        """These, as far as they stand before the token `start`, and the other ones.

        Raises:
            ValueError: They are of another number of rows.
        """
        if len(self.places) != len(other.places):
            raise ValueError(
                f"The cache holds {len(self.places)} rows of images, and goes on with {len(other.places)}: where keys and "
                f"values are repeated, repeat the images too, cache.{ON_CACHE} = cache.{ON_CACHE}.repeat(times)."
            )
        if self.places.shape[1] == 0:
            return other
        # A cache that was cut back, or is used anew, has lost some of its images
        places = self.places.where(self.places < start, NOWHERE)
        if other.places.shape[1] == 0:
            return ReadImages(self.features, places)
        features = torch.cat([self.features.to(other.features), other.features], dim=1)
        return ReadImages(features, torch.cat([places.to(other.places), other.places], dim=1))

    def repeat(self, times: int) -> "ReadImages":
        """Each row so many times, those of a row together, as a cache repeats its own."""
        return ReadImages(*(tensor.repeat_interleave(times, dim=0) for tensor in (self.features, self.places)))

    def seen_from(self, positions: torch.Tensor, starts: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What tokens see: the image that they last passed (section 3.1.3 and appendix A.1.3).

        Args:
            positions: `(S,)`, the places of the tokens; a token sees its own image.
            starts: `(B, S)`, where the text of each token begins; None: every row is one text.

        Returns:
            Features `(B, M, L, Z)`, and whether each token sees each image, `(B, S, M)`.
        """
        num_tokens, num_images = len(positions), self.places.shape[1]
        if num_images == 0:
            return self.features, self.places.new_zeros(len(self.places), num_tokens, 0, dtype=torch.bool)
        passed = self.places.unsqueeze(1) <= positions.unsqueeze(-1)  # (B, S, M)
        place, last = self.places.unsqueeze(1).where(passed, -1).max(-1, keepdim=True)  # (B, S, 1)
        sees = place >= (0 if starts is None else starts.unsqueeze(-1))
        if num_tokens == 1:  # a step of generation reads one image
            index = last.unsqueeze(-1).expand(-1, -1, *self.features.shape[2:])
            return self.features.gather(1, index), sees
        return self.features, sees & (last == torch.arange(num_images, device=last.device))


def share_images(cache: Any, copy: Any, times: int) -> None:
    """Have a copy of a cache that repeats each row so many times know the images of its tokens, where the cache does."""
    if (read := getattr(cache, ON_CACHE, None)) is not None:
        setattr(copy, ON_CACHE, read.repeat(times))
