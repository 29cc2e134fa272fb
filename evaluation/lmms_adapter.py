"""Our checkpoints in `lmms-eval`, for every benchmark that is not in `tasks`.

    pip install 'llavakit[lmms]'
    lmms-eval --model llavakit --model_args pretrained=CKPT --tasks mmstar --force_simple

lmms-eval finds the adapter by itself, through the entry point `lmms_eval.models`. Only lmms-eval imports this module.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from ..inference.chat import load_llava
from ..inference.engine import Answer, Question, text_block
from ..inference.local_engine import LocalEngine
from ..rows.schema import IMAGE_PLACEHOLDER

MODEL = ModelManifest("llavakit", simple_class_path=f"{__name__}.LlavakitModel")

MAX_NEW_TOKENS = 1024  # where a task says nothing, as lmms-eval's own models have it
LONGEST_CONTINUATION = 64  # tokens that are looked at to tell whether a continuation is the greedy one


class LlavakitModel(lmms):
    """Answers lmms-eval's requests.

    Args:
        pretrained: Folder or Hub id of the checkpoint.
        batch_size: How many questions the model reads at once.
        trust_remote_code: Needed only for backbones that ship their own code.

    Raises:
        ValueError: An option of lmms-eval that is not known here.
    """

    is_simple = True

    def __init__(
        self, pretrained: str, batch_size: int | str = 16, trust_remote_code: bool = False, **options: Any
    ) -> None:
        super().__init__()
        unknown = sorted(set(options) - {"device", "max_batch_size"})  # lmms-eval passes these two to every model
        if unknown:
            raise ValueError(
                f"--model_args {unknown[0]} is not known; give pretrained, batch_size, trust_remote_code."
            )
        self._loaded = load_llava(pretrained, trust_remote_code)
        self._batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Written answers, in the order of the requests.

        Raises:
            ValueError: A question that cannot be answered. lmms-eval would score an empty answer.
        """
        by_temperature: dict[float, list[tuple[int, Question]]] = {}
        stops: dict[int, list[str]] = {}
        for number, request in enumerate(requests):
            context, settings, *document = request.args
            stops[number] = _stops(settings.get("until"))
            temperature = float(settings.get("temperature") or 0) if settings.get("do_sample", True) else 0.0
            longest = int(settings.get("max_new_tokens") or MAX_NEW_TOKENS)
            question = self._question(str(number), context, document, max_new_tokens=longest)
            by_temperature.setdefault(temperature, []).append((number, question))
        texts: dict[int, str] = {}
        for temperature, questions in by_temperature.items():
            for answer in self._answers((question for _, question in questions), temperature):
                texts[int(answer.id)] = _cut(answer.text or "", stops[int(answer.id)])
        return [texts[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what the model would write."""
        groups: dict[tuple[Any, ...], list[tuple[int, str]]] = {}
        for number, request in enumerate(requests):
            context, target, *document = request.args
            continuation = target if isinstance(target, str) else target(self._document(document))
            groups.setdefault((context, *document), []).append((number, continuation))
        questions = []
        for place, ((context, *document), members) in enumerate(groups.items()):
            choices = list(dict.fromkeys(continuation for _, continuation in members))
            questions.append(self._question(f"{place}/choices", context, document, choices=choices))
            questions.append(self._question(f"{place}/greedy", context, document, max_new_tokens=LONGEST_CONTINUATION))
        answers = {answer.id: answer for answer in self._answers(questions)}
        found: dict[int, tuple[float, bool]] = {}
        for place, members in enumerate(groups.values()):
            written = answers[f"{place}/greedy"].text or ""
            for number, continuation in members:
                likelihood = answers[f"{place}/choices"].scores[continuation]
                found[number] = (likelihood, written.startswith(continuation.strip()))
        return [found[number] for number in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("llavakit answers tasks of one round; this one has several.")

    def _answers(self, questions: Iterable[Question], temperature: float = 0.0) -> Iterator[Answer]:
        for answer in LocalEngine(*self._loaded, batch_size=self._batch_size, temperature=temperature).answer(
            questions
        ):
            if answer.error is not None:
                raise ValueError(f"request {answer.id} cannot be answered: {answer.error}")
            yield answer

    def _document(self, document: Sequence[Any]) -> Any:
        _, number, task, split = document
        return self.task_dict[task][split][number]

    def _question(self, name: str, context: str, document: Sequence[Any], **settings: Any) -> Question:
        """The question, with its images where the context names them, and before it otherwise."""
        images = list(document[0](self._document(document)) or [])
        pieces = context.split(IMAGE_PLACEHOLDER)
        if len(pieces) - 1 != len(images):
            pieces = [*[""] * len(images), context]
        content: list[dict[str, Any]] = []
        for place, piece in enumerate(pieces):
            content += [{"type": "image"}] if place else []
            content += [text_block(piece)] if piece.strip() else []
        return Question(name, messages=[{"role": "user", "content": content}], images=images, **settings)


def _stops(until: str | Sequence[str] | None) -> list[str]:
    return [until] if isinstance(until, str) else list(until or [])


def _cut(text: str, stops: Iterable[str]) -> str:
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text
