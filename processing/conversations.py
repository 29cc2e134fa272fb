"""Conversations in, token ids and tensors out: the half of the processor that `apply_chat_template` drives."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .answer_spans import CLOCK, PROBE, STOPPED_CLOCK, derive_spans
from .answer_texts import AnswerFrame
from .call_options import CALL_OPTIONS
from .chat_encoding import ChatEncoder, Encoded, RowTooLong
from .chat_messages import flatten, normalize, shortened, texts_as_strings
from .chat_templates import has_generation_blocks, reads_blocks, reads_strings, render, template_text
from .padding import length_limit, pad


class ConversationProcessor(ProcessorMixin):
    """Renders, encodes and batches conversations. All that drives a processor with chats reaches ids by one path,
    `encode_conversation`.
    """

    image_token: str

    @property
    @abstractmethod
    def _encoder(self) -> ChatEncoder:
        """The encoder of the tokenizer."""

    @abstractmethod
    def _tokens_of_images(
        self, images: Sequence[Any], image_sizes: Sequence[Sequence[int]] | None = None
    ) -> list[int]:
        """How many tokens each image of a conversation takes."""

    @abstractmethod
    def _apply_layout(self, images: list[Any], **options: Any) -> dict[str, Any]:
        """Images as the model takes them."""

    @property
    def stop_string(self) -> str:
        """What closes an answer in the template's rendering: the eos token, "###", a line break, ..."""
        return self.stop_of(None)

    def stop_of(self, chat_template: str | None) -> str:
        """What closes an answer in the rendering of a template; None is the processor's own."""
        messages, _ = normalize([{"role": "user", "content": "Q"}, {"role": "assistant", "content": PROBE}])
        text, spans = self._render(messages, self._template(chat_template))
        tail = text[text.rindex(PROBE) + len(PROBE) : spans[-1][1] if spans else None]
        stop = tail if spans else tail[: self._stop_length(tail)]
        return stop.strip() or stop

    def answer_frame(self) -> AnswerFrame | None:
        """What the template writes around an answer; None where that does not tell an answer from other texts."""
        bos = self.tokenizer.bos_token
        try:
            template = self._template(None)
            messages, _ = normalize([{"role": "user", "content": "Q"}, {"role": "assistant", "content": PROBE}])
            prompt, _ = self._render(messages[:1], template, add_generation_prompt=True)
            text, _ = self._render(messages, template)
            after = text[text.rindex(PROBE) + len(PROBE) :]
        except (ValueError, TypeError):  # no template, or one for other conversations
            return None
        return AnswerFrame(bos, prompt, after) if bos and after and prompt.startswith(bos) else None

    def _stop_length(self, tail: str) -> int:
        """Of what a template without generation blocks writes after an answer, how many characters are the stop.

        They end with the first control token. Where there is none, all of it is the stop but the white space at its end.
        """
        control = self._encoder.first_control(tail)
        return control.end() if control else len(tail.rstrip()) or len(tail)

    def encode_conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        max_length: int | None = None,
        *,
        chat_template: str | None = None,
        image_sizes: Sequence[Sequence[int]] | None = None,
        **options: Any,
    ) -> Encoded:
        """Token ids of a conversation, and which of them are supervised.

        Images need not be loaded: an image block counts, with or without an image in it. Where the layout asks for
        sizes, the blocks carry their images or `image_sizes` are given.

        Args:
            messages (`list[dict]`): Messages with `role` and `content`: a string, or a list of blocks
                `{"type": "image"}`, `{"type": "video"}` and `{"type": "text", "text": ...}`. Strings and text blocks are
                text, whatever they contain.
            add_generation_prompt (`bool`): Whether to end with the header of an answer.
            max_length (`int`, *optional*): The most tokens to return. Whole exchanges are dropped from the end until
                the rest fits; a prompt is never cut.
            chat_template (`str`, *optional*): In place of the processor's own.
            image_sizes (`list[tuple[int, ...]]`, *optional*): Width and height, upright, of each image; of a video also how
                many frames are taken.
            options: `continue_final_message`, `tools`, `documents`, and variables for the template.

        Returns:
            `Encoded`: `input_ids`, `assistant_mask`, `tokens_of_image`.

        Raises:
            RowTooLong: If not even the first exchange fits.
            ValueError: If the template refuses the conversation, or it has no generation blocks and does not tell where
                the answers stand either (see `derive_spans`).
        """
        template = self._template(chat_template)
        options["supervised"] = not add_generation_prompt and not options.get("continue_final_message")
        normalized, images = normalize(messages)
        tokens_of_image = self._tokens_of_images(images, image_sizes)
        return self._encode(
            normalized, tokens_of_image, template, max_length, add_generation_prompt=add_generation_prompt, **options
        )

    def _encode(
        self,
        messages: list[dict[str, Any]],
        tokens_of_image: list[int],
        template: str,
        max_length: int | None = None,
        **options: Any,
    ) -> Encoded:
        """The one path from normalized messages to ids."""
        encoded = self._encode_whole(messages, tokens_of_image, template, **options)
        if max_length is None or len(encoded) <= max_length:
            return encoded
        length = shortest = len(encoded)
        if options.get("add_generation_prompt") or options.get("continue_final_message"):
            raise RowTooLong(length, shortest, max_length, "The prompt")
        for shorter in shortened(messages):
            num_images = sum(block["type"] == "image" for message in shorter for block in message["content"])
            encoded = self._encode_whole(shorter, tokens_of_image[:num_images], template, **options)
            shortest = len(encoded)
            if shortest <= max_length:
                return encoded
        raise RowTooLong(length, shortest, max_length, "The first exchange")

    def _encode_whole(
        self, messages: list[dict[str, Any]], tokens_of_image: list[int], template: str, **options: Any
    ) -> Encoded:
        text, spans = self._render(messages, template, **options)
        return self._encoder.encode_rendered(text, spans, tokens_of_image)

    def _render(
        self,
        messages: list[dict[str, Any]],
        template: str,
        *,
        supervised: bool = False,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        **variables: Any,
    ) -> tuple[str, list[tuple[int, int]]]:
        """Rendered text with the users' control strings marked, and the spans of the answers.

        Those of a template without generation blocks are worked out where `supervised` asks for them.
        """
        encoder, special_tokens = self._encoder, self.tokenizer.special_tokens_map
        marked = [
            {key: value if key == "role" else encoder.mark(value) for key, value in message.items()}
            for message in messages
        ]
        probe = (template, self.image_token, tuple(special_tokens.items()))
        if not reads_blocks(*probe):
            marked = flatten(marked, self.image_token)
        elif reads_strings(*probe):
            marked = texts_as_strings(marked)
        context = {**special_tokens, "image_token": self.image_token, **encoder.mark(variables)}
        given = {"tools": encoder.mark(tools), "documents": encoder.mark(documents)}
        text, spans = render(
            template,
            marked,
            context,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **given,
        )
        if not supervised or has_generation_blocks(template):
            return text, spans

        def again(messages: list[dict[str, Any]], add_generation_prompt: bool, time: str | None = None) -> str:
            timed = template if time is None else STOPPED_CLOCK.replace("TIME", time) + template
            return render(timed, messages, context, add_generation_prompt=add_generation_prompt, **given)[0]

        whole = marked[:-1] if continue_final_message else marked
        return text, derive_spans(again, whole, text, self._stop_length, clock=CLOCK in template)

    def _template(self, chat_template: str | None) -> str:
        own = self.chat_template
        if isinstance(own, dict):
            if chat_template is None and "default" not in own:
                raise ValueError(f"There are several chat templates; name one with chat_template: {list(own)}")
            template = own.get(chat_template or "default", chat_template)
        else:
            template = chat_template or own
        if template is None:
            raise ValueError(
                "There is no chat template: the tokenizer has none of its own. Give the processor a shipped one, for "
                "example chat_template='vicuna_v1'."
            )
        return template_text(template)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render one conversation or a batch, and with `tokenize=True` encode it and prepare its images.

        As `ProcessorMixin.apply_chat_template`, with these differences: nothing is added to what the template writes
        (a missing bos token stays missing, in training and in use alike); truncation drops whole exchanges from the
        end; and text typed in a message is always text (what transformers calls `sanitize_control_tokens`).

        Returns:
            `str` or `list[str]` without `tokenize`; `BatchFeature` with `return_dict`: `input_ids` and
            `attention_mask` of shape `(batch, length)`, `pixel_values` of shape `(images, channels, height, width)` if
            there are images, `assistant_masks` of shape `(batch, length)` if asked for; else the `input_ids`.

        Raises:
            RowTooLong: If not even the first exchange of a conversation fits `max_length`.
            ValueError: If a sample has image blocks without an image, or the mask is asked for and a sample has
                nothing to supervise, or the template does not tell what is.
        """
        template = self._template(chat_template)
        call = {key: kwargs.pop(key) for key in CALL_OPTIONS if key in kwargs} | (processor_kwargs or {})
        kwargs.pop("sanitize_control_tokens", None)
        kwargs.pop("load_audio_from_video", None)
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": tools,
            "documents": documents,
            **kwargs,
        }
        conversation = getattr(conversation, "messages", conversation)  # a Chat of transformers' pipelines
        batched = len(conversation) > 0 and (
            isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
        )
        samples = [normalize(sample) for sample in (conversation if batched else [conversation])]
        if not tokenize:
            texts = [self._encoder.unmark(self._render(messages, template, **options)[0]) for messages, _ in samples]
            return texts if batched else texts[0]

        options["supervised"] = return_assistant_tokens_mask
        given, return_tensors = call.pop("images", None), call.pop("return_tensors", return_tensors)
        if given is not None:
            # As transformers allows: images apart from the messages, for blocks that carry none.
            given = [list(images) for images in (given if batched else [given])]
            for index, ((_, blocks), images) in enumerate(zip(samples, given, strict=True)):
                _check_number_of_images(index, len(blocks), len(images))
            samples = [(messages, images) for (messages, _), images in zip(samples, given, strict=True)]
        tensors = None if return_tensors == "auto" else return_tensors
        call = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **call)
        text_options = call["text_kwargs"]
        with_types = text_options.pop("return_mm_token_type_ids", False)
        limit = length_limit(text_options, self.tokenizer)
        rows, images = self._encode_samples(samples, template, limit, return_assistant_tokens_mask, **options)
        outputs = pad(rows, self.tokenizer, text_options, with_mask=return_assistant_tokens_mask)
        if with_types:
            outputs["mm_token_type_ids"] = self.create_mm_token_type_ids(outputs["input_ids"])
        outputs |= self._apply_layout(images, **{**call["images_kwargs"], "return_tensors": tensors})
        outputs.pop("tokens_of_image", None)
        features = BatchFeature(outputs, tensor_type=tensors)
        return features if return_dict else features["input_ids"]

    def _encode_samples(
        self,
        samples: Sequence[tuple[Any, list[Any]]],
        template: str,
        limit: int | None,
        with_mask: bool,
        **options: Any,
    ) -> tuple[list[Encoded], list[Any]]:
        """Encode messages one sample after the other; with the images that are left of all of them after truncation."""
        rows, images = [], []
        for index, (messages, sample_images) in enumerate(samples):
            encoded = self._encode(messages, self._tokens_of_images(sample_images), template, limit, **options)
            loaded = [image for image in sample_images if image is not None][: encoded.num_images]
            _check_number_of_images(index, encoded.num_images, len(loaded))
            if with_mask and not any(encoded.assistant_mask):
                answers = any(message["role"] == "assistant" for message in messages)
                why = "the tokenizer has no token for its answers" if answers else "it holds no assistant message"
                raise ValueError(f"Sample {index} has nothing to learn: {why}.")
            rows.append(encoded)
            images += loaded
        return rows, images


def _check_number_of_images(sample: int, num_blocks: int, num_images: int) -> None:
    if num_blocks != num_images:
        raise ValueError(
            f"Sample {sample} has {num_blocks} image blocks and {num_images} images: give each block its image, "
            '{"type": "image", "image": ...}.'
        )
