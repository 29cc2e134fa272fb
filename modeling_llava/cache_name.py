"""What transformers calls the keys and values that were read before: `cache` since 5.24, `past_key_values` until then."""

import dataclasses
import inspect

from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = (
    "cache" if "cache" in {field.name for field in dataclasses.fields(BaseModelOutputWithPast)} else "past_key_values"
)


def cache_argument(model: nn.Module) -> str:
    """The name by which a language model takes it; one that ships its own code may have kept the former."""
    parameters = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in parameters and "cache" not in parameters else CACHE
