"""Questions answered by a model in this process: what they share is read once, and the rest in batches."""

import itertools
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..processing.video_frames import files_of, is_video
from ..rows.images import ImageSource, open_visual
from .choices import ChoiceScorer, EncodedChoices, encode_choices
from .engine import Answer, Question
from .fingerprint import model_fingerprint
from .generation import AnswerEnd, Sampling, check_fits
from .prefix import EncodedPrompt, Prefix, PromptReader

_WINDOW = 4  # so many batches of questions are looked at together, and their images held in memory


@dataclass(frozen=True)
class _SeenImage:
    """An image as it has been opened and processed once, for all questions about it."""

    size: tuple[int, ...]  # width and height; of a video, also how many frames were taken
    pixels: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Task:
    """A question that can be asked."""

    question: Question
    prompt: EncodedPrompt
    choices: EncodedChoices | None

    @property
    def longest(self) -> int:
        """The most tokens that may follow the prompt."""
        return self.question.max_new_tokens if self.choices is None else self.choices.num_tokens

    @property
    def branches(self) -> bool:
        """Whether its prompt is read with several continuations: choices of more than one token."""
        return self.choices is not None and self.choices.num_tokens > 1


class LocalEngine:
    """Answers with a model that is loaded here. Greedily, the answers are those that each question gets alone (up to
    the rounding of sums taken in another order, which bfloat16 can show).

    Questions about the same images share their prefix (system message and images): it is read once and its cache
    branched. They should come one after the other, as far as sharing goes; a window of them is looked at together.

    Args:
        model: A LLaVA, in eval mode.
        processor: Its processor.
        batch_size: How many questions the model reads at once. 1 answers one by one, and still shares prefixes.
        temperature: Of sampling; 0 is greedy.
        seed: Of sampling.

    Raises:
        ValueError: `batch_size` below 1, or a negative temperature.
    """

    def __init__(
        self, model: Any, processor: Any, *, batch_size: int = 16, temperature: float = 0.0, seed: int | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give 1 or more.")
        Sampling(temperature=temperature)
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.temperature = temperature
        self._reader, self._end = PromptReader(model, processor), AnswerEnd(model, processor)
        self._scorer = ChoiceScorer(model, self._reader)
        if seed is not None:
            torch.manual_seed(seed)

    def fingerprint(self) -> str:
        """What the model is known by: other weights have another."""
        return model_fingerprint(self.model, self.processor)

    def boxes_in(self, text: str, width: int, height: int) -> list[list[float]] | None:
        """See `Engine.boxes_in`."""
        return self.processor.boxes_in(text, width, height)

    def answer(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """See `Engine.answer`. A question comes back with an error if its images cannot be read, or it is too long."""
        questions = iter(questions)
        while window := list(itertools.islice(questions, _WINDOW * self.batch_size)):
            groups: dict[tuple[Hashable, ...], list[_Task]] = {}
            seen: dict[Hashable, _SeenImage] = {}
            for question in window:
                try:
                    task = self._task(question, seen)
                except ValueError as error:
                    yield Answer(question.id, None, error=str(error))
                    continue
                groups.setdefault(tuple(map(_identity, question.images)), []).append(task)
            # Images with one question each go together, and share what stands before the images
            alone = [group[0] for group in groups.values() if len(group) == 1 and not group[0].branches]
            for group in [*(group for group in groups.values() if len(group) > 1 or group[0].branches), alone]:
                yield from self._answer_group(group)

    def _task(self, question: Question, seen: dict[Hashable, _SeenImage]) -> _Task:
        """Encode a question, and its images where they have not been seen."""
        for source in question.images:
            if (identity := _identity(source)) not in seen:
                image = open_visual(source, f"question {question.id!r}", self.processor.video_frames)
                seen[identity] = _SeenImage(image.size, self.processor.process_images([image]))
        images = [seen[_identity(source)] for source in question.images]
        sizes = [image.size for image in images]
        messages = question.conversation()
        encoded = self.processor.encode_conversation(messages, add_generation_prompt=True, image_sizes=sizes)
        if encoded.num_images != len(images):
            raise ValueError(
                f"question {question.id!r} has {encoded.num_images} place(s) for an image and {len(images)} "
                "image(s): give one for each place."
            )
        prompt = EncodedPrompt(encoded.input_ids, [image.pixels for image in images], encoded.tokens_of_image)
        choices = None
        if question.choices is not None:
            choices = encode_choices(self.processor, messages, prompt, question.choices, sizes)
        task = _Task(question, prompt, choices)
        check_fits(self.model, len(prompt.ids), task.longest)
        return task

    def _answer_group(self, tasks: Sequence[_Task]) -> Iterator[Answer]:
        """Answer questions that begin alike."""
        if not tasks:
            return
        # A prompt is counted twice where its own choices share it
        prompts = [task.prompt for task in tasks for _ in range(2 if task.branches else 1)]
        with torch.inference_mode():
            prefix = self._reader.shared_prefix(prompts)
        for max_new_tokens in sorted({task.longest for task in tasks if task.choices is None}):
            same = [task for task in tasks if task.choices is None and task.longest == max_new_tokens]
            for batch in self._reader.batches([task.prompt for task in same], self.batch_size, max_new_tokens):
                yield from self._generate([same[place] for place in batch], prefix, max_new_tokens)
        scored = [task for task in tasks if task.choices is not None]
        for batch in self._reader.batches([task.prompt for task in scored], self.batch_size):
            yield from self._score([scored[place] for place in batch], prefix)

    def _generate(self, tasks: Sequence[_Task], prefix: Prefix, max_new_tokens: int) -> Iterator[Answer]:
        inputs = self._reader.batch([task.prompt for task in tasks], prefix)
        sampling = Sampling(max_new_tokens, self.temperature)
        with torch.inference_mode():
            sequences = self.model.generate(**inputs, **self._end.options(), **sampling.options())
        for task, ids in zip(tasks, sequences[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            yield Answer(task.question.id, *self._end.cut(ids))

    def _score(self, tasks: Sequence[_Task], prefix: Prefix) -> Iterator[Answer]:
        rows = [(task.prompt, task.choices) for task in tasks if task.choices is not None]
        with torch.inference_mode():
            scores = self._scorer.score(rows, prefix)
        for task, one in zip(tasks, scores, strict=True):
            named = dict(zip(task.question.choices or (), one, strict=True))
            yield Answer(task.question.id, max(named, key=named.__getitem__), "stop", scores=named)


def _identity(source: ImageSource) -> Hashable:
    """The same for two sources that are the same image: its path, its bytes, or the opened object; of videos likewise."""
    if isinstance(source, Mapping) and is_video(source):
        return "video", source.get("frames") is None, *map(_identity, files_of(source))
    if isinstance(source, Mapping):
        return source.get("bytes") or source.get("path")
    return os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)
