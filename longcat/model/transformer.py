"""The whole model: embedding, layers, norm, head and loss terms.

Parameter names are those of Hugging Face's `LongcatFlashForCausalLM`.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longcat.config import ModelConfig, Phase
from longcat.model.cache import Cache
from longcat.model.context import ForwardContext, Turn, runs_of
from longcat.model.experts import RouterStatistics
from longcat.model.initialisation import InitialWeights
from longcat.model.layer import Layer
from longcat.model.module import Module, use_operators
from longcat.model.mtp import MultiTokenPrediction, mtp_targets
from longcat.model.ngram import NgramEmbedding
from longcat.model.norm import RMSNorm
from longcat.model.part import Part
from longcat.model.places import WHOLE, Places, local, take
from longcat.model.recomputation import Recomputing, again
from longcat.ops.documents import find_document_starts
from longcat.ops.registry import OperatorSettings
from longcat.ops.rotary import rotary_angles
from longcat.padding import is_padding


class State(NamedTuple):
    """The output of the layers."""

    last: Tensor
    """`[batch, own, hidden]`, before the final norm."""
    hidden: Tensor
    """The same after it."""
    statistics: list[RouterStatistics]
    """One per layer; empty in inference mode."""
    index_loss: Tensor | None
    """Sum over layers and tokens, if indexers learn."""


class LossSums(NamedTuple):
    """Loss terms of a batch, each an fp32 sum over its non-padding tokens: own ones, where processes divide those of rows."""

    language_model: Tensor
    """-log p of the next token, in nats, where there is a target."""
    mtp: Tensor
    """-log p of the tokens after the next one, summed over depths; 0 without multi-token prediction."""
    indexer: Tensor
    """Divergence of the indexers from attention, summed over layers, in nats; 0 without sparse attention."""
    hidden_z: Tensor
    """Hidden z-loss of the last layer's output, before the final norm; where exactly is not published."""
    router_probability: Tensor
    """The routers' probabilities, `[layers, experts]`."""
    router_load: Tensor
    """Slots given to each expert, `[layers, experts]`, without gradient."""
    router_entropy: Tensor
    """Entropy of the routers' probabilities in nats, `[layers]`, without gradient."""
    router_top_probability: Tensor
    """The routers' largest probability, `[layers]`, without gradient."""


class Onward(NamedTuple):
    """What a part of a model that is not the last one computes from tokens and targets."""

    hidden: Tensor
    """`[batch, own, hidden]`, for the next part."""
    sums: LossSums
    """Of this part: terms of other parts are 0, and router statistics are those of its own layers."""


class HiddenZ(nn.Module):
    """Hidden z-loss: sum over tokens of (log sum_i exp |h_i|)^2 (arXiv 2509.01322)."""

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Sum over the tokens of `[..., hidden]` to an fp32 scalar; bool `padding` `[...]` leaves tokens out."""
        squares = hidden.float().abs().logsumexp(-1).square()
        return (squares if padding is None else squares.masked_fill(padding, 0.0)).sum()


class Backbone(Recomputing):
    """Token embedding, layers and final norm, or a part of them."""

    def __init__(self, config: ModelConfig, part: Part) -> None:
        super().__init__()
        self.rope_dim, self.rope_theta, self.rope_scaling = (
            config.qk_rope_head_dim,
            config.rope_theta,
            config.rope_scaling,
        )
        predicts = part.last and config.mtp_num_layers > 0
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden_size) if part.first or predicts else None
        self.ngram_embeddings = (
            NgramEmbedding(config.ngram, config.vocabulary, config.hidden_size, config.end_of_text)
            if part.first and config.ngram is not None
            else None
        )
        self.layers = nn.ModuleDict({str(number): Layer(config) for number in part.layers})
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if part.last else None
        self.mtp = MultiTokenPrediction(config) if predicts else None

    def context(
        self,
        tokens: Tensor,
        cache: Cache | None,
        padding: Tensor | None,
        phase: Phase,
        documents: Tensor | None = None,
        places: Places = WHOLE,
    ) -> ForwardContext:
        """Make the context of whole rows of `tokens` `[batch, seq]`, which follow those in the cache."""
        if documents is not None and cache is not None:
            raise ValueError("a cache holds one document a row: documents cannot be told apart in it")
        start, length = 0 if cache is None else cache.length, tokens.shape[1]
        positions = torch.arange(start, start + length, device=tokens.device)
        document_starts = None if documents is None else find_document_starts(documents)
        if cache is not None and cache.starts is not None:
            positions = positions - cache.starts[:, None]
            document_starts = cache.starts[:, None].expand(-1, length)
        turn = Turn(*rotary_angles(positions, self.rope_dim, self.rope_theta, self.rope_scaling))
        if padding is None and documents is not None:
            padding = is_padding(documents)
        own, heads = places.own(length), places.heads(length)
        own_runs = runs_of(own, start, document_starts)
        return ForwardContext(
            places,
            own=own_runs,
            heads=own_runs if heads == own else runs_of(heads, start, document_starts),
            turn=turn.take(own),
            turn_heads=turn.take(heads),
            cache=cache,
            padding=None if padding is None else take(padding, own),
            document_starts=document_starts,
            phase=phase,
        )

    def forward(self, tokens: Tensor, context: ForwardContext, before: Tensor | None = None) -> State:
        """Compute the state after the layers for own tokens of int64 `[batch, seq]`, from the output of the part `before` this one, if any."""
        if before is None:
            x = self._embedded(tokens, context)
        else:
            x = before
            if context.cache is not None:
                context.cache.extend_tokens(tokens)
        statistics, index_loss = [], None
        for number, layer in self.layers.items():
            if self.recomputes("full"):
                x, asked, loss = again(layer, x, context, int(number))
            else:
                x, asked, loss = layer(x, context, int(number))
            if asked is not None:
                statistics.append(asked)
            if loss is not None:
                index_loss = loss if index_loss is None else index_loss + loss
        return State(x, x if self.norm is None else self.norm(x), statistics, index_loss)

    def _embedded(self, tokens: Tensor, context: ForwardContext) -> Tensor:
        assert self.embed_tokens is not None
        seen = tokens if context.cache is None else context.cache.extend_tokens(tokens)
        # before its rows a cache has zeros, as n-grams count what precedes a document
        starts = context.document_starts if context.cache is None else None
        found = (
            None
            if self.ngram_embeddings is None
            else self.ngram_embeddings.start(seen, tokens.shape[1], starts, context.places)
        )
        x = context.places.embed(tokens, local(self.embed_tokens.weight))
        if self.ngram_embeddings is not None and found is not None:
            x = self.ngram_embeddings(x, found())
        return x


class LongcatModel(Module):
    """LongCat for causal language modelling: Flash, Flash-Lite (n-grams), 2.0 (n-grams, sparse attention, MTP).

    A `part` of it has its parameters under the same names.
    """

    def __init__(
        self, config: ModelConfig, operators: OperatorSettings | None = None, part: Part | None = None
    ) -> None:
        super().__init__()
        self.config, self.part = config, part or Part.whole(config)
        self.model = Backbone(config, self.part)
        self.lm_head = nn.Linear(config.hidden_size, config.vocabulary, bias=False) if self.part.last else None
        self.hidden_z = HiddenZ()
        self.places = WHOLE
        """Which tokens of its rows this process computes where loss terms are summed; parallelism sets its own."""
        use_operators(self, operators or OperatorSettings())

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        cache: Cache | None = None,
        padding: Tensor | None = None,
        phase: Phase = "sparse",
        documents: Tensor | None = None,
        last_only: bool = False,
        states_only: bool = False,
        before: Tensor | None = None,
    ) -> Tensor | LossSums | Onward:
        """Compute logits, or with `targets` the loss terms; `logits`, `next_logits` and `sums` have the types.

        Every way into the model leads through here: FSDP gathers the weights of the whole model at this call.

        Args:
            tokens: int64 `[batch, seq]`.
            targets: int64 `[batch, seq]`, the token that follows each one, `IGNORE` for those not to learn.
            cache: holds the tokens before these, and gets these; for inference.
            padding: bool `[batch, seq]`, true for padding at the end of a row: it gets no routed expert and adds nothing
                to losses and statistics.
            phase: how attention is trained, if it is sparse.
            documents: int64 `[batch, seq]`, a number for each document in a row, never falling, and -1 for padding
                behind them. Nothing reaches from one document into another. None: every row is one.
            last_only: compute the logits of the last token of each row only, `[batch, 1, vocab]`.
            states_only: return the states `[batch, seq, hidden]` that `predict` makes logits of, instead of logits.
            before: output of the part before this one, `[batch, own, hidden]`, where there is one.

        Returns:
            fp32 logits `[batch, seq, vocab]`, or the sums; of a part that is not the last one its output `[batch, seq, hidden]`
            instead of logits, and besides the sums.

        Raises:
            ValueError: documents together with a cache, or loss terms in inference mode.
        """
        if targets is not None and torch.is_inference_mode_enabled():
            raise ValueError("loss terms need router statistics, which inference mode leaves out; use torch.no_grad()")
        places = self.places.whole if targets is None else self.places
        context = self.model.context(tokens, cache, padding, phase, documents, places)
        state = self.model(tokens, context, before)
        if targets is None:
            if self.lm_head is None:
                return state.last
            if states_only:
                return state.hidden
            return places.logits(
                state.hidden[:, -1:] if last_only else state.hidden, local(self.lm_head.weight)
            ).float()
        nothing = state.last.new_zeros((), dtype=torch.float32)
        mtp, index_loss = nothing, nothing if state.index_loss is None else state.index_loss
        if self.model.mtp is not None and self.model.embed_tokens is not None:
            weight = local(self.model.embed_tokens.weight)
            words = places.embed(targets.clamp_min(0), weight, self.model.mtp.depths - 1)
            states, own = self.model.mtp(state.hidden, words, context)
            index_loss = index_loss if own is None else index_loss + own
            for depth, hidden in enumerate(states, 1):
                mtp = mtp + self._loss(
                    hidden, mtp_targets(targets, depth, self.config.end_of_text, context.document_starts)
                )
        last = self.part.last
        sums = LossSums(
            language_model=self._loss(state.hidden, targets) if last else nothing,
            mtp=mtp,
            indexer=index_loss,
            hidden_z=self.hidden_z(state.last, context.padding) if last else nothing,
            router_probability=torch.stack([asked.probability for asked in state.statistics]),
            router_load=torch.stack([asked.load for asked in state.statistics]),
            router_entropy=torch.stack([asked.entropy for asked in state.statistics]),
            router_top_probability=torch.stack([asked.top_probability for asked in state.statistics]),
        )
        return sums if last else Onward(state.last, sums)

    def logits(self, tokens: Tensor, *, cache: Cache | None = None, padding: Tensor | None = None) -> Tensor:
        """Compute fp32 logits `[batch, seq, vocab]`, see `forward`."""
        return cast(Tensor, self(tokens, cache=cache, padding=padding))

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Compute fp32 logits `[batch, vocab]` of the token after these, which the cache gets; see `forward`."""
        return cast(Tensor, self(tokens, cache=cache, last_only=True))[:, -1]

    def states(self, tokens: Tensor, *, cache: Cache | None = None, padding: Tensor | None = None) -> Tensor:
        """Compute the last layer's normed output `[batch, seq, hidden]`, see `forward`."""
        return cast(Tensor, self(tokens, cache=cache, padding=padding, states_only=True))

    def predict(self, states: Tensor) -> Tensor:
        """Compute fp32 logits `[..., vocab]` of `states` `[..., hidden]`."""
        assert self.lm_head is not None
        return self.places.whole.logits(states, local(self.lm_head.weight)).float()

    def sums(
        self,
        tokens: Tensor,
        targets: Tensor,
        phase: Phase = "sparse",
        documents: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> LossSums:
        """Sum the loss terms, see `forward`."""
        return cast(LossSums, self(tokens, targets, phase=phase, documents=documents, padding=padding))

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        assert self.lm_head is not None
        return self.places.cross_entropy(hidden, local(self.lm_head.weight), targets, self.operators)

    def new_cache(self) -> Cache:
        """Make an empty cache for `forward`."""
        return Cache(self.config.num_layers)

    @property
    def blocks(self) -> list[Layer]:
        """The layers of this part, with their type."""
        return [cast(Layer, layer) for layer in self.model.layers.values()]

    def initialize(self, seed: int) -> None:
        """Set all weights to their initial values (`longcat.model.initialisation`), and the biases of routers to 0."""
        initial = InitialWeights(self.config, seed)
        for name, parameter in self.named_parameters():
            initial.fill(name, parameter, parameter.shape, [0] * parameter.dim())
        for buffer in self.buffers():
            buffer.zero_()
