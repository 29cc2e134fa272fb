"""The Querying Transformer of BLIP-2: learnt queries that read the features of a view, layer by layer."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers import initialization as init

from .connector_base import Connector, vision_width


class QFormerConnector(Connector):
    """A BERT of learnt queries with cross-attention to the view, and a linear layer (BLIP-2, arXiv:2301.12597, section 3.1
    and figure 3): H_v = W Q-Former(queries, LN(Z_v)).

    The queries attend to each other in every layer, and to the features in every `cross_attention_frequency`-th. They
    know where a feature lies by what the encoder has put into it alone. Its dropout is BERT's, 0.1: it acts in training
    and not in eval mode.

    Options, whose defaults are BERT base:
        num_queries (`int`, defaults to 32): The tokens of a view.
        num_hidden_layers (`int`, defaults to 12): Layers.
        num_attention_heads (`int`, defaults to 12): Heads of each attention.
        hidden_size (`int`, defaults to 768): Width of the queries; the layers between are four times as wide.
        cross_attention_frequency (`int`, defaults to 2): Every how many layers there is cross-attention, from the first on.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {
        "num_queries": 32,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_size": 768,
        "cross_attention_frequency": 2,
    }

    def __init__(self, config: Any):
        super().__init__(config)
        options = self.options(config)
        num_queries, width = options.pop("num_queries"), options["hidden_size"]
        self.query = nn.Parameter(torch.empty(num_queries, width))
        self.layer_norm = nn.LayerNorm(vision_width(config), eps=1e-6)
        # transformers' Q-Former has no flash attention
        options["attn_implementation"] = "eager" if config._attn_implementation == "eager" else "sdpa"
        qformer_config = Blip2QFormerConfig(
            encoder_hidden_size=vision_width(config), intermediate_size=4 * width, **options
        )
        self.qformer = Blip2QFormerModel(qformer_config)
        self.linear = nn.Linear(width, config.text_config.hidden_size, bias=config.multimodal_projector_bias)

    @classmethod
    def check(cls, config: Any) -> None:
        """See `Connector.check`.

        Raises:
            ValueError: There is no such option, or an option has a value that it cannot have.
        """
        super().check(config)
        options = cls.options(config)
        for name, value in options.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"projector_options={{{name!r}: {value!r}}}: give a whole number from 1 on.")
        if options["hidden_size"] % options["num_attention_heads"]:
            raise ValueError(
                f"projector_options has hidden_size={options['hidden_size']}, which num_attention_heads="
                f"{options['num_attention_heads']} does not divide: change one of them."
            )

    @classmethod
    def num_tokens(cls, num_patches: int, config: Any) -> int:
        """How many word embeddings it returns for a view: one a query."""
        return cls.options(config)["num_queries"]

    @classmethod
    def grid(cls, patches: tuple[int, int], config: Any) -> tuple[int, int] | None:
        """None: queries have no order in space."""
        return None

    def init_weights(self, std: float) -> None:
        """Draw the queries and the Q-Former by BERT's rules, whatever those of the language model are."""
        super().init_weights(std)
        init.normal_(self.query, std=self.qformer.config.initializer_range)
        self.qformer.apply(self.qformer._init_weights)

    def forward(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """`(views, patches, vision width)` to `(views, num_queries, hidden_size)` of the language model."""
        queries = self.query.expand(len(features), -1, -1)  # (views, num_queries, width of the queries)
        read = self.qformer(
            query_embeds=queries, encoder_hidden_states=self.layer_norm(features), return_dict=True
        ).last_hidden_state
        return self.linear(read)


__all__ = ["QFormerConnector"]
