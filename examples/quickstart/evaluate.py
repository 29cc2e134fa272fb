"""Asking a model about scenes it has never seen, and counting what it gets right."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from .questions import KINDS, Examiner, SceneQuestion
from .world import Pair, Scene, draw_scene, sample_scene

BATCH = 60
MAX_NEW_TOKENS = 80  # a description of four things takes 54


@dataclass(frozen=True)
class Item:
    """A question of the exam: the scene that it is about, and whether that shows a pair that was never trained on."""

    scene: Scene
    question: SceneQuestion
    held_out_pair: bool


def make_exam(seed: int, pairs: Iterable[Pair], held_out: frozenset[Pair], questions_a_kind: int) -> list[Item]:
    """Questions about new scenes, as many of each kind; every fourth scene shows a pair that was never trained on."""
    rng = random.Random(f"exam {seed}")
    examiner = Examiner(rng, pairs)
    items: list[Item] = []
    missing = dict.fromkeys(KINDS, questions_a_kind)
    while any(missing.values()):
        wanted = held_out if rng.random() < 0.25 else frozenset()
        scene = sample_scene(rng, frozenset() if wanted else held_out, wanted)
        for kind in KINDS:
            question = examiner.ask(scene, kind) if missing[kind] else None
            if question is not None:
                missing[kind] -= 1
                items.append(Item(scene, question, bool(scene.pairs & held_out)))
    return items


def answers(
    model: Any, processor: Any, items: Sequence[Item], *, blind: bool = False, show_progress: bool = True
) -> list[str]:
    """The model's greedy answer to each question, without the stop.

    Args:
        model: A LLaVA.
        processor: Its processor.
        items: The exam.
        blind: Withhold the pictures.
        show_progress: Whether to draw a progress bar.
    """
    model.eval()
    said: list[str] = []
    for start in tqdm(range(0, len(items), BATCH), desc="Asking", disable=not show_progress):
        batch = items[start : start + BATCH]
        pictures = None if blind else [draw_scene(item.scene) for item in batch]
        said += ask_batch(model, processor, [item.question.text for item in batch], pictures)
    return said


@torch.inference_mode()
def ask_batch(
    model: Any, processor: Any, questions: Sequence[str], pictures: Sequence[Image.Image] | None
) -> list[str]:
    """The model's greedy answers, without the stop, each to a question about a picture or, without any, to words alone."""
    talks = []
    for place, question in enumerate(questions):
        seen = [{"type": "image", "image": pictures[place]}] if pictures else []
        talks.append([{"role": "user", "content": [*seen, {"type": "text", "text": question}]}])
    batch = processor.apply_chat_template(
        talks,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    generated = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    texts = processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def accuracy(items: Sequence[Item], said: Sequence[str]) -> dict[str, float]:
    """The share of right answers: of each kind, over all, and over the scenes with a pair never trained on."""
    right = [answer == item.question.answer for item, answer in zip(items, said, strict=True)]
    groups = {kind: [item.question.kind == kind for item in items] for kind in KINDS}
    groups["all"] = [True] * len(items)
    groups["held_out_pairs"] = [item.held_out_pair for item in items]
    return {
        name: sum(r for r, m in zip(right, members, strict=True) if m) / max(1, sum(members))
        for name, members in groups.items()
    }


def best_guess(items: Sequence[Item]) -> list[str]:
    """For each question its most frequent answer in the exam: more than its words alone can tell."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        counts[item.question.text][item.question.answer] += 1
    return [counts[item.question.text].most_common(1)[0][0] for item in items]
