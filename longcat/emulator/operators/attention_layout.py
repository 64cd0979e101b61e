"""Where queries, keys and values of fused attention lie in memory, sequence by sequence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.attention_options import HEAD_AXIS, Options, ends_of
from longcat.emulator.operators.dropout import unpacked
from longcat.emulator.operators.softmax import Masked, band
from longcat.emulator.reference import check, kept

STATISTICS = 8
"""Number of copies of each row's maximum and sum that the device stores."""
ALIBI_ROWS = 1024
"""Rows of a compressed ALiBi bias."""


@dataclass
class Part:
    """One batch of equally long sequences, or one of packed sequences: all `[batch, heads, tokens, size]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    masked: Masked


class Layout:
    """Memory layout of queries, keys and values, and the sequences in it."""

    def __init__(self, options: Options, query: Tensor, key: Tensor) -> None:
        self.options, self.heads, self.tokens = options, options.heads, query.shape[0]
        wide = options.layout in ("BSH", "SBH")
        size = query.shape[-1] // self.heads
        self.key_heads = key.shape[-1] // size if wide else key.shape[HEAD_AXIS[options.layout]]
        if options.packed:
            self.spans = [
                [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)] for ends in options.ends
            ]
            lengths = [[span.stop - span.start for span in spans] for spans in self.spans]
            self.elements = self.heads * sum(q * k for q, k in zip(*lengths, strict=True))
            if options.pse is not None:
                check(0 not in lengths[0], "npu_fusion_attention", "empty sequences go without pse")
        else:
            batch, _, queries, _ = self.of_queries(query)[0].shape
            self.elements = batch * self.heads * queries * self.of_keys(key)[0].shape[2]

    def of_queries(self, tensor: Tensor) -> list[Tensor]:
        """Return a tensor of queries as `[batch, heads, tokens, size]`, one for each packed sequence or one for all."""
        return self._apart(tensor, self.heads, 0)

    def of_keys(self, tensor: Tensor) -> list[Tensor]:
        """Return a tensor of keys or values so."""
        return self._apart(tensor, self.key_heads, 1)

    def _apart(self, tensor: Tensor, heads: int, side: int) -> list[Tensor]:
        layout = self.options.layout
        if layout == "TND":
            return [tensor[span].transpose(0, 1)[None] for span in self.spans[side]]
        if layout == "BNSD":
            return [tensor]
        if layout == "BSND":
            return [tensor.transpose(1, 2)]
        by_heads = tensor.unflatten(-1, (heads, -1))
        return [by_heads.transpose(1, 2) if layout == "BSH" else by_heads.permute(1, 2, 0, 3)]

    def dropout(self, seed: int, offset: int) -> Tensor | None:
        """Return which probabilities dropout keeps, of all sequences in a row; None for all."""
        if self.options.keep_prob >= 1:
            return None
        if self.options.dropout_mask is not None:
            return unpacked(self.options.dropout_mask, self.elements)
        return kept(seed, offset, self.elements, self.options.keep_prob)

    def parts(self, query: Tensor, key: Tensor, value: Tensor, dropout: Tensor | None) -> Iterator[Part]:
        """Yield the sequences, or all at once where they are equally long."""
        chosen, taken = self.options, 0
        queries, keys, values = self.of_queries(query), self.of_keys(key), self.of_keys(value)
        if chosen.query_rope is not None and chosen.key_rope is not None:
            queries = [torch.cat(pair, -1) for pair in zip(queries, self.of_queries(chosen.query_rope), strict=True)]
            keys = [torch.cat(pair, -1) for pair in zip(keys, self.of_keys(chosen.key_rope), strict=True)]
        for number, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
            shape = (*q.shape[:3], k.shape[2])
            count = math.prod(shape)
            keep = None if dropout is None else dropout[taken : taken + count].view(shape)
            taken += count
            yield Part(q, k, v, self._masked(q, k, number, keep))

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """Join results `[batch, heads, tokens, size]` of all sequences in the layout; tokens of none are 0."""
        layout = self.options.layout
        if self.options.packed:
            rows = torch.cat([part[0].transpose(0, 1) for part in parts])
            return torch.cat((rows, rows.new_zeros(len(like) - len(rows), *rows.shape[1:])))
        if layout == "BSND":
            return parts[0].transpose(1, 2)
        if layout == "BSH":
            return parts[0].transpose(1, 2).flatten(2)
        return parts[0].permute(2, 0, 1, 3).flatten(2) if layout == "SBH" else parts[0]

    def join_statistics(self, parts: list[Tensor]) -> Tensor:
        """Join `[batch, heads, tokens, 1]`; packed ones lie by heads in each sequence unless softmax_layout is TND."""
        repeats = [part.expand(*part.shape[:-1], STATISTICS) for part in parts]
        if not self.options.packed:
            return repeats[0]
        if self.options.softmax_layout == "TND":
            rows = torch.cat([part[0].transpose(0, 1) for part in repeats])
        else:
            rows = torch.cat([part.reshape(-1, STATISTICS) for part in repeats]).view(-1, self.heads, STATISTICS)
        return torch.cat((rows, rows.new_zeros(self.tokens - len(rows), *rows.shape[1:])))

    def split_statistics(self, statistics: Tensor) -> list[Tensor]:
        """Undo `join_statistics`."""
        if not self.options.packed:
            return [statistics[..., :1]]
        if self.options.softmax_layout == "TND":
            return [part[..., :1] for part in self.of_queries(statistics)]
        rows = statistics.reshape(-1, STATISTICS)
        return [
            rows[span.start * self.heads : span.stop * self.heads, :1].view(1, self.heads, -1, 1)
            for span in self.spans[0]
        ]

    def bias(self, pse: Tensor, queries: int, keys: int, number: int) -> Tensor:
        """Return what is added to the scores of a sequence."""
        chosen = self.options
        distance = torch.arange(keys) - torch.arange(queries)[:, None]
        if chosen.pse_type in (2, 3):
            starts = [_at(indices, number) for indices in (chosen.kv_start_idx, chosen.q_start_idx)]
            away = (distance + starts[0] - starts[1]).abs().float()
            slopes = pse[number : number + 1] if chosen.packed and pse.dim() == 2 else pse
            return -slopes[..., None, None] * (away.sqrt() if chosen.pse_type == 3 else away)
        check(pse.dim() == 4, "npu_fusion_attention", f"pse must have 4 dimensions, got {pse.dim()}")
        pse = pse[number : number + 1] if chosen.packed and pse.shape[0] > 1 else pse
        if pse.shape[2] in (1, queries) and pse.shape[3] == keys:
            return pse
        check(
            pse.shape[2] == ALIBI_ROWS and queries == keys and chosen.sparse_mode in (0, 2, 3),
            "npu_fusion_attention",
            f"pse must be [batch or 1, heads, {queries} or 1, {keys}], or the last 1024 rows of ALiBi, got "
            f"{list(pse.shape)}",
        )  # ALiBi is a function of the distance
        rows = (ALIBI_ROWS - 1 + distance).clamp(0, ALIBI_ROWS - 1)
        return pse[:, :, torch.where(distance < 0, ALIBI_ROWS - 1, rows), pse.shape[3] - 1 + distance.clamp_max(0)]

    def _masked(self, query: Tensor, key: Tensor, number: int, keep: Tensor | None) -> Masked:
        queries, keys, chosen = query.shape[2], key.shape[2], self.options
        bias = None if chosen.pse is None else self.bias(chosen.pse, queries, keys, number)
        hidden = self._hidden(queries, keys, number)
        return Masked(chosen.scale, hidden, bias, chosen.pse_type == 1, chosen.sink, keep, chosen.keep_prob)

    def _hidden(self, queries: int, keys: int, number: int) -> Tensor | None:
        chosen, mask = self.options, self.options.atten_mask
        if mask is None:
            return None
        mode, limits = chosen.sparse_mode, (chosen.pre_tokens, chosen.next_tokens)
        if mode in (0, 1, 5):
            check(
                mask.shape[-2] >= queries and mask.shape[-1] >= keys if chosen.packed
                else mask.shape[-2:] == (queries, keys),
                "npu_fusion_attention",
                f"atten_mask must end in [{queries}, {keys}] in sparse_mode {mode}, got {list(mask.shape)}",
            )  # fmt: skip
            return mask[..., :queries, :keys].bool()
        if mode == 2:
            return band(queries, keys, None, 0, last=False)
        if mode in (7, 8):
            odd = len(self.spans[0]) - 1 if mode == 7 else 0
            if number == odd:
                return band(queries, keys, *limits, last=True)
            return band(queries, keys, None, 0, last=mode == 7)
        if mode == 4:
            return band(queries, keys, *limits, last=True)
        causal = band(queries, keys, None, 0, last=True)
        if mode == 3:
            return causal
        prefix = torch.tensor(ends_of(chosen.prefix))
        prefix = prefix[number : number + 1] if chosen.packed else prefix
        return causal & (torch.arange(keys) >= prefix[:, None, None, None])


def _at(indices: Any, number: int) -> int:
    numbers = ends_of(indices) if indices is not None else [0]
    return numbers[min(number, len(numbers) - 1)] if numbers else 0
