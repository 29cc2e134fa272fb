"""What the installed package adds to the classes of the model: things that a builder needs, and no checkpoint carries.

Importing this adds them. The files of `modeling_llava/` ship with every checkpoint and do without; where llavakit is
installed,
`LlavaForConditionalGeneration.from_backbones` builds, and what is saved or pushed gets its model card. What each needs is
imported when it is called: this module is loaded as soon as the model's classes are.
"""

import os
from typing import Any

from transformers import PreTrainedModel

from ..modeling_llava import LlavaForConditionalGeneration, LlavaPreTrainedModel


def _from_backbones(cls: type, vision: str | os.PathLike, language: str | os.PathLike, **options: Any) -> Any:
    """Build a LLaVA from two pretrained checkpoints: `llavakit.checkpoints.building.build_model`."""
    from .building import build_model

    return build_model(vision, language, **options)


def _save_pretrained(self: Any, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
    """Save as any transformers model, with the model card beside the weights."""
    from .model_card import write_model_card

    if kwargs.get("is_main_process", True):
        os.makedirs(save_directory, exist_ok=True)
        write_model_card(save_directory, self.config)
    PreTrainedModel.save_pretrained(self, save_directory, *args, **kwargs)


def _upload_modified_files(self: Any, working_dir: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
    """The last step of every push: transformers has put an empty form over the card by now."""
    from .model_card import write_model_card

    write_model_card(working_dir, self.config)
    return PreTrainedModel._upload_modified_files(self, working_dir, *args, **kwargs)


ADDITIONS: dict[type, dict[str, Any]] = {
    LlavaForConditionalGeneration: {"from_backbones": classmethod(_from_backbones)},
    LlavaPreTrainedModel: {"save_pretrained": _save_pretrained, "_upload_modified_files": _upload_modified_files},
}
for owner, methods in ADDITIONS.items():
    for name, method in methods.items():
        setattr(owner, name, method)
