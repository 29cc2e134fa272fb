"""What the controls of `llavakit chat --web` do. Needs gradio."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from ..reports.image_cuts import ImageCut
from .answer_boxes import boxes_page
from .conversation import ChatModel, Conversation, Turns
from .feedback import Feedback, Rating
from .picture import UploadLimits, read_picture

Kept = dict[str, Conversation]  # of one visitor: empty at first, then their conversation
SECONDS = 30  # that an explanation stays


class Actions:
    """What visitors can do. Each method takes what its visitor's page holds and returns what it is to hold.

    Args:
        models: One, or several side by side.
        feedback: Where thumbs go.
        limits: How large a picture may be.
    """

    def __init__(self, models: Sequence[ChatModel], feedback: Feedback, limits: UploadLimits) -> None:
        self.models, self.feedback, self.limits = models, feedback, limits

    def conversation(self, kept: Kept) -> Conversation:
        """The visitor's conversation."""
        if "conversation" not in kept:
            kept["conversation"] = Conversation(self.models)
        return kept["conversation"]

    def show(self, kept: Kept, uploaded: dict[str, Any] | None) -> list[Any]:
        """Talk about another picture. One that cannot be read changes nothing: the former one stands there again."""
        conversation = self.conversation(kept)
        try:
            name = "" if uploaded is None else uploaded.get("orig_name") or "picture"
            conversation.show(None if uploaded is None else read_picture(uploaded["path"], name, self.limits))
        except ValueError as error:
            gr.Warning(escape(str(error)), duration=SECONDS)
        return [
            kept,
            None if conversation.picture is None else conversation.picture.path,
            shown_cuts([named.name for named in conversation.models], conversation.cuts),
            *shown(conversation.histories),
        ]

    def restore(self, kept: Kept, uploaded: dict[str, Any] | None) -> Any:
        """What the conversation is about stands in the frame again, which a file empties that the browser refuses to send."""
        picture = self.conversation(kept).picture
        return gr.skip() if picture is None or uploaded is not None else picture.path

    def ask(
        self,
        kept: Kept,
        uploaded: dict[str, Any] | None,
        text: str,
        temperature: float,
        top_p: float,
        max_new_tokens: float,
    ) -> Iterator[list[Any]]:
        """Ask. The question stays in its box until it is answered: a failure or a stop does not lose it."""
        conversation = self.conversation(kept)
        if (
            conversation.picture is None and uploaded is not None
        ):  # the page was left alone so long that the conversation was dropped
            self.show(kept, uploaded)
        settings = {"temperature": temperature, "top_p": top_p, "max_new_tokens": int(max_new_tokens)}
        num_turns = len(conversation.histories[0])
        if text.strip():
            try:
                for histories in conversation.ask(text.strip(), settings):
                    yield [kept, text, *shown(histories)]
            except ValueError as error:
                gr.Warning(escape(str(error)), duration=SECONDS)
        answered = len(conversation.histories[0]) > num_turns
        yield [kept, "" if answered else text, *shown(conversation.histories)]

    def stop(self, kept: Kept) -> None:
        """End the answer that runs."""
        self.conversation(kept).stop()

    def undo(self, kept: Kept, text: str) -> list[Any]:
        """The last question goes back into its box, to be asked otherwise."""
        conversation = self.conversation(kept)
        return [conversation.undo() or text, *shown(conversation.histories)]

    def reset(self, kept: Kept) -> list[Any]:
        """Start over with the same picture."""
        conversation = self.conversation(kept)
        conversation.reset()
        return shown(conversation.histories)

    def boxes(self, kept: Kept) -> str:
        """The picture with the boxes of the last answers on it, as HTML."""
        return boxes_page(self.conversation(kept))

    def rate(self, model: int, kept: Kept, event: gr.LikeData) -> None:
        """Keep a thumb: `event.liked` is true, false, or an empty text where it is taken back."""
        conversation = self.conversation(kept)
        row = conversation.answer(model, int(event.index))  # type: ignore[arg-type]
        if row is None:
            gr.Warning(
                "This answer stands in the conversation no more, and was not rated: ask again.", duration=SECONDS
            )
            return
        ratings: dict[Any, Rating] = {True: "up", False: "down"}
        self.feedback.add(row, ratings.get(event.liked), conversation.picture)
        gr.Info("Kept.", duration=3)


def shown_cuts(models: Sequence[str], cuts: Sequence[ImageCut]) -> str:
    """How each model's picture is cut: HTML, a drawing and a line, one for all where it is alike."""
    alike = len(set(cuts)) == 1
    parts = []
    for model, cut in zip(models, cuts[:1] if alike else cuts, strict=False):
        name = "" if alike else f"<b>{escape(model)}</b><br>"
        parts.append(f"<div class='cut'>{cut.drawing()}<span>{name}{escape(cut.words)}</span></div>")
    return "".join(parts)


def shown(histories: Sequence[Turns]) -> list[Any]:
    """The turns as a chatbot takes them. It reads even plain text as HTML, in which a `<tag>` would vanish or work."""
    return [
        [{"role": turn["role"], "content": escape(turn["content"], quote=False)} for turn in turns]
        for turns in histories
    ]
