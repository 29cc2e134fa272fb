"""The page of `llavakit chat --web`: what stands where, and which action each control calls. Needs gradio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .conversation import ChatModel
from .feedback import Feedback
from .generation import Sampling
from .picture import UploadLimits
from .web_actions import Actions

STYLE = """
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
.cut { display: flex; gap: 12px; align-items: center; font-size: 13px; margin: 2px 4px 8px; }
.cut span { min-width: 0; overflow-wrap: anywhere; }
.cut svg { flex: none; }
.boxes { margin: 0; }
.boxes img { width: 100%; border-radius: 6px; }
.boxes figcaption { font-size: 13px; }
.boxes figcaption span { display: inline-block; width: 10px; height: 10px; margin-right: 6px; }
.message-content { overflow-wrap: anywhere; white-space: pre-wrap; }
"""
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
UPLOAD_CHECKS, UPLOAD_AGE = 3600, 86400  # seconds between looks for old uploads, and the age at which they go
# The page is the only client of its actions
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AT_ONCE: dict[str, Any] = {**PRIVATE, "queue": False}
# gradio would open an uploaded picture itself, before it is checked
RAW: dict[str, Any] = {**PRIVATE, "preprocess": False}


@dataclass
class Controls:
    """What a visitor can see and use."""

    picture: gr.Image
    cut: gr.HTML
    boxes: gr.HTML  # of the last answers
    settings: list[gr.Slider]  # temperature, top p, longest answer
    chats: list[gr.Chatbot]
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    undo: gr.Button
    reset: gr.Button


def build_page(models: Sequence[ChatModel], feedback: Feedback, limits: UploadLimits, settings: Sampling) -> gr.Blocks:
    """Build the page.

    Args:
        models: One, or two side by side.
        feedback: Where thumbs go.
        limits: How large a picture may be.
        settings: What the sliders begin with.
    """
    with gr.Blocks(
        title="llavakit chat",
        analytics_enabled=False,  # nothing tells gradio's makers of a launch
        delete_cache=(UPLOAD_CHECKS, UPLOAD_AGE),
    ) as page:
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                picture = _picture()
                cut = gr.HTML(elem_id="cut", padding=False)
                boxes = gr.HTML(elem_id="boxes", padding=False)
                with gr.Accordion("Settings", open=False):
                    sliders = _sliders(settings)
            with gr.Column(scale=5, min_width=300):
                with gr.Row():
                    chats = [_chat(number, named.name) for number, named in enumerate(models)]
                question = gr.Textbox(
                    placeholder="Ask about the picture", show_label=False, max_lines=6, elem_id="question"
                )
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", min_width=64, elem_id="ask")
                    stop = gr.Button("Stop", interactive=False, min_width=64, elem_id="stop")
                    undo = gr.Button("Undo", min_width=64, elem_id="undo")
                    reset = gr.Button("Start over", min_width=104, elem_id="reset")
        controls = Controls(picture, cut, boxes, sliders, chats, question, ask, stop, undo, reset)
        _connect(controls, Actions(models, feedback, limits))
    return page


def _picture() -> gr.Image:
    return gr.Image(
        label="Picture",
        placeholder="Drop a picture here, or click.\nAnother one starts the conversation anew.",
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=300,
        elem_id="picture",
    )


def _sliders(settings: Sampling) -> list[gr.Slider]:
    longest = max(2048, settings.max_new_tokens)
    return [
        gr.Slider(0, 2, settings.temperature, step=0.05, label="Temperature (0: always the likeliest token)"),
        gr.Slider(0.05, 1, settings.top_p, step=0.05, label="Top p (with a temperature above 0)"),
        gr.Slider(1, longest, settings.max_new_tokens, step=1, label="Longest answer, in tokens"),
    ]


def _chat(number: int, name: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=name,
        height=440,
        min_width=280,
        # What a visitor or a model writes is text: no markup, no formulas, no pictures fetched from elsewhere
        render_markdown=False,
        latex_delimiters=[],
        buttons=[],
        elem_id=f"chat-{number}",
    )


def _connect(controls: Controls, actions: Actions) -> None:
    """Make each control call its action."""
    kept = gr.State({})  # each visitor has a copy
    picture, question, chats = controls.picture, controls.question, controls.chats
    # In the order in which they happen: a picture that was taken away must not be brought back
    in_order: dict[str, Any] = {**RAW, "concurrency_id": "picture", "concurrency_limit": 1}
    showed = gr.on(
        [picture.upload, picture.clear],
        actions.show,
        [kept, picture],
        [kept, picture, controls.cut, *chats],
        **in_order,
    )
    picture.change(actions.restore, [kept, picture], picture, **in_order)

    locked = [question, controls.ask, controls.undo, controls.reset]
    busy = [gr.update(interactive=False)] * len(locked) + [gr.update(interactive=True)]
    ready = [gr.update(interactive=True)] * len(locked) + [gr.update(interactive=False)]
    asking = gr.on([controls.ask.click, question.submit], lambda: busy, None, [*locked, controls.stop], **AT_ONCE)
    answered = asking.then(
        actions.ask,
        [kept, picture, question, *controls.settings],
        [kept, question, *chats],
        concurrency_id="models",
        concurrency_limit=1,
        **RAW,
    ).then(lambda: ready, None, [*locked, controls.stop], **AT_ONCE)

    controls.stop.click(actions.stop, kept, None, **AT_ONCE)
    undone = controls.undo.click(actions.undo, [kept, question], [question, *chats], **PRIVATE)
    restarted = gr.on([controls.reset.click, *(chat.clear for chat in chats)], actions.reset, kept, chats, **PRIVATE)
    for event in (showed, answered, undone, restarted):
        event.then(actions.boxes, kept, controls.boxes, **PRIVATE)
    for number, chat in enumerate(chats):
        chat.like(_rating(actions, number), kept, None, **PRIVATE)


def _rating(actions: Actions, model: int) -> Any:
    """Only a plain function's annotation tells gradio to hand over which answer it is."""

    def rate(kept: dict[str, Any], event: gr.LikeData) -> None:
        actions.rate(model, kept, event)

    return rate
