"""Asking a model about scenes it has never seen, and counting what it gets right."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from .questions import KINDS, Examiner, Question
from .world import Pair, Scene, draw_scene, sample_scene

BATCH = 60


@dataclass(frozen=True)
class Item:
    """A question of the exam: the scene that it is about, and whether it names a pair that was never trained on."""

    scene: Scene
    question: Question
    held_out_pair: bool


def make_exam(seed: int, pairs: Iterable[Pair], held_out: frozenset[Pair], questions_a_kind: int) -> list[Item]:
    """Questions about new scenes, as many of each kind; every second scene shows a pair that was never trained on."""
    rng = random.Random(f"exam {seed}")
    examiner = Examiner(rng, pairs)
    items: list[Item] = []
    missing = dict.fromkeys(KINDS, questions_a_kind)
    while any(missing.values()):
        wanted = held_out if rng.random() < 0.5 else frozenset()
        scene = sample_scene(rng, frozenset() if wanted else held_out, wanted)
        for kind in KINDS:
            question = examiner.ask(scene, kind) if missing[kind] else None
            if question is not None:
                missing[kind] -= 1
                items.append(Item(scene, question, bool(question.about & held_out)))
    return items


@torch.inference_mode()
def answers(model: Any, processor: Any, items: Sequence[Item], *, blind: bool = False, title: str = "") -> list[str]:
    """The model's greedy answer to each question, without the stop.

    Args:
        model: A LLaVA.
        processor: Its processor.
        items: The exam.
        blind: Withhold the pictures.
        title: Of the progress bar.
    """
    model.eval()
    said: list[str] = []
    for start in tqdm(range(0, len(items), BATCH), desc=f"Asking {title}".strip()):
        talks = []
        for item in items[start : start + BATCH]:
            seen = [] if blind else [{"type": "image", "image": draw_scene(item.scene)}]
            content = [*seen, {"type": "text", "text": item.question.text}]
            talks.append([{"role": "user", "content": content}])
        batch = processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        generated = model.generate(**batch, max_new_tokens=40, do_sample=False)
        texts = processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        said += [text.strip() for text in texts]
    return said


def accuracy(items: Sequence[Item], said: Sequence[str]) -> dict[str, float]:
    """The share of right answers: of each kind, over all, and over the questions about never-trained pairs."""
    right = [answer == item.question.answer for item, answer in zip(items, said, strict=True)]
    groups = {kind: [item.question.kind == kind for item in items] for kind in KINDS}
    groups["all"] = [True] * len(items)
    groups["held_out_pairs"] = [item.held_out_pair for item in items]
    return {
        name: sum(r for r, m in zip(right, members, strict=True) if m) / max(1, sum(members))
        for name, members in groups.items()
    }


def best_guess(items: Sequence[Item]) -> list[str]:
    """For each question the answer that is most frequent in the exam for its form: all that words alone can tell."""
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        of_form = counts.setdefault(item.question.form, {})
        of_form[item.question.answer] = of_form.get(item.question.answer, 0) + 1
    return [max(counts[item.question.form], key=counts[item.question.form].__getitem__) for item in items]
