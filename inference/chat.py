"""Ask a checkpoint about an image: one question, or a small loop in the terminal."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer

from ..train.images import open_image

HELP = "Ask a question. /image PATH shows another picture, /reset forgets the talk, /quit leaves."


def load_llava(path: str, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load a checkpoint and its processor for answering, on the GPU where there is one.

    Args:
        path: Folder or Hub id.
        trust_remote_code: Needed only for backbones that ship their own code.

    Returns:
        The model in eval mode, and the processor.

    Raises:
        OSError: There is no checkpoint of that name.
    """
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)
    model: Any = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=trust_remote_code)
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return model.to(device).eval(), processor


def answer(
    model: Any,
    processor: Any,
    messages: list[dict[str, Any]],
    images: list[Image.Image],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    streamer: Any = None,
) -> str:
    """The model's next turn.

    Args:
        model: A LLaVA.
        processor: Its processor.
        messages: The talk so far, ending with a user turn; contents are strings or lists of blocks.
        images: One for each `{"type": "image"}` block, in order.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 takes the likeliest token each time.
        streamer: Receives tokens as they come.

    Returns:
        The answer, without the stop that closes it.

    Raises:
        ValueError: Images and image blocks differ in number.
    """
    encoded = processor.encode_conversation(messages, add_generation_prompt=True)
    if encoded.num_images != len(images):
        raise ValueError(f"the talk has {encoded.num_images} place(s) for an image and images has {len(images)}.")
    input_ids = torch.as_tensor(encoded.input_ids)[None].to(model.device)
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if images:
        inputs["pixel_values"] = processor.process_images(images).to(model.device, model.dtype)
    stop = processor.stop_string
    with torch.inference_mode():
        generated = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
            top_p=None,
            top_k=None,
            stop_strings=[stop],
            tokenizer=processor.tokenizer,
            streamer=streamer,
        )
    text = processor.tokenizer.decode(generated[0, input_ids.shape[1] :], skip_special_tokens=False)
    text = text.split(stop)[0]
    eos = processor.tokenizer.eos_token
    return (text.split(eos)[0] if eos else text).strip()


def chat(
    model_path: str,
    *,
    image: str | None = None,
    question: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    trust_remote_code: bool = False,
    read: Callable[[str], str] = input,
) -> None:
    """`llavakit chat`: print the answer to one question, or talk until the user leaves.

    Args:
        model_path: Folder or Hub id of the checkpoint.
        image: Path of a picture to talk about.
        question: Ask this alone. Default: a loop.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 is greedy.
        trust_remote_code: Needed only for backbones that ship their own code.
        read: Asks the user for a line.

    Raises:
        BadRow: The picture cannot be read (in the loop it is printed, and the talk goes on).
        OSError: There is no checkpoint of that name.
    """
    picture = None if image is None else open_image(image, "--image")
    model, processor = load_llava(model_path, trust_remote_code)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    if question is not None:
        images = [] if picture is None else [picture]
        print(answer(model, processor, [_user_turn(question, picture)], images, **settings))
        return

    print(HELP)
    messages: list[dict[str, Any]] = []
    images = []
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line == "/reset":
            messages, images = [], []
        elif line.startswith("/image"):
            try:
                picture = open_image(line.removeprefix("/image").strip(), "/image")
                messages, images = [], []
            except ValueError as error:
                print(error, file=sys.stderr)
        elif line.startswith("/"):
            print(HELP)
        elif line:
            shown = picture if not messages else None  # the picture stands in the first turn
            messages.append(_user_turn(line, shown))
            images += [] if shown is None else [shown]
            streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
            reply = answer(model, processor, messages, images, streamer=streamer, **settings)
            messages.append({"role": "assistant", "content": reply})


def _user_turn(text: str, picture: Image.Image | None) -> dict[str, Any]:
    blocks = [] if picture is None else [{"type": "image"}]
    return {"role": "user", "content": [*blocks, {"type": "text", "text": text}]}
