"""LlavaProcessor: conversations with images in, tensors for the model out.

Takes the arguments of transformers' own Llava processor, so what drives that one drives this one: trl's vision
collator, `AutoProcessor`, the image-text-to-text pipeline, serving programs. All of them reach token ids by one path,
`LlavaProcessor.encode_conversation`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tokenizers import AddedToken
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .chat_encoding import ChatEncoder, Encoded, RowTooLong, chat_encoder
from .chat_messages import flatten, normalize, shortened, texts_as_strings
from .chat_templates import has_generation_blocks, reads_blocks, reads_strings, render, template_text
from .image_inputs import crop_to_square, pad_to_square, to_rgb

_CALL_OPTIONS = (
    "padding",
    "padding_side",
    "pad_to_multiple_of",
    "truncation",
    "max_length",
    "add_special_tokens",
    "return_mm_token_type_ids",
    "text_kwargs",
    "images_kwargs",
    "common_kwargs",
)


class LlavaKitProcessor(ProcessorMixin):
    """Prepares conversations and images for `LlavaForConditionalGeneration`.

    It is `LlavaProcessor` to import; its own name, which saved checkpoints carry, is one that transformers does not
    have, so that the Auto classes never take transformers' Llava processor for it.

    The tokenizer is changed where it must be: it gets the image token as a special token if it lacks it, and a padding
    token (its unknown token, else its eos token) if it has none.

    Args:
        image_processor (`BaseImageProcessor`): Of the vision encoder.
        tokenizer (`PreTrainedTokenizerBase`): Of the language model; backed by the `tokenizers` library.
        patch_size (`int`): Side of a patch of the vision encoder, in pixels.
        vision_feature_select_strategy (`str`, *optional*, defaults to `"default"`): `"default"` for the features of
            the grid, `"full"` for all that the encoder returns.
        chat_template (`str`, *optional*): The name of a shipped template, Jinja text, or None for the tokenizer's own.
        image_token (`str`, *optional*, defaults to `"<image>"`): The placeholder for an image.
        num_additional_image_tokens (`int`, *optional*, defaults to 0): How many features the encoder returns before
            those of the grid (class and register tokens). They count with the strategy `"full"`.
        image_aspect_ratio (`str`, *optional*, defaults to `"crop"`): How an image becomes square. `"crop"` takes its
            centre (LLaVA v1), `"pad"` puts it on a square of the mean colour (LLaVA-1.5).

    Raises:
        ValueError: If an argument has a value that is not known, or the tokenizer cannot be used.
    """

    # The lists of arguments and attributes are read from this signature by transformers, which takes no keyword-only
    # ones.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: Literal["default", "full"] | None = "default",
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        image_aspect_ratio: Literal["crop", "pad"] = "crop",
    ):
        vision_feature_select_strategy = vision_feature_select_strategy or "default"
        if vision_feature_select_strategy not in ("default", "full"):
            raise ValueError(
                f"vision_feature_select_strategy={vision_feature_select_strategy!r}: use 'default' or 'full'"
            )
        if image_aspect_ratio not in ("crop", "pad"):
            raise ValueError(f"image_aspect_ratio={image_aspect_ratio!r}: use 'crop' or 'pad'")
        if isinstance(chat_template, str):
            chat_template = template_text(chat_template)
        elif chat_template is None:
            chat_template = getattr(tokenizer, "chat_template", None)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token = image_token
        self.num_additional_image_tokens = num_additional_image_tokens
        self.image_aspect_ratio = image_aspect_ratio

        if image_token not in tokenizer.added_tokens_encoder:
            tokenizer.add_tokens([AddedToken(image_token, normalized=False, special=True)], special_tokens=True)
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
            if tokenizer.pad_token is None:
                raise ValueError("The tokenizer has no pad, unk or eos token: set tokenizer.pad_token.")
        self._encoder  # noqa: B018  a tokenizer that cannot be used is refused here, not in the first batch

    @property
    def _encoder(self) -> ChatEncoder:
        return chat_encoder(self.tokenizer, self.image_token)

    # ------------------------------------------------------------------------------------------------ counts

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image as the vision encoder gets it, in pixels."""
        crops = getattr(self.image_processor, "do_center_crop", None)
        size = dict((crops and self.image_processor.crop_size) or self.image_processor.size)
        if "height" in size and "width" in size:
            return size["height"], size["width"]
        for edge in ("shortest_edge", "longest_edge"):  # images are square before they are resized
            if edge in size:
                return size[edge], size[edge]
        raise ValueError(
            f"The size of {type(self.image_processor).__name__}, {size}, does not fix height and width. Set its `size` "
            'to {"height": ..., "width": ...}.'
        )

    @property
    def num_image_tokens(self) -> int:
        """How many tokens stand for one image: 256 at 224 pixels with patches of 14, 576 at 336 pixels."""
        if self.patch_size is None:
            raise ValueError("patch_size=None: give the patch size of the vision encoder (its config's patch_size).")
        height, width = self.image_size
        grid = (height // self.patch_size) * (width // self.patch_size)
        return grid + (self.num_additional_image_tokens if self.vision_feature_select_strategy == "full" else 0)

    def _get_num_multimodal_tokens(
        self, image_sizes: list[list[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:  # asked by vLLM
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    # ------------------------------------------------------------------------------------------------ chats

    @property
    def stop_string(self) -> str:
        """What closes an answer in the template's rendering: the eos token, "###", a line break, ..."""
        answer = "An answer."
        messages, _ = normalize([{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}])
        text, spans = self._render(messages, self._template(None))
        end = spans[-1][1] if spans else len(text)
        tail = text[text.rindex(answer) + len(answer) : end]
        if not spans:
            # Without generation blocks the text after an answer may be more than its stop; a control token ends it.
            controls = [token for token in self.tokenizer.all_special_tokens if token in tail]
            tail = min(controls, key=tail.index, default=tail)
        return tail.strip() or tail

    def encode_conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        max_length: int | None = None,
        *,
        chat_template: str | None = None,
        **options: Any,
    ) -> Encoded:
        """Token ids of a conversation, and which of them are learnt.

        Images need not be loaded: an image block counts, with or without an image in it.

        Args:
            messages (`list[dict]`): Messages with `role` and `content`: a string, or a list of blocks
                `{"type": "image"}` and `{"type": "text", "text": ...}`. Strings and text blocks are text, whatever they
                contain.
            add_generation_prompt (`bool`): Whether to end with the header of an answer.
            max_length (`int`, *optional*): The most tokens to return. Whole exchanges are dropped from the end until
                the rest fits; a prompt is never cut.
            chat_template (`str`, *optional*): In place of the processor's own.
            options: `continue_final_message`, `tools`, `documents`, and variables for the template.

        Returns:
            `Encoded`: `input_ids`, `assistant_mask`, `num_images`.

        Raises:
            RowTooLong: If not even the first exchange fits.
            ValueError: If the template has no generation blocks, so that it is not known what is learnt; or it
                refuses the conversation.
        """
        template = self._template(chat_template)
        if not add_generation_prompt and not options.get("continue_final_message"):
            _require_generation_blocks(template)
        normalized, _ = normalize(messages)
        return self._encode(normalized, template, max_length, add_generation_prompt=add_generation_prompt, **options)

    def _encode(
        self, messages: list[dict[str, Any]], template: str, max_length: int | None = None, **options: Any
    ) -> Encoded:
        """The one path from normalized messages to ids."""
        encoded = self._encode_whole(messages, template, **options)
        if max_length is None or len(encoded) <= max_length:
            return encoded
        length = shortest = len(encoded)
        if options.get("add_generation_prompt") or options.get("continue_final_message"):
            raise RowTooLong(length, shortest, max_length, "The prompt")
        for shorter in shortened(messages):
            encoded = self._encode_whole(shorter, template, **options)
            shortest = len(encoded)
            if shortest <= max_length:
                return encoded
        raise RowTooLong(length, shortest, max_length, "The first exchange")

    def _encode_whole(self, messages: list[dict[str, Any]], template: str, **options: Any) -> Encoded:
        text, spans = self._render(messages, template, **options)
        encoded = self._encoder.encode_rendered(text, spans, self.num_image_tokens)
        num_images = sum(block["type"] == "image" for message in messages for block in message["content"])
        if encoded.num_images != num_images:
            raise ValueError(
                f"The conversation has {num_images} image blocks, and its rendering {encoded.num_images} image tokens: "
                "the chat template drops or repeats images. Put images into user messages, or use a shipped template."
            )
        return encoded

    def _render(
        self,
        messages: list[dict[str, Any]],
        template: str,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        **variables: Any,
    ) -> tuple[str, list[tuple[int, int]]]:
        """Rendered text with the users' control strings marked, and its generation spans."""
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
        return render(
            template,
            marked,
            {**special_tokens, "image_token": self.image_token, **encoder.mark(variables)},
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=encoder.mark(tools),
            documents=encoder.mark(documents),
        )

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
                nothing to learn, or the template does not say what is learnt.
        """
        template = self._template(chat_template)
        call = {key: kwargs.pop(key) for key in _CALL_OPTIONS if key in kwargs} | (processor_kwargs or {})
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

        if return_assistant_tokens_mask:
            _require_generation_blocks(template)
        given = call.pop("images", None)
        if given is not None:
            # As transformers allows: images apart from the messages, for blocks that carry none.
            samples = [
                (messages, list(images))
                for (messages, _), images in zip(samples, given if batched else [given], strict=True)
            ]
        text_options, images_kwargs = _split_call_options(call)
        text_options.pop("add_special_tokens", None)  # the template writes what there is
        limit = self._limit(text_options)
        rows, images = [], []
        for index, (messages, sample_images) in enumerate(samples):
            encoded = self._encode(messages, template, limit, **options)
            loaded = [image for image in sample_images if image is not None][: encoded.num_images]
            if len(loaded) != encoded.num_images:
                raise ValueError(
                    f"Sample {index} has {encoded.num_images} image blocks and {len(loaded)} images: give each block "
                    'its image, {"type": "image", "image": ...}.'
                )
            if return_assistant_tokens_mask and not any(encoded.assistant_mask):
                raise ValueError(f"Sample {index} has nothing to learn: it holds no assistant message.")
            rows.append(encoded)
            images += loaded
        outputs = self._collate(rows, text_options, return_assistant_tokens_mask)
        outputs |= self._pixels(images, return_tensors, images_kwargs)
        tensors = None if return_tensors == "auto" else return_tensors
        features = BatchFeature(outputs, tensor_type=tensors)
        return features if return_dict else features["input_ids"]

    # ------------------------------------------------------------------------------------------------ texts

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Encode texts that hold the image token once for each image, and prepare the images.

        For prompts rendered before. Every control string in the text is meant, since text cannot say who typed it;
        conversations belong into `apply_chat_template`.

        Args:
            images (*optional*): An image, a list of images in the order of their tokens, or a list of lists, one a
                text.
            text (`str` or `list[str]`, *optional*): The texts.
            kwargs: `padding`, `padding_side`, `pad_to_multiple_of`, `truncation`, `max_length`, `return_tensors`,
                `return_mm_token_type_ids`; `add_special_tokens` (True: a bos token is put before a text that lacks it,
                if the tokenizer does so itself); and options of the image processor.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` of shape `(batch, length)`, `pixel_values` of shape
            `(images, channels, height, width)`.

        Raises:
            ValueError: If image tokens and images differ in number, or truncation would cut an image.
        """
        tensors = kwargs.pop("return_tensors", None)
        options, images_kwargs = _split_call_options(kwargs)
        tensors = options.pop("return_tensors", tensors)
        if images is None and text is None:
            raise ValueError("images=None and text=None: give at least one of them.")
        if text is None:
            return BatchFeature(self._pixels(_flat(images), tensors, images_kwargs), tensor_type=tensors)
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(item, str) for item in texts):
            raise ValueError("text must be a string or a list of strings; give conversations to apply_chat_template.")
        self._check_counts(texts, images)

        bos = self._own_bos() if options.pop("add_special_tokens", True) else None
        limit = self._limit(options)
        rows = []
        for index, item in enumerate(texts):
            if bos is not None and not item.startswith(bos):
                item = bos + item
            ids = self._encoder.encode_text(item, self.num_image_tokens)
            num_images = ids.count(self.image_token_id)
            if limit is not None and len(ids) > limit:
                length = len(ids)
                ids = ids[-limit:] if self.tokenizer.truncation_side == "left" else ids[:limit]
                if ids.count(self.image_token_id) != num_images:
                    raise RowTooLong(length, length, limit, f"Sample {index}")
            rows.append(Encoded(ids, [0] * len(ids), num_images))
        outputs = self._collate(rows, options, False)
        return BatchFeature(outputs | self._pixels(_flat(images), tensors, images_kwargs), tensor_type=tensors)

    def _own_bos(self) -> str | None:
        """The bos token, if the tokenizer puts it before a text by itself."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.bos_token if bos is not None and self.tokenizer("")["input_ids"][:1] == [bos] else None

    def _check_counts(self, texts: list[str], images: Any) -> None:
        counts = [self._encoder.count_images(text) for text in texts]
        if isinstance(images, (list, tuple)) and images and isinstance(images[0], (list, tuple)):
            if len(images) != len(texts):
                raise ValueError(
                    f"There are {len(texts)} texts and {len(images)} lists of images: give one list a text."
                )
            for index, (count, given) in enumerate(zip(counts, images, strict=True)):
                if count != len(given):
                    raise ValueError(
                        f"Sample {index} has {count} {self.image_token} tokens in its text and {len(given)} images: "
                        "write the token once for each image."
                    )
        elif sum(counts) != len(_flat(images)):
            samples = ", ".join(f"sample {index}: {count}" for index, count in enumerate(counts))
            raise ValueError(
                f"The text has {sum(counts)} {self.image_token} tokens ({samples}) and there are {len(_flat(images))} "
                "images: write the token once for each image."
            )

    # ------------------------------------------------------------------------------------------------ batches

    def _limit(self, options: dict[str, Any]) -> int | None:
        truncation, max_length = options.pop("truncation", False), options.get("max_length")
        if truncation in (False, None, "do_not_truncate"):
            return None
        if max_length is None:
            max_length = self.tokenizer.model_max_length
        return max_length

    def _collate(self, rows: list[Encoded], options: dict[str, Any], with_mask: bool) -> dict[str, Any]:
        """Rows as lists of equal length, if padding is asked for."""
        padding = options.pop("padding", False)
        side = options.pop("padding_side", None) or self.tokenizer.padding_side
        multiple = options.pop("pad_to_multiple_of", None) or 1
        max_length = options.pop("max_length", None)
        with_types = options.pop("return_mm_token_type_ids", False)
        if options:
            raise ValueError(f"{sorted(options)} are no options of {type(self).__name__}.")
        if side not in ("left", "right"):
            raise ValueError(f"padding_side={side!r}: use 'left' or 'right'.")

        if padding in (False, None, "do_not_pad"):
            target = 0
        elif padding == "max_length":
            target = max_length or self.tokenizer.model_max_length
        else:
            target = max((len(row) for row in rows), default=0)
        target = math.ceil(target / multiple) * multiple

        def padded(values: list[int], value: int) -> list[int]:
            fill = [value] * (target - len(values))
            return fill + values if side == "left" else values + fill

        outputs = {
            "input_ids": [padded(row.input_ids, self.tokenizer.pad_token_id) for row in rows],
            "attention_mask": [padded([1] * len(row), 0) for row in rows],
        }
        if with_mask:
            outputs["assistant_masks"] = [padded(row.assistant_mask, 0) for row in rows]
        if with_types:
            outputs["mm_token_type_ids"] = [
                [int(id == self.image_token_id) for id in ids] for ids in outputs["input_ids"]
            ]
        return outputs

    def process_images(self, images: Sequence[Any]) -> Any:
        """Images as the vision encoder takes them: a tensor of shape `(images, channels, height, width)`.

        Args:
            images (`list`): At least one; `PIL.Image.Image`, or what else `images=` of a call takes.
        """
        return self._pixels(list(images), "pt", {})["pixel_values"]

    def _pixels(self, images: list[Any], tensors: str | None, options: dict[str, Any]) -> dict[str, Any]:
        """Images of a batch as the vision encoder takes them: `pixel_values`, `(images, channels, height, width)`."""
        if not images:
            return {}
        squares = [to_rgb(image) for image in images]
        if self.image_aspect_ratio == "pad":
            colour = tuple(int(mean * 255) for mean in self.image_processor.image_mean)
            squares = [pad_to_square(image, colour) for image in squares]
        elif not getattr(self.image_processor, "do_center_crop", None):
            squares = [crop_to_square(image) for image in squares]
        outputs = dict(self.image_processor(squares, return_tensors=None if tensors == "auto" else tensors, **options))
        height, width = outputs["pixel_values"][0].shape[-2:]
        if (height, width) != self.image_size:
            raise ValueError(
                f"The image processor gave {height} x {width} pixels, and tokens are counted for "
                f"{self.image_size[0]} x {self.image_size[1]}: set the size on processor.image_processor, where it is "
                "saved with the checkpoint, not in the call."
            )
        return outputs


LlavaProcessor = LlavaKitProcessor


def _require_generation_blocks(template: str) -> None:
    if not has_generation_blocks(template):
        raise ValueError(
            "The chat template does not say what is learnt: it has no {% generation %} block around the answer. Put "
            "one around the assistant's content and what ends it, or use a shipped template, for example "
            "chat_template='chatml'."
        )


def _split_call_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options for texts and for the image processor, given flat or nested as transformers' processors take them."""
    options = dict(options)
    images = dict(options.pop("images_kwargs", None) or {})
    options |= {**(options.pop("common_kwargs", None) or {}), **(options.pop("text_kwargs", None) or {})}
    images |= {key: options.pop(key) for key in list(options) if key.startswith("do_") or key == "resample"}
    return options, images


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    return [image for item in images for image in (item if isinstance(item, (list, tuple)) else [item])]
