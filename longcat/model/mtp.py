"""Multi-token prediction: one dense layer, chained, that learns to predict tokens beyond the next one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.attention import LatentAttention
from longcat.model.context import ForwardContext
from longcat.model.feed_forward import FeedForward
from longcat.model.indexer import IndexerOutput
from longcat.model.norm import RMSNorm
from longcat.model.places import take
from longcat.model.recomputation import Recomputing, again, selectively
from longcat.ops.documents import same_document
from longcat.padding import IGNORE


class MultiTokenPrediction(Recomputing):
    """A module whose depth k joins the state of depth k - 1 at position i with the word i + k and predicts the word i + k + 1.

    Embedding and head are the main model's; the n-gram tables are not used. Every depth has the same weights, and the
    keys that the first one's indexer chose (LongCat-2.0: three depths of one module).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.depths, self.sublayer = config.mtp_num_layers, 2 * config.num_layers
        self.enorm, self.hnorm = RMSNorm(hidden, eps), RMSNorm(hidden, eps)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = LatentAttention(config, owns_indexer=True)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp = FeedForward(hidden, config.ffn_hidden_size)
        self.norm = RMSNorm(hidden, eps)

    def forward(self, hidden: Tensor, words: Tensor, context: ForwardContext) -> tuple[list[Tensor], Tensor | None]:
        """Chain all depths.

        Args:
            hidden: the main model's normed output `[batch, own, hidden]`.
            words: embeddings of the words after each position, from `Places.embed` with `depths - 1` ahead.
            context: of the main model.

        Returns:
            The normed state of each depth, and in training the indexer's summed loss.
        """
        states, selection, index_loss = [], None, None
        for depth in range(self.depths):
            following = context.places.following(words, depth, self.depths - 1)
            if context.document_starts is not None:  # as where the row ends
                inside = same_document(context.document_starts, depth)
                own = take(inside, context.places.own(inside.shape[1]))
                following = following.masked_fill(~own[..., None], 0)
            x = self.eh_proj(torch.cat([self.enorm(following), self.hnorm(hidden)], dim=-1))
            if self.recomputes("full"):
                x, selection, loss = again(self._sublayers, x, context, selection)
            else:
                x, selection, loss = self._sublayers(x, context, selection)
            hidden = self.norm(x)
            states.append(hidden)
            if loss is not None:
                index_loss = loss if index_loss is None else index_loss + loss
        return states, index_loss

    def _sublayers(
        self, x: Tensor, context: ForwardContext, selection: IndexerOutput | None
    ) -> tuple[Tensor, IndexerOutput | None, Tensor | None]:
        selective = self.recomputes("selective")
        attended, selection, loss = (
            selectively(self._attention, x, context, selection) if selective else self._attention(x, context, selection)
        )
        x = x + attended
        x = x + (selectively(self._feed_forward, x, context) if selective else self._feed_forward(x, context))
        return x, selection, loss

    def _attention(
        self, x: Tensor, context: ForwardContext, selection: IndexerOutput | None
    ) -> tuple[Tensor, IndexerOutput | None, Tensor | None]:
        result: tuple[Tensor, IndexerOutput | None, Tensor | None] = self.self_attn(
            self.input_layernorm(x), context, self.sublayer, selection
        )
        return result

    def _feed_forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        result: Tensor = self.mlp(self.post_attention_layernorm(x), context.places)
        return result


def mtp_targets(targets: Tensor, depth: int, end_of_text: int, document_starts: Tensor | None = None) -> Tensor:
    """Shift `targets` `[batch, seq]`, the word after each position, to what depth 1, 2, ... predicts.

    `IGNORE` replaces what lies behind the sequence, and words that follow an end of document which the state has not seen: they
    begin another text. With the `document_starts`, also what is the target of a position in another document.
    """
    shifted = F.pad(targets, (0, depth), value=IGNORE)[:, depth:]
    if document_starts is not None:
        shifted = shifted.where(same_document(document_starts, depth), IGNORE)
    for back in range(depth):
        shifted = shifted.masked_fill(F.pad(targets, (0, back), value=IGNORE)[:, back:] == end_of_text, IGNORE)
    return shifted
