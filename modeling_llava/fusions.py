"""The fusions, by name: `FUSIONS`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from .fusion_attend import GatedAttentionFusion
from .fusion_base import Fusion
from .image_tokens import check_image_tokens


class SpliceFusion(Fusion):
    """Features in the place of word embeddings, a feature an image token (arXiv:2304.08485, section 4.1)."""

    def read(
        self,
        language_model: nn.Module,
        connector: Any,
        inputs: dict[str, Any],
        placeholders: torch.Tensor | None = None,
        images: Sequence[torch.Tensor] | None = None,
    ) -> Any:
        """See `Fusion.read`."""
        if placeholders is not None and images is not None:
            joined, embeds = torch.cat(list(images)), inputs["inputs_embeds"]
            if torch.compiler.is_compiling():  # lengths are data there: only their sum can be checked
                torch_compilable_check(
                    placeholders.sum() == joined.shape[0], "image tokens and image features differ in number"
                )
            else:
                check_image_tokens(placeholders.sum(-1).tolist(), [len(image) for image in images])
            embeds = embeds.masked_scatter(placeholders.unsqueeze(-1), joined.to(embeds))
            inputs = {**inputs, "inputs_embeds": embeds}
        return language_model(**inputs)


# `LlavaConfig.image_fusion` is a key of this.
FUSIONS: dict[str, Fusion] = {"splice": SpliceFusion(), "attend": GatedAttentionFusion()}

__all__ = ["FUSIONS", "SpliceFusion"]
