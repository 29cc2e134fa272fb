"""The model card: what a checkpoint was made of, how it was trained, how to load it. All of it is in its config."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..modeling_llava.configuration_llava import LlavaConfig
from ..modeling_llava.model_parts import STAGES
from ..reports.tables import markdown_lines
from ..rows.files import replacing
from ..rows.leak_record import leaks_in_words
from .measuring import image_tokens_in_words

CARD_FILE = "README.md"
# The first line after the front matter. A README without it was written by a person and is left alone.
CARD_MARK = "<!-- written by llavakit; text below this line is replaced when the model is saved again -->"
# What `push_to_hub` of transformers writes into the form that it puts over the card of any model new to the Hub
EMPTY_FORM = "This model card has been automatically generated."


def write_model_card(directory: str | os.PathLike, config: LlavaConfig, adapter: dict[str, Any] | None = None) -> None:
    """Write the card of a checkpoint, unless the folder has a README of somebody's own.

    Args:
        directory: The checkpoint's folder.
        config: The model's config, with its `provenance`; of an adapter, that of the model below it, with that of both.
        adapter: What `adapter_config.json` says, where the checkpoint is an adapter.
    """
    path = Path(directory) / CARD_FILE
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if CARD_MARK not in text and EMPTY_FORM not in text:
            return
    card = model_card(config) if adapter is None else adapter_card(config, adapter)
    with replacing(path) as partial:
        partial.write_text(card, encoding="utf-8")


def model_card(config: LlavaConfig) -> str:
    """The text of the card, with the front matter that the Hub reads."""
    backbones = (config.provenance or {}).get("backbones") or {}
    lines = [
        *_front_matter("transformers", backbones.values()),
        "# A LLaVA model",
        "",
        *_parts(config),
        *_training(config),
    ]
    return "\n".join([*lines, "", *_how_to_load(_WHOLE), ""])


def adapter_card(config: LlavaConfig, adapter: dict[str, Any]) -> str:
    """The text of an adapter's card: which model it belongs to, what was adapted, and how it was trained."""
    base = str(adapter["base_model_name_or_path"])
    beside = ", ".join(adapter.get("modules_to_save") or []) or "nothing"
    lines = [
        *_front_matter("peft", [base], relation="adapter"),
        "# An adapter of a LLaVA model",
        "",
        f"It belongs to `{base}`, and does nothing without it.",
        "",
        "| adapter | |",
        "|---|---|",
        f"| method | {adapter_in_words(adapter)} |",
        f"| on | {_targets(adapter)} |",
        f"| whole beside it | {beside} |",
        "",
        *_parts(config),
        *_training(config),
    ]
    return "\n".join([*lines, "", *_how_to_load(_ADAPTER), ""])


def adapter_in_words(adapter: dict[str, Any]) -> str:
    """The method of an `adapter_config.json`, such as `LoRA, r 128, alpha 256, dropout 0.05`."""
    kinds = {"use_dora": "DoRA", "use_rslora": "rsLoRA"}
    name = " and ".join(word for flag, word in kinds.items() if adapter.get(flag)) or "LoRA"
    return f"{name}, r {adapter['r']}, alpha {adapter['lora_alpha']}, dropout {adapter['lora_dropout']:g}"


def _targets(adapter: dict[str, Any]) -> str:
    targets = adapter.get("target_modules") or adapter.get("target_parameters") or []
    return f"`{targets}`" if isinstance(targets, str) else ", ".join(sorted(targets))


def _front_matter(library: str, base_models: Iterable[str], relation: str | None = None) -> list[str]:
    # The Hub accepts ids here and refuses paths
    ids = [name for name in base_models if name.count("/") == 1 and not name.startswith((".", "/"))]
    return [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-text-to-text",
        *(["base_model:", *(f"- {name}" for name in ids)] if ids else []),
        *([f"base_model_relation: {relation}"] if ids and relation else []),
        "tags:",
        "- llava",
        "- llavakit",
        "- image-text-to-text",
        "---",
        CARD_MARK,
        "",
    ]


def _parts(config: LlavaConfig) -> list[str]:
    backbones = (config.provenance or {}).get("backbones") or {}
    vision, language = backbones.get("vision", "unknown"), backbones.get("language", "unknown")
    return [
        "A visual assistant after *Visual Instruction Tuning* (arXiv:2304.08485): features of a vision encoder, which a",
        "connector makes into what a language model reads.",
        "",
        "| part | |",
        "|---|---|",
        f"| vision encoder | {vision} ({config.vision_config.model_type}), feature layer {config.vision_feature_layer} |",
        f"| connector | {config.projector_type} |",
        f"| language model | {language} ({config.text_config.model_type}) |",
        f"| images | {image_tokens_in_words(config)} |",
        "",
    ]


def _training(config: LlavaConfig) -> list[str]:
    provenance = config.provenance or {}
    history = provenance.get("training_history") or []
    lines = ["## Training", ""]
    if converted := provenance.get("converted"):
        lines += [f"Read from a checkpoint of the format {converted['format']}: {converted['source']}.", ""]
        lines += [converted["differs"], ""] if converted.get("differs") else []
    elif not history:
        lines.append("Not trained yet: the connector has fresh weights.")
    for record in history:
        lines += _stage(record)
    return lines


def exported_card(config: LlavaConfig, format: str, proof: Sequence[Sequence[Any]], differs: str) -> str:
    """The card of a checkpoint that was written in another format.

    Args:
        config: Of the LLaVA.
        format: What it was written in.
        proof: A table, headings first: what source and target made of the same conversations.
        differs: What it does otherwise, in sentences, or nothing.
    """
    shown, _, _ = model_card(config).partition("## How to load")
    lines = [
        f"## Written as {format}",
        "",
        "What was compared with the source when this one was written:",
        "",
        markdown_lines(proof, text_columns=1),
        "",
        *([differs, ""] if differs else []),
    ]
    return shown + "\n".join(lines)


def _stage(record: dict[str, Any]) -> list[str]:
    stage = STAGES.get(record.get("stage", ""))
    title = stage.title if stage else record.get("stage")
    shown = {name: value for name, value in record.items() if name != "stage" and value is not None}
    if leaks := shown.get("leaks"):
        shown["leaks"] = leaks_in_words(leaks)
    return [f"Stage {title}:", "", *(f"- {name.replace('_', ' ')}: {value}" for name, value in shown.items()), ""]


_WHOLE = (
    ["from transformers import AutoModelForImageTextToText, AutoProcessor"],
    "model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True)",
)
_ADAPTER = (
    ["from peft import AutoPeftModel", "from transformers import AutoProcessor"],
    "model = AutoPeftModel.from_pretrained(path, trust_remote_code=True)",
)


def _how_to_load(lines: tuple[list[str], str]) -> list[str]:
    imports, load = lines
    return [
        "## How to load",
        "",
        "```python",
        *sorted([*imports, "from PIL import Image"], key=str.lower),
        "",
        'path = "..."  # this repository or folder',
        "# The code lies beside the weights. `import llavakit` first makes trust_remote_code unnecessary.",
        load,
        "processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)",
        "",
        'question = [{"type": "image", "image": Image.open("photo.jpg")}, {"type": "text", "text": "What is this?"}]',
        "inputs = processor.apply_chat_template(",
        '    [{"role": "user", "content": question}],',
        "    add_generation_prompt=True,",
        "    tokenize=True,",
        "    return_dict=True,",
        '    return_tensors="pt",',
        ")",
        'stop = {"stop_strings": [processor.stop_string], "tokenizer": processor.tokenizer}',
        "output = model.generate(**inputs, max_new_tokens=128, **stop)",
        'print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
    ]
