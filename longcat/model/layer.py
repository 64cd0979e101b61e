"""One LongCat layer: two attention and two dense sublayers with a shortcut-connected mixture of experts (ScMoE)."""

from __future__ import annotations

from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.attention import LatentAttention
from longcat.model.context import ForwardContext
from longcat.model.experts import MixtureOfExperts, RouterStatistics
from longcat.model.feed_forward import FeedForward
from longcat.model.indexer import IndexerOutput
from longcat.model.norm import RMSNorm
from longcat.model.recomputation import Recomputing, selectively


class Layer(Recomputing):
    """A layer whose mixture reads the first dense sublayer's input and is added at the very end of the layer.

    So the exchange of tokens with other processes hides behind the dense sublayers (arXiv 2509.01322, figure 2): the way to
    the experts behind the first feed-forward network, the way back behind the second attention and feed-forward network;
    in the backward pass the other way round.

    With selective recomputation attention and feed-forward sublayers are computed again, each by itself, but neither
    attention's products of queries and keys nor the routing: tokens are not sent to experts a second time.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.mlp = MixtureOfExperts(config)
        self.self_attn = nn.ModuleList(LatentAttention(config, owns_indexer=sublayer == 0) for sublayer in range(2))
        self.mlps = nn.ModuleList(FeedForward(hidden, config.ffn_hidden_size) for _ in range(2))
        self.input_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in range(2))
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in range(2))

    def forward(
        self, x: Tensor, context: ForwardContext, number: int
    ) -> tuple[Tensor, RouterStatistics | None, Tensor | None]:
        """Transform `[batch, own, hidden]`; also returns router statistics, and the indexer's loss if it learns.

        `number` is the layer's place in the model, by which it finds its part of the cache.
        """
        again = self.recomputes("selective")
        attended, selection, first = (
            selectively(self._attention, 0, x, context, number) if again else self._attention(0, x, context, number)
        )
        x = x + attended
        h = self.post_attention_layernorm[0](x)
        mixing = self.mlp.begin(h, context.padding)
        x = x + (selectively(self.mlps[0], h, context.places) if again else self.mlps[0](h, context.places))
        self.mlp.compute(mixing)
        attended, _, second = (
            selectively(self._attention, 1, x, context, number, selection)
            if again
            else self._attention(1, x, context, number, selection)
        )
        x = x + attended
        x = x + (selectively(self._second_feed_forward, x, context) if again else self._second_feed_forward(x, context))
        x = x + self.mlp.end(mixing).view_as(x)
        return x, mixing.statistics, None if first is None or second is None else first + second

    def _attention(
        self, sublayer: int, x: Tensor, context: ForwardContext, number: int, selection: IndexerOutput | None = None
    ) -> tuple[Tensor, IndexerOutput | None, Tensor | None]:
        result: tuple[Tensor, IndexerOutput | None, Tensor | None] = self.self_attn[sublayer](
            self.input_layernorm[sublayer](x), context, 2 * number + sublayer, selection
        )
        return result

    def _second_feed_forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        result: Tensor = self.mlps[1](self.post_attention_layernorm[1](x), context.places)
        return result
