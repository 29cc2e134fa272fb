"""The world's text: what the language model reads before it ever sees, and the tokenizer trained on it."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..data_generation.sources.alignment import BRIEF_QUESTIONS
from ..processing import template_text
from .questions import Examiner
from .rows import Turn, caption, conversation_turns, description, detail_turn, reasoning_turn
from .world import Scene

CHAT_TEMPLATE = "mistral"  # the shortest of the shipped ones
VOCABULARY = 512
TURNS_A_TEXT = 2

Message = dict[str, str]


def read_and_answer(scene: Scene, examiner: Examiner) -> list[Message]:
    """A conversation without a picture: the scene told in words, then told again in other words, or asked about.

    A language model that has learnt to tell and to answer from words needs only to be shown what pictures stand for.
    """
    rng = examiner.rng
    told = rng.choice([caption, description])(scene)
    retold = rng.choice([(rng.choice(BRIEF_QUESTIONS), caption(scene)), detail_turn(scene, rng)])
    turns = conversation_turns(scene, examiner, TURNS_A_TEXT)
    if not turns or rng.random() < 0.5:
        turns.append(retold)
    if rng.random() < 0.1:
        turns.append(reasoning_turn(scene, rng))
    rng.shuffle(turns)
    question, answer = turns[0]
    return messages([(f"{told}\n{question}", answer), *turns[1:]])


def messages(turns: Iterable[Turn]) -> list[Message]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 512 pieces: all words of the world whole, all other text in bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "<unk>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A text stands after a space or at the start of a line; its first word is to be one piece in both places
    backend.train_from_iterator((way for text in texts for way in (text, f" {text}")), trainer)
    # One token each instead of four; the template writes a space before the second
    backend.add_special_tokens(
        [AddedToken("[INST]", normalized=False), AddedToken("[/INST]", normalized=False, lstrip=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=template_text(CHAT_TEMPLATE),
    )
