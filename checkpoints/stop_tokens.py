"""Where generation stops: the token that a chat template closes an answer with, beside the language model's own end."""

from typing import Any


def add_stop_tokens(model: Any, processor: Any, *templates: str | None) -> None:
    """Let `generate` stop where the template ends an answer, for whoever loads the checkpoint, with any program.

    A model that was taught to close answers with `<|im_end|>` runs on to the last allowed token where the generation config
    knows the language model's own end alone. A stop that is no single token (`###`, a line break) cannot be written there.

    Args:
        model: A LLaVA; its `generation_config` is changed, and keeps the ends that it has.
        processor: Its processor, for its own chat template.
        templates: Further templates that the model answers in, such as the one it was trained with.
    """
    config = model.generation_config
    own = config.eos_token_id
    ends = [] if own is None else list(own) if isinstance(own, list) else [own]
    ends += [stop for stop in stop_token_ids(processor, *templates) if stop not in ends]
    if ends:
        config.eos_token_id = ends[0] if len(ends) == 1 else ends


def stop_token_ids(processor: Any, *templates: str | None) -> list[int]:
    """The tokens that close an answer: those of the processor's template and of the given ones, and the tokenizer's end."""
    tokens = processor.tokenizer.added_tokens_encoder
    stops = [processor.stop_of(template) for template in (None, *templates)]
    ids = [tokens.get(stop) for stop in stops] + [processor.tokenizer.eos_token_id]
    return list(dict.fromkeys(id for id in ids if id is not None))
