"""The certificate of a run: made at its first start with a model, a kernel and versions, and remembered."""

import hashlib
import importlib.metadata
import inspect
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch

from ..batching import Sample
from ..step import supervised_head, training_forward
from . import attention, laying_out, pieces
from .attention import CannotPack
from .certificate import Certificate, certify

logger = logging.getLogger(__name__)

ROWS_OF_PACK, PACKS = 4, 2
MOST_GRADIENTS = 300_000_000  # parameters: beyond, their gradients twice over would not fit beside a training


def certificate_key(llava: Any, dtype: torch.dtype | None) -> str:
    """What a certificate is of: the language model's config, what learns, the kernel, the device, versions and code."""
    weight = llava.get_input_embeddings().weight
    told = {
        "language_model": llava.config.text_config.to_dict(),
        "fusion": llava.config.image_fusion,
        "learns": llava.stage,
        "dtype": str(dtype or weight.dtype),
        "device": weight.device.type,
        "flash_attn": "flash_attn" in sys.modules or None,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "code": [
            inspect.getsource(module) for module in (attention, laying_out, pieces, supervised_head, training_forward)
        ],
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def certify_run(
    llava: Any, processor: Any, samples: Sequence[Sample], dtype: torch.dtype | None = None
) -> Certificate | None:
    """Make the certificate of two packs of a run, unless one is remembered.

    Args:
        llava: Its `LlavaForConditionalGeneration`, as it will be trained.
        processor: Its processor.
        samples: Some of its rows; `ROWS_OF_PACK * PACKS` are looked at.
        dtype: That steps are computed in, where it is not that of the weights.

    Returns:
        The one of the last pack; None where one is remembered, or the run has a single row.

    Raises:
        CannotPack: The certificate says no; it is not remembered.
    """
    path = Path(datasets.config.HF_DATASETS_CACHE) / "llavakit-certificates" / f"{certificate_key(llava, dtype)}.json"
    packs = [samples[start : start + ROWS_OF_PACK] for start in range(0, ROWS_OF_PACK * PACKS, ROWS_OF_PACK)]
    packs = [pack for pack in packs if len(pack) > 1]
    learning = sum(parameter.numel() for parameter in llava.parameters() if parameter.requires_grad)
    if path.exists() or not packs:
        return None
    for pack in packs:
        certificate = certify(llava, processor, pack, gradients=learning <= MOST_GRADIENTS)
        if not certificate.holds:
            raise CannotPack(f"rows laid end to end do not train this model as they do alone: {worst(certificate)}")
    logger.info("certified: packed rows train this model as they do alone (%s). %s", worst(certificate), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(certificate), indent=1), encoding="utf-8")
    except OSError as error:
        logger.warning("the certificate cannot be kept, and will be made again: %s", error)
    return certificate


def worst(certificate: Certificate) -> str:
    """The largest difference in words, or why there is none."""
    if certificate.refusal is not None:
        return certificate.refusal
    finding = max(certificate.findings, key=lambda finding: finding.difference / finding.tolerance)
    return f"largest difference {finding.difference:.1e} of {finding.tolerance:.0e}, {finding.what}"


def spread(number: int, wanted: int) -> list[int]:
    """Numbers of rows, two by two from all over the data: neighbours are often about the same picture."""
    pairs = max(1, wanted // 2)
    starts = [index * max(1, number // pairs) for index in range(pairs)]
    return sorted({row for start in starts for row in (start, start + 1) if row < number})
