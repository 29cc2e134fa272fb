"""LlavaProcessor: conversations with images in, tensors for the model out.

Takes the arguments of transformers' own Llava processor, so what drives that one drives this one: trl's vision
collator, `AutoProcessor`, the image-text-to-text pipeline, serving programs. All of them reach token ids by one path,
`LlavaProcessor.encode_conversation`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from tokenizers import AddedToken
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .batched_images import by_image, flat, nested
from .box_formats import convention
from .call_options import check_options
from .chat_encoding import ChatEncoder, chat_encoder
from .chat_templates import template_text
from .conversations import ConversationProcessor
from .grounding import GroundingMixin
from .image_inputs import to_rgb, upright_size
from .image_layouts import image_layout
from .image_plan import ImageLayout, ImagePlan, View, check_keep_rate, view_size
from .text_tokenizer import TextTokenizer
from .video_frames import MOST_FRAMES, is_video, open_video, video_size


class LlavaKitProcessor(GroundingMixin, ConversationProcessor):
    """Prepares conversations and images for `LlavaForConditionalGeneration`.

    A call, `processor(images, text)`, is transformers' own protocol (`ProcessorMixin.__call__`), of which the parts are
    overridden; conversations go through `apply_chat_template` and `encode_conversation`.

    It is `LlavaProcessor` to import; its own name, which saved checkpoints carry, is one that transformers does not
    have, so that the Auto classes never take transformers' Llava processor for it.

    The tokenizer is changed where it must be: it gets the image token as a special token if it lacks it, and a padding
    token (its unknown token, else its eos token) if it has none.

    Args:
        image_processor (`BaseImageProcessor`): Of the vision encoder.
        tokenizer (`PreTrainedTokenizerBase`): Of the language model; backed by the `tokenizers` library.
        patch_size (`int` or `tuple[int, int]`): Side of a patch of the vision encoder, in pixels, or height and width.
        vision_feature_select_strategy (`str`, *optional*, defaults to `"default"`): `"default"` for the features of
            the grid, `"full"` for all that the encoder returns.
        chat_template (`str`, *optional*): The name of a shipped template, Jinja text, or None for the tokenizer's own.
        image_token (`str`, *optional*, defaults to `"<image>"`): The placeholder for an image.
        num_additional_image_tokens (`int`, *optional*, defaults to 0): How many features the encoder returns before
            those of the grid (class and register tokens). They count with the strategy `"full"`.
        image_aspect_ratio (`str`, *optional*, defaults to `"crop"`): The layout of images, a key of `IMAGE_LAYOUTS`.
            `"crop"` takes the centre of an image (LLaVA v1), `"pad"` puts it on a square of the mean colour
            (LLaVA-1.5), `"squeeze"` stretches it (SigLIP), `"anyres"` cuts it into tiles (LLaVA-NeXT, LLaVA-OneVision).
        image_seq_length (`int`, *optional*): How many tokens one view of an image takes, as measured through the vision
            encoder and the connector when the model was built. Without it they are counted from sizes.
        image_layout_options (`dict`, *optional*): Options of the layout: fields of its class.
        image_token_grid (`list[int]`, *optional*): Rows and columns of the tokens of a view, as the connector makes them.
            Default: those of the patches, if that makes `image_seq_length`.
        image_keep_rate (`float`, *optional*, defaults to 1.0): For inference: the share of an image's features that the
            model keeps, those that differ most from each other, in (0, 1]. So many tokens stand for it in the text. Where
            every token is a patch.
        image_tokens_of (`str`, *optional*, defaults to `"view"`): `"image"` for a connector that makes its
            `image_seq_length` tokens of all views of an image together (`Connector.of_image`).
        box_format (`str`, *optional*, defaults to `"llava"`): How boxes and points stand in text, a key of `BOX_FORMATS`:
            which picture they count on, in which unit, and their form. See `box_text` and `boxes_in`.
        image_token_patches (`list[int]`, *optional*): Rows and columns of the patches that become one token, in a view of
            any size. Default: one each, unless `image_token_grid` is given, which views of any size are taken to have.
        video_frames (`int`, *optional*, defaults to 8): How many frames are taken of a video at most.
        video_pooling (`int`, *optional*, defaults to 2): How many rows, and columns, of the features of a frame become
            one (LLaVA-NeXT-Video). 1 keeps them all.
        starts_text_anew (`bool`, *optional*, defaults to `True`): Whether the text after an image or a bos token gets the
            tokenizer's word-start mark, as in the original code. `False` for checkpoints of transformers' own processors.

    Raises:
        ValueError: If an argument has a value that is not known, or the tokenizer cannot be used.
    """

    # The lists of arguments and attributes are read from this signature by transformers, which takes no keyword-only
    # ones.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int | Sequence[int] | None = None,
        vision_feature_select_strategy: Literal["default", "full"] | None = "default",
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        image_aspect_ratio: str = "crop",
        image_seq_length: int | None = None,
        image_layout_options: dict[str, Any] | None = None,
        image_token_grid: Sequence[int] | None = None,
        image_tokens_of: str = "view",
        image_keep_rate: float = 1.0,
        box_format: str = "llava",
        image_token_patches: Sequence[int] | None = None,
        video_frames: int = MOST_FRAMES,
        video_pooling: int = 2,
        starts_text_anew: bool = True,
    ):
        vision_feature_select_strategy = vision_feature_select_strategy or "default"
        if vision_feature_select_strategy not in ("default", "full"):
            raise ValueError(
                f"vision_feature_select_strategy={vision_feature_select_strategy!r}: use 'default' or 'full'"
            )
        if image_tokens_of not in ("view", "image"):
            raise ValueError(f"image_tokens_of={image_tokens_of!r}: use 'view' or 'image'.")
        for name, value in (("video_frames", video_frames), ("video_pooling", video_pooling)):
            if value < 1:
                raise ValueError(f"{name}={value}: give 1 or more.")
        layout = image_layout(image_aspect_ratio, image_layout_options)  # an unknown one is refused here
        convention(box_format)
        if isinstance(chat_template, str):
            chat_template = template_text(chat_template)
        elif chat_template is None:
            chat_template = getattr(tokenizer, "chat_template", None)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if isinstance(patch_size, Sequence) and len(set(patch_size)) == 1:
            patch_size = patch_size[0]  # the number that programs around a Llava processor count with
        self.patch_size = patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token = image_token
        self.num_additional_image_tokens = num_additional_image_tokens
        self.image_aspect_ratio = image_aspect_ratio
        self.image_seq_length = image_seq_length
        self.image_layout_options = image_layout_options
        self.image_token_grid = None if image_token_grid is None else list(image_token_grid)
        self.image_tokens_of = image_tokens_of
        self.image_keep_rate = image_keep_rate
        self.box_format = box_format
        self.image_token_patches = None if image_token_patches is None else list(image_token_patches)
        self.video_frames = video_frames
        self.video_pooling = video_pooling
        self.starts_text_anew = starts_text_anew

        if image_token not in tokenizer.added_tokens_encoder:
            tokenizer.add_tokens([AddedToken(image_token, normalized=False, special=True)], special_tokens=True)
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
            if tokenizer.pad_token is None:
                raise ValueError("The tokenizer has no pad, unk or eos token: set tokenizer.pad_token.")
        if not layout.single_view:
            self._check_layout(layout)
        if image_keep_rate != 1:
            self.view  # noqa: B018  one that cannot be is refused here
        self._encoder  # noqa: B018  a tokenizer that cannot be used is refused here, not in the first batch

    @property
    def _encoder(self) -> ChatEncoder:
        if isinstance(self.tokenizer, TextTokenizer):  # within a call
            return self.tokenizer.encoder
        return chat_encoder(self.tokenizer, self.image_token, self.starts_text_anew)

    # ------------------------------------------------------------------------------------------------ counts

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a view of an image as the vision encoder gets it, in pixels."""
        return view_size(self.image_processor)

    @property
    def num_image_tokens(self) -> int:
        """How many tokens stand for one view of an image: 256 at 224 pixels with patches of 14, 576 at 336 pixels."""
        if self.image_seq_length is not None:
            return self.image_seq_length
        rows, columns = self._patch_grid
        return rows * columns + (
            self.num_additional_image_tokens if self.vision_feature_select_strategy == "full" else 0
        )

    @property
    def _patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of a view."""
        if self.patch_size is None:
            raise ValueError("patch_size=None: give the patch size of the vision encoder (its config's patch_size).")
        sides = _pair(self.patch_size)
        height, width = self.image_size
        return height // sides[0], width // sides[1]

    @property
    def layout(self) -> ImageLayout:
        """How images are cut into views, and the features of the views joined."""
        return image_layout(self.image_aspect_ratio, self.image_layout_options)

    @property
    def view(self) -> View:
        """A view as the layout is told of it."""
        num_tokens, of_image = self.num_image_tokens, self.image_tokens_of == "image"
        grid = self.image_token_grid or (None if self.patch_size is None else self._patch_grid)
        # A single column is how a connector without such an order is written down
        spatial = grid is not None and (of_image or (grid[0] * grid[1] == num_tokens and grid[1] > 1))
        rows, columns = grid if grid is not None and spatial else (num_tokens, 1)
        if self.image_keep_rate != 1:
            check_keep_rate(self.image_keep_rate, spatial and not of_image and (rows, columns) == self._patch_grid)
        view = View(*self.image_size, num_tokens, (rows, columns), spatial, of_image, self.image_keep_rate)
        if self.patch_size is None:
            return view
        together = self.image_token_patches or ((1, 1) if self.image_token_grid is None and spatial else None)
        return replace(view, patch=_pair(self.patch_size), token_patches=together and _pair(together))

    def _check_layout(self, layout: ImageLayout) -> None:
        """Refuse a layout of several views that cannot work with the views of this processor."""
        view = self.view
        layout.check(view)
        rows, columns = self._patch_grid if self.patch_size else (0, 0)
        before = view.num_tokens - rows * columns
        full = self.vision_feature_select_strategy == "full" and before == self.num_additional_image_tokens > 0
        if layout.line_breaks and full and not view.of_image:
            raise ValueError(
                f"vision_feature_select_strategy='full' keeps {before} features that stand before the patches of a view, "
                f"with which views cannot be laid side by side, as image_aspect_ratio={self.image_aspect_ratio!r} has "
                "them: use 'default'."
            )

    def plan(self, width: int, height: int, *frames: int) -> ImagePlan:
        """What becomes of an upright image of this size, in pixels, or of so many frames of a video; and how many tokens it
        takes."""
        return self.layout.plan_of((width, height, *frames), self.view, self.video_pooling)

    def _tokens_of_images(
        self, images: Sequence[Any], image_sizes: Sequence[Sequence[int]] | None = None
    ) -> list[int]:
        """How many tokens each image of a conversation takes.

        Args:
            images (`list`): What the image blocks carry; None for nothing.
            image_sizes (`list[tuple[int, ...]]`, *optional*): Their widths and heights, and of videos how many frames are
                taken, in place of the images.
        """
        view, layout = self.view, self.layout
        if image_sizes is None and (any(map(is_video, images)) or not layout.single_view):
            if any(image is None for image in images):
                raise ValueError(
                    f"With image_aspect_ratio={self.image_aspect_ratio!r} an image takes as many tokens as its size "
                    'asks for: give each block its image, {"type": "image", "image": ...}, or pass image_sizes, the '
                    "width and height of each."
                )
            image_sizes = [
                video_size(image, self.video_frames) if is_video(image) else upright_size(image) for image in images
            ]
        if layout.single_view and not any(len(size) > 2 for size in image_sizes or ()):
            return [layout.plan(view.width, view.height, view).num_tokens] * len(images)
        sizes = image_sizes or ()
        if len(sizes) != len(images):
            raise ValueError(f"{len(sizes)} image_sizes were given for {len(images)} image blocks: give one each.")
        return [layout.plan_of(size, view, self.video_pooling).num_tokens for size in sizes]

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Asked by vLLM: tokens and rows of `pixel_values` of images of these heights and widths (in this order)."""
        if image_sizes is None:
            return MultiModalData()
        plans = [self.plan(width, height) for height, width in image_sizes]
        return MultiModalData(
            num_image_tokens=[plan.num_tokens for plan in plans], num_image_patches=[plan.num_views for plan in plans]
        )

    # ------------------------------------------------------------------------------------------------ calls

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Encode texts that hold the image token once for each image, and prepare the images.

        For prompts rendered before. Every control string in the text is meant, since text cannot say who typed it;
        conversations belong into `apply_chat_template`.

        Args:
            images (*optional*): An image, a list of images in the order of their tokens, or a list of lists, one a
                text.
            text (`str` or `list[str]`, *optional*): The texts.
            kwargs: `padding`, `padding_side`, `pad_to_multiple_of`, `truncation`, `max_length`, `return_tensors`,
                `return_mm_token_type_ids`, `return_text_replacement_offsets`; `add_special_tokens` (True: a bos token
                is put before a text that lacks it, if the tokenizer does so itself); and options of the image
                processor.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` of shape `(batch, length)`, and what the layout makes of
            the images: `pixel_values` of shape `(views, channels, height, width)`, ... Tensors that are asked for with
            `padding` and a list of images a text are of one shape a text, and a shape an image (see `by_image`).

        Raises:
            ValueError: If image tokens and images differ in number, or truncation would cut an image.
        """
        call = copy.copy(self)
        call.tokenizer = TextTokenizer(self.tokenizer, self._encoder, self.image_token_id, self.answer_frame)
        features = ProcessorMixin.__call__(call, images=images, text=text, **kwargs)
        padding = kwargs.get("padding") or (kwargs.get("text_kwargs") or {}).get("padding")
        if padding and nested(images) and hasattr(features.get("feature_places"), "split"):  # a tensor
            by_image(features)
        return features

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Part of the call: a text becomes a list. Images are opened where all of ours are, in `to_rgb`."""
        return images, [text] if isinstance(text, str) else text if text is None else list(text), videos, audio

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """Part of the call: refuse texts and images that do not belong together.

        Raises:
            ValueError: Naming the sample and both numbers.
        """
        if videos is not None or audio is not None:
            raise ValueError(
                f"{type(self).__name__} takes images and text, no videos and no audio: give a video among the "
                'images, as {"video": path} or {"frames": [...]}.'
            )
        if images is None and text is None:
            raise ValueError("images=None and text=None: give at least one of them.")
        if text is None:
            return
        if not all(isinstance(item, str) for item in text):
            raise ValueError("text must be a string or a list of strings; give conversations to apply_chat_template.")
        counts = [self._encoder.count_images(item) for item in text]
        if (of_texts := nested(images)) is not None:
            if len(of_texts) != len(text):
                raise ValueError(
                    f"There are {len(text)} texts and {len(of_texts)} lists of images: give one list a text."
                )
            for index, (count, given) in enumerate(zip(counts, of_texts, strict=True)):
                if count != len(given):
                    raise ValueError(
                        f"Sample {index} has {count} {self.image_token} tokens in its text and {len(given)} images: "
                        "write the token once for each image."
                    )
        elif sum(counts) != len(flat(images)):
            samples = ", ".join(f"sample {index}: {count}" for index, count in enumerate(counts))
            raise ValueError(
                f"The text has {sum(counts)} {self.image_token} tokens ({samples}) and there are {len(flat(images))} "
                "images: write the token once for each image."
            )

    def _merge_kwargs(
        self, ModelProcessorKwargs: Any = None, tokenizer_init_kwargs: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Part of the call: options by what they are for."""
        typed: Any = ModelProcessorKwargs or self.valid_processor_kwargs
        check_options(kwargs, typed, self.image_processor)
        return super()._merge_kwargs(typed, tokenizer_init_kwargs, **kwargs)

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
        """Part of the call: the images as the model takes them, and what each stands as in the text."""
        outputs = self._apply_layout(flat(images), **kwargs)
        count = len(outputs.get("tokens_of_image", ()))
        return outputs, [self.replace_image_token(outputs, index) for index in range(count)]

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs: Any) -> str:
        """Part of the call: the image tokens that an image takes."""
        return self.image_token * image_inputs["tokens_of_image"][image_idx]

    @property
    def unused_input_names(self) -> list[str]:
        """What `_process_images` gives for the text alone."""
        return ["tokens_of_image"]

    # ------------------------------------------------------------------------------------------------ images

    def process_images(self, images: Sequence[Any]) -> dict[str, Any]:
        """Images as the model takes them: all of it goes with them, whatever the layout.

        Args:
            images (`list`): At least one; `PIL.Image.Image`, or what else `images=` of a call takes. A video is
                `{"video": file}`, `{"frames": pictures}`, or what `open_video` made of it.

        Returns:
            `dict`: Tensors: `pixel_values` of shape `(views, channels, height, width)`, a row a view, and
            `feature_places` where the layout has several views, or an image is a video (see `ImageLayout.apply`).
        """
        outputs = self._apply_layout(list(images), return_tensors="pt")
        outputs.pop("tokens_of_image", None)
        return dict(BatchFeature(outputs, tensor_type="pt"))

    def _apply_layout(self, images: list[Any], **options: Any) -> dict[str, Any]:
        if not images:
            return {}
        opened = [open_video(image, self.video_frames) if is_video(image) else to_rgb(image) for image in images]
        return self.layout.apply(opened, self.view, self.image_processor, self.video_pooling, **options)


LlavaProcessor = LlavaKitProcessor


def _pair(sides: int | Sequence[int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])
