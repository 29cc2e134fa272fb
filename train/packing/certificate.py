"""Whether a pack of rows trains a model as the rows alone do, shown on the model and the rows themselves.

rows ──> each alone   ──> loss of every row, gradients of every part  ──┐
     ──> packed       ──> the same, of the pack                       ──┼──> Certificate: what differs, and by how much
     ──> a neighbour changed, removed, the order turned around        ──┘
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...modeling_llava.model_parts import part_of
from ..batching import IGNORE_INDEX, Sample
from ..step.training_forward import training_forward
from .attention import CannotPack
from .laying_out import order_of, packed_batch

# Largest difference by the precision that is computed in: of losses (see `_most`), and of gradients as a whole, relative.
# Rounding makes 5e-5 of the gradients of 30 layers in float32, and 4e-7 in float64, where norms are float32 all the same.
TOLERANCES = {
    torch.float64: (1e-7, 1e-5),
    torch.float32: (1e-5, 1e-3),
    torch.bfloat16: (2e-2, 1e-1),
    torch.float16: (5e-3, 5e-2),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was compared.

    Attributes:
        what: In words.
        difference: The largest found, relative, or in nats of a loss less than one; of what cannot be computed, infinite.
        tolerance: What it may be.
    """

    what: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    Attributes:
        rows: How many rows, and tokens in them.
        tokens: Of all rows alone.
        shared: Of these, how many a pack of all holds fewer, since pictures are shared.
        attention: The implementation of attention.
        dtype: That is computed in.
        findings: What was compared.
        refusal: Why the model cannot be shown packs at all, or None.
    """

    rows: int
    tokens: int
    shared: int
    attention: str
    dtype: str
    findings: tuple[Finding, ...] = ()
    refusal: str | None = None

    @property
    def holds(self) -> bool:
        """Yes or no."""
        return self.refusal is None and bool(self.findings) and all(finding.holds for finding in self.findings)


def certify(
    llava: Any, processor: Any, samples: Sequence[Sample], *, attention: str | None = None, gradients: bool = True
) -> Certificate:
    """Compare samples alone with the same packed. The model is left as it was, without gradients.

    Args:
        llava: A `LlavaForConditionalGeneration`, with `requires_grad` as it will be trained.
        processor: Its processor.
        samples: Two or more; those about the same picture share it.
        attention: The implementation of attention. Default: the one that trains.
        gradients: Compare them too, which takes as much memory again as the parameters that learn.

    Raises:
        ValueError: There are fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} row(s): a pack needs two or more.")
    embedding = llava.get_input_embeddings().weight
    device = embedding.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embedding.dtype
    of_loss, of_gradients = TOLERANCES[dtype]
    was_training = llava.training
    llava.eval()  # dropout would differ from one time to the next
    with training_forward(llava, attention=attention):
        compared = _Compared(llava, processor, embedding.device)
        implementation = llava.model.language_model.config._attn_implementation
        tokens = sum(len(each.input_ids) for each in samples)
        shared = tokens - compared.batch_of(samples)["pieces"].num_tokens
        facts = len(samples), tokens, shared, implementation, str(dtype)[6:]
        try:
            findings = compared.losses(samples, of_loss)
            if gradients:
                findings += compared.gradients(samples, of_gradients)
            certificate = Certificate(*facts, tuple(findings))
        except CannotPack as error:
            certificate = Certificate(*facts, refusal=str(error))
        finally:
            llava.zero_grad()
            llava.train(was_training)
    return certificate


class _Compared:
    def __init__(self, llava: Any, processor: Any, device: torch.device) -> None:
        self.llava, self.processor, self.device = llava, processor, device

    def losses(self, samples: Sequence[Sample], tolerance: float) -> list[Finding]:
        with torch.no_grad():
            alone = [self._losses([sample])[0] for sample in samples]
            packed = self._losses(samples)
            changed = self._losses([samples[0], *map(_another, samples[1:])])
            removed = self._losses(samples[1:])
            turned = self._losses(samples[::-1])[::-1]
            apart = self._losses([_apart(sample) for sample in samples])
        pairs = {
            "loss of every row, packed and alone": (packed, alone),
            "loss of a row when all others in its pack change": (changed[:1], packed[:1]),
            "loss of every row when one in its pack is removed": (removed, packed[1:]),
            "loss of every row when its pack is turned around": (turned, packed),
            "loss of every row when no picture is shared": (apart, packed),
        }
        return [Finding(what, _most(*both), tolerance) for what, both in pairs.items()]

    def gradients(self, samples: Sequence[Sample], tolerance: float) -> list[Finding]:
        packed = self._gradients([samples])
        alone = self._gradients([[sample] for sample in samples])
        return [
            Finding(f"gradients of the {part}, packed and alone", _distance(packed[part], alone[part]), tolerance)
            for part in alone
        ]

    def batch_of(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return packed_batch(
            samples,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            image_token_id=self.processor.image_token_id,
            process_images=self.processor.process_images,
        )

    def _forward(self, samples: Sequence[Sample]) -> tuple[Any, dict[str, Any]]:
        batch = self.batch_of(samples)
        on_device = {name: value.to(self.device) if hasattr(value, "to") else value for name, value in batch.items()}
        return self.llava(**on_device, use_cache=False, fused_lm_head=True), batch

    def _losses(self, samples: Sequence[Sample]) -> list[float]:
        """Mean loss of each sample, in the order of the samples."""
        outputs, batch = self._forward(samples)
        pieces, labels = batch["pieces"], batch["labels"][0]
        bounds = torch.tensor(pieces.starts)
        piece_of = torch.searchsorted(bounds, torch.nonzero(labels != IGNORE_INDEX).flatten(), right=True) - 1
        losses = [-outputs.log_probs[(piece_of == piece).to(self.device)].mean().item() for piece in pieces.rows]
        found = [0.0] * len(samples)
        for loss, index in zip(losses, order_of(samples), strict=True):
            found[index] = loss
        return found

    def _gradients(self, packs: Sequence[Sequence[Sample]]) -> Mapping[str, list[torch.Tensor]]:
        """Gradients of the sum of all losses, by the part of the model."""
        self.llava.zero_grad()
        for samples in packs:
            loss = -self._forward(samples)[0].log_probs.sum()
            if loss.requires_grad:  # rows of text alone have nothing that learns where that is the connector
                loss.backward()
        parts: dict[str, list[torch.Tensor]] = {}
        for name, parameter in self.llava.named_parameters():
            if parameter.grad is not None:
                parts.setdefault(part_of(name), []).append(parameter.grad.detach().clone())
        return parts


def _most(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference of losses, each by its own, or in nats where that is less than one.

    Of what is learnt by heart next to nothing is left, and rounding is a large share of that.
    """
    apart = [abs(a - b) / max(abs(b), 1.0) for a, b in zip(found, expected, strict=True)]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf  # `max` passes over what is no number


def _distance(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Norm of the difference, by the norm of what is expected."""
    apart = sum((a.double() - b.double()).square().sum().item() for a, b in zip(found, expected, strict=True))
    size = sum(b.double().square().sum().item() for b in expected)
    return (apart / size) ** 0.5 if size else float(apart > 0)


def _another(sample: Sample) -> Sample:
    """A sample that says its first word over and over, of a picture turned upside down."""
    ids, supervised = sample.input_ids.clone(), sample.labels != IGNORE_INDEX
    ids[supervised] = ids[0]
    pictures = [image.rotate(180) if hasattr(image, "rotate") else image for image in sample.images]
    return Sample(ids, torch.where(supervised, ids, sample.labels), pictures)


def _apart(sample: Sample) -> Sample:
    apart = copy.copy(sample)
    apart.image_keys = ()
    return apart
