"""From a rendered chat to token ids and the mask of what is supervised.

The label spans come from the template's own ``{% generation %}`` blocks, and nothing is ever tokenized twice and
compared. A rendered chat is cut into pieces: at images, at the control tokens the template wrote, and at both ends of
every generation block. Each piece becomes ids by itself, so a span of characters is a span of tokens by construction,
and the prompt that ends where an answer begins has exactly the ids that stand before that answer in training.

Two rules make the pieces equal to what the original LLaVA feeds its language model:

- An image or a beginning-of-sequence token starts a text: the text after it gets the tokenizer's word-start mark. (To
  transformers' own processors both are amid the text: `starts_text_anew=False`.)
- Text cut at a generation block is one text: the part after the cut gets no mark of its own.

Control strings typed by a user are told from those of the template by two noncharacters put around them before
rendering. They are encoded as the text they are.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any
from weakref import WeakKeyDictionary

from .plain_tokenizer import WHITE_SPACE, Prefix, control_tokens, plain_backends

# Noncharacters: Unicode reserves them for use inside a program. One that is typed is wrapped like a control string.
_OPEN, _CLOSE = "\ufdd2", "\ufdd3"

_NEVER = "(?!)"


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids.

    Attributes:
        input_ids (`list[int]`): Shape `(length,)`, images expanded to their run of image tokens.
        assistant_mask (`list[int]`): Shape `(length,)`, 1 where a token is supervised (answers and what ends them).
        tokens_of_image (`list[int]`): How many image tokens each image of the conversation takes, in order. Fewer
            images than the conversation has when whole turns were dropped to fit a maximum length.
    """

    input_ids: list[int]
    assistant_mask: list[int]
    tokens_of_image: list[int]

    @property
    def num_images(self) -> int:
        """How many images of the conversation, in order, the ids hold."""
        return len(self.tokens_of_image)

    def __len__(self) -> int:
        return len(self.input_ids)


class RowTooLong(ValueError):
    """Not even the first exchange of a conversation fits the maximum length. Callers drop the row and count it.

    Attributes:
        length (`int`): Tokens of the whole conversation.
        shortest (`int`): Tokens of the shortest cut that still holds something to learn.
        max_length (`int`): The limit.
        what (`str`): What does not fit.
    """

    def __init__(self, length: int, shortest: int, max_length: int, what: str):
        self.length, self.shortest, self.max_length, self.what = length, shortest, max_length, what
        super().__init__(
            f"{what} does not fit max_length={max_length}: it takes {shortest} of the row's {length} tokens, and text "
            "is only cut where a turn ends, images never. Raise max_length, or drop the row."
        )

    def __reduce__(self) -> tuple[Any, ...]:  # as it crosses from a worker process
        return type(self), (self.length, self.shortest, self.max_length, self.what)


@dataclass
class _Pieces:
    """The pieces of one chat, in order: a run of ids, or the place of a text among those to be encoded."""

    order: list[tuple[bool, list[int] | tuple[Prefix, int]]] = field(default_factory=list)
    texts: dict[Prefix, list[str]] = field(default_factory=lambda: {prefix: [] for prefix in Prefix})

    def add_ids(self, ids: list[int], supervised: bool) -> None:
        self.order.append((supervised, ids))

    def add_text(self, text: str, prefix: Prefix, supervised: bool) -> None:
        self.order.append((supervised, (prefix, len(self.texts[prefix]))))
        self.texts[prefix].append(text)


class ChatEncoder:
    """Encodes chats for one tokenizer.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Backed by the `tokenizers` library, with the image token added.
        image_token (`str`): The placeholder that templates write for an image.
        starts_text_anew (`bool`): Whether images and beginning-of-sequence tokens start a text (see above), or are amid it.

    Raises:
        ValueError: If the tokenizer has no `tokenizers` backend.
    """

    def __init__(self, tokenizer: Any, image_token: str, starts_text_anew: bool = True):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"tokenizer={type(tokenizer).__name__} is not backed by the `tokenizers` library, which exact labels "
                "need. Load it with AutoTokenizer and pass a tokenizer whose `is_fast` is True."
            )
        self._controls = control_tokens(backend)
        self._image_id = self._controls[image_token].id
        self._starts_anew = starts_text_anew
        self._bos_id = tokenizer.bos_token_id
        self._bos_is_eos = self._bos_id == tokenizer.eos_token_id
        self._backends = plain_backends(backend)

        # The longest first: a control string wins over those it contains.
        strings = "|".join(re.escape(string) for string in sorted(self._controls, key=len, reverse=True)) or _NEVER
        marks = f"[{_OPEN}{_CLOSE}]"
        self._typed = re.compile(f"{strings}|{marks}")
        # Groups: 1 a control string typed by a user, 2 a mark that lost its partner in the template, 3 a control
        # string of the template.
        self._marked = re.compile(f"{_OPEN}({strings}|{marks}){_CLOSE}|({marks})|({strings})")
        self._unmarked = re.compile(f"({_NEVER})|({_NEVER})|({strings})")

    def mark(self, value: Any) -> Any:
        """Wrap the control strings in a text (or in all texts of nested lists and dicts) that a user wrote."""
        if isinstance(value, str):
            return self._typed.sub(f"{_OPEN}\\g<0>{_CLOSE}", value)
        if isinstance(value, dict):
            return {key: self.mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item) for item in value]
        return value

    def unmark(self, rendered: str) -> str:
        """The rendered chat as it reads without marks."""
        return self._marked.sub(lambda match: match[1] or match[3] or "", rendered)

    def first_control(self, text: str) -> re.Match[str] | None:
        """The first control string in a text without marks."""
        return self._unmarked.search(text)

    def count_images(self, text: str) -> int:
        """How often the image token stands in a text without marks."""
        return sum(self._controls[match[3]].id == self._image_id for match in self._unmarked.finditer(text))

    def encode_text(self, text: str, before: str = "") -> list[int]:
        """Encode a text in which every control string is meant, as when a serving program rendered it before.

        An image stands in it as the run of image tokens that it takes. Of `before`, from which the text goes on as an
        answer does from its prompt, no ids are returned.
        """
        if not before:
            return self._encode([(text, False)], self._unmarked, repeat(1))[0]
        ids = self._encode([(before, False), (text, True)], self._unmarked, repeat(1))[0]
        return ids[len(self.encode_text(before)) :]

    def encode_rendered(
        self, rendered: str, spans: Sequence[tuple[int, int]], tokens_of_image: Sequence[int]
    ) -> Encoded:
        """Encode a chat rendered from marked messages.

        Args:
            rendered (`str`): The rendered chat.
            spans (`list[tuple[int, int]]`): Where its generation blocks start and end, in characters.
            tokens_of_image (`list[int]`): How many tokens each image of the conversation takes.

        Raises:
            ValueError: If the rendering has more or fewer image tokens than the conversation has images.
        """
        runs = chain(tokens_of_image, repeat(0))
        input_ids, mask, num_images = self._encode(_segments(rendered, spans), self._marked, runs)
        if num_images != len(tokens_of_image):
            raise ValueError(
                f"The conversation has {len(tokens_of_image)} image blocks, and its rendering {num_images} image "
                "tokens: the chat template drops or repeats images. Put images into user messages, or use a shipped "
                "template."
            )
        return Encoded(input_ids, mask, list(tokens_of_image))

    def _encode(
        self, segments: Sequence[tuple[str, bool]], controls: re.Pattern[str], runs: Iterator[int]
    ) -> tuple[list[int], list[int], int]:
        """Token ids, the mask of what is supervised, and the number of images; `runs` are their lengths in tokens."""
        pieces, num_images = self._cut(segments, controls, runs)
        encoded = {
            prefix: self._backends[prefix].encode_batch_fast(texts, add_special_tokens=False)
            for prefix, texts in pieces.texts.items()
            if texts
        }
        input_ids: list[int] = []
        mask: list[int] = []
        for supervised, piece in pieces.order:
            ids = piece if isinstance(piece, list) else encoded[piece[0]][piece[1]].ids
            input_ids += ids
            mask += [int(supervised)] * len(ids)
        return input_ids, mask, num_images

    def _cut(
        self, segments: Sequence[tuple[str, bool]], controls: re.Pattern[str], runs: Iterator[int]
    ) -> tuple[_Pieces, int]:
        pieces = _Pieces()
        num_images = 0
        prefix = Prefix.START
        strip = False  # the control token before swallows the white space after it
        for segment, supervised in segments:
            # An answer keeps its first line break even after a header that swallows white space, supervised as given.
            strip = strip and not supervised
            text, position = "", 0
            for match in controls.finditer(segment):
                text += segment[position : match.start()]
                position = match.end()
                if match.lastindex != 3:
                    text += match[1] or ""
                    continue
                token = self._controls[match[3]]
                if strip:
                    text = text.lstrip(WHITE_SPACE)
                if token.lstrip:
                    text = text.rstrip(WHITE_SPACE)
                if text:
                    pieces.add_text(text, prefix, supervised)
                if token.id == self._image_id:
                    pieces.add_ids([token.id] * next(runs), False)
                    num_images += 1
                    begins = True
                else:
                    # Where one token both begins and ends a text (GPT-2), only the first is a beginning.
                    begins = token.id == self._bos_id and (not self._bos_is_eos or not pieces.order)
                    pieces.add_ids([token.id], supervised)
                prefix = Prefix.START if begins and self._starts_anew else Prefix.INNER
                strip = token.rstrip
                text = ""
            text += segment[position:]
            if strip:
                text = text.lstrip(WHITE_SPACE)
            if text:
                pieces.add_text(text, prefix, supervised)
                prefix, strip = Prefix.CONTINUATION, False
        return pieces, num_images


def _segments(rendered: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Cut a text at the ends of its generation blocks: (text, whether it is supervised), in order."""

    def cut() -> Iterator[tuple[str, bool]]:
        position = 0
        for start, end in spans:
            yield rendered[position:start], False
            yield rendered[start:end], True
            position = end
        yield rendered[position:], False

    return [(text, supervised) for text, supervised in cut() if text]


_ENCODERS: WeakKeyDictionary[Any, tuple[tuple[Any, ...], ChatEncoder]] = WeakKeyDictionary()


def chat_encoder(tokenizer: Any, image_token: str, starts_text_anew: bool = True) -> ChatEncoder:
    """The encoder of a tokenizer, built once and again when the tokenizer has grown.

    Kept beside the tokenizer and not on the processor, which stays plain data to be saved, copied and sent to workers.
    """
    key, cached = (len(tokenizer), image_token, starts_text_anew), _ENCODERS.get(tokenizer)
    if cached is None or cached[0] != key:
        cached = key, ChatEncoder(tokenizer, image_token, starts_text_anew)
        _ENCODERS[tokenizer] = cached
    return cached[1]
