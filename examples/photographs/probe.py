"""The linear probe: how much of the labels a logistic regression reads off the very features that the connector gets.

It bounds what the assistant can be expected to see: same encoder, same layer, same training photographs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ..rows.images import open_image
from .labelled import Photograph

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the L2 penalty, among which cross-validation on the training part chooses
FOLDS = 5
BATCH = 32


def probe(
    model: Any,
    processor: Any,
    folder: Path,
    train: Sequence[Photograph],
    validation: Sequence[Photograph],
    labels: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Fit the probe on the training photographs and let it name those kept back.

    Args:
        model: A LLaVA; of it the vision tower alone is used.
        processor: Its processor.
        folder: Where the photographs' paths start.
        train: What the probe is fitted to.
        validation: What it is examined on.
        labels: In the order of the classes.
        seed: Of the folds.

    Returns:
        `named`: a label by path for each photograph of `validation`; `l2`: the penalty that was chosen; `channels`: the
        width of the features.
    """
    seen = pooled_features(model, processor, folder, train)
    unseen = pooled_features(model, processor, folder, validation)
    mean, deviation = seen.mean(0), seen.std(0, correction=0).clamp_min(1e-6)
    seen, unseen = (seen - mean) / deviation, (unseen - mean) / deviation
    truth = torch.tensor([labels.index(photograph.label) for photograph in train])
    l2 = choose_l2(seen, truth, len(labels), seed)
    weight, bias = fit(seen, truth, len(labels), l2)
    named = (unseen @ weight + bias).argmax(-1).tolist()
    return {
        "named": {photograph.path: labels[k] for photograph, k in zip(validation, named, strict=True)},
        "l2": l2,
        "channels": seen.shape[1],
    }


@torch.inference_mode()
def pooled_features(model: Any, processor: Any, folder: Path, photographs: Sequence[Photograph]) -> torch.Tensor:
    """The features that the connector reads, pooled: the mean of the patches, and before it the class token if there is
    one.

    Returns:
        `(photographs, channels)`, in float32 on the CPU.
    """
    config, tower = model.config, model.model.vision_tower
    extra = config.num_additional_image_tokens or 0
    layers = config.vision_feature_layer
    pooled = []
    for start in range(0, len(photographs), BATCH):
        batch = photographs[start : start + BATCH]
        pictures = [open_image(folder / photograph.path, photograph.path) for photograph in batch]
        pixels = processor.process_images(pictures)["pixel_values"].to(tower.device, tower.dtype)
        states = tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features = torch.cat(chosen, dim=-1)  # (images, extra + patches, channels)
        parts = [features[:, 0]] * (extra > 0) + [features[:, extra:].mean(1)]
        pooled.append(torch.cat(parts, dim=-1).float().cpu())
    return torch.cat(pooled).clone()  # out of inference mode


def fit(features: torch.Tensor, truth: torch.Tensor, classes: int, l2: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression by L-BFGS: mean cross-entropy + l2 / 2 * |W|^2, the bias not penalised.

    Args:
        features: `(rows, channels)`, standardised.
        truth: Classes, `(rows,)`.
        classes: How many there are.
        l2: Strength of the penalty.

    Returns:
        Weight `(channels, classes)` and bias `(classes,)`.
    """
    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(features @ weight + bias, truth) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def choose_l2(features: torch.Tensor, truth: torch.Tensor, classes: int, seed: int) -> float:
    """The strength that names most right in cross-validation; of equals, the strongest."""
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    right = dict.fromkeys(STRENGTHS, 0)
    for held in order.chunk(min(FOLDS, len(truth))):
        rest = torch.ones(len(truth), dtype=torch.bool)
        rest[held] = False
        for l2 in STRENGTHS:
            weight, bias = fit(features[rest], truth[rest], classes, l2)
            right[l2] += int(((features[held] @ weight + bias).argmax(-1) == truth[held]).sum())
    return max(STRENGTHS, key=lambda l2: (right[l2], l2))
