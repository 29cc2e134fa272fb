"""The two backbones, pretrained apart: a tiny CLIP that never answers a question, a tiny Llama that never sees."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ..train.batching import IGNORE_INDEX
from .phrases import attributes, phrase_text, phrases_about, truth
from .world import CELL_SIDE, IMAGE_SIDE, Pair, Scene

HIDDEN = 128
CLIP_BATCH = 128
LLAMA_BATCH = 64


def make_image_processor(mean: list[float], std: list[float]) -> CLIPImageProcessor:
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIDE}, crop_size=side, image_mean=mean, image_std=std)


def pretrain_clip(
    scenes: Sequence[Scene],
    pictures: Sequence[Image.Image],
    banned: frozenset[Pair],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    steps: int,
    seed: int,
    patch_side: int = CELL_SIDE,
) -> list[float]:
    """Trains pictures against phrases by contrast, and saves an ordinary CLIP checkpoint.

    As CLIP does, each phrase has to find its picture in the batch and each picture its phrase. The world knows more
    than pairs, though: a phrase is often true of several pictures, and then none of them counts as wrong.

    Returns:
        The loss of each step.
    """
    rng = random.Random(f"clip {seed}")
    things = attributes(scenes)
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    sample = pixels[:1000] / 255
    mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3))
    image_processor = make_image_processor(mean.tolist(), std.tolist())

    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=HIDDEN,
                intermediate_size=3 * HIDDEN,
                num_hidden_layers=3,
                num_attention_heads=4,
                image_size=IMAGE_SIDE,
                patch_size=patch_side,
                projection_dim=HIDDEN,
            ),
            text_config=CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN,
                intermediate_size=2 * HIDDEN,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=32,
                projection_dim=HIDDEN,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            projection_dim=HIDDEN,
            logit_scale_init_value=math.log(10),
        )
    )
    # As large as what is seen: with the usual small start a patch tells what it shows and hardly where it stands
    nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=4.0)

    def loss_of_batch() -> torch.Tensor:
        batch = rng.sample(range(len(scenes)), min(CLIP_BATCH, len(scenes)))
        phrases = sorted({phrase for scene in batch for phrase in phrases_about(things[scene], rng, banned)})
        texts = [f"{tokenizer.bos_token}{phrase_text(phrase)}{tokenizer.eos_token}" for phrase in phrases]
        output = model(
            **tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False),
            pixel_values=(pixels[batch] / 255 - mean[:, None, None]) / std[:, None, None],
        )
        return contrastive_loss(output.logits_per_text, torch.from_numpy(truth(phrases, things[batch])))

    losses = _train(model, loss_of_batch, steps, learning_rate=2e-3, description="Pretraining CLIP")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return losses


def contrastive_loss(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss where a text may match several pictures, and a picture several texts.

    Each match competes with the non-matches of its row (then of its column) alone, not with the other matches.

    Args:
        logits: Scaled similarities, of shape (texts, pictures).
        matches: Booleans of the same shape.
    """

    def one_way(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        others = logits.masked_fill(matches, -torch.inf).logsumexp(dim=1, keepdim=True)
        losses = F.softplus(others - logits).masked_fill(~matches, 0).sum(dim=1)
        matched = matches.any(dim=1)
        return (losses[matched] / matches[matched].sum(dim=1)).mean()

    return (one_way(logits, matches) + one_way(logits.T, matches.T)) / 2


def pretrain_llama(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    steps: int,
    seed: int,
    show_progress: bool = True,
) -> list[float]:
    """Trains next-token prediction on the world's text, and saves an ordinary Llama checkpoint.

    Returns:
        The loss of each step.
    """
    rng = random.Random(f"llama {seed}")
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    # Batches of like length: little is spent on padding
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number]))
    batches = [order[start : start + LLAMA_BATCH] for start in range(0, len(order), LLAMA_BATCH)]

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=4 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

    def loss_of_batch() -> torch.Tensor:
        rows = [encoded[number] for number in rng.choice(batches)]
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE_INDEX)
        return model(**batch, labels=labels).loss

    losses = _train(
        model, loss_of_batch, steps, learning_rate=1e-3, description="Pretraining Llama", show_progress=show_progress
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return losses


def _train(
    model: nn.Module,
    loss_of_batch: Callable[[], torch.Tensor],
    steps: int,
    learning_rate: float,
    description: str,
    show_progress: bool = True,
) -> list[float]:
    """AdamW, a short warm-up, cosine decay."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    model.train()
    losses: list[float] = []
    for _ in (bar := tqdm(range(steps), desc=description, disable=not show_progress)):
        loss = loss_of_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses
