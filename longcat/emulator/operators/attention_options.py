"""What is chosen about fused attention, and what of it the wheel's documentation excludes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import check

COMPRESSED = 2048
"""Size of the causal mask that stands for one of any length."""
COMPRESSED_PREFIX = 3072
"""Rows of the mask that stands for a causal one with a prefix."""
HEAD_AXIS = {"BNSD": 1, "BSND": 2, "TND": 1}
"""Dimension of the heads, in layouts that have one."""
NO_LIMIT = 2**31 - 1
_LAYOUTS = {"BNSD": 4, "BSND": 4, "BSH": 3, "SBH": 3, "TND": 3}


@dataclass
class Options:
    """What is chosen about an attention, under one name for all versions.

    Sparse modes: 0, 1 the mask as it is; 2, 3 causal, first or last rows aligned; 4 band; 5 the mask as it is; 6 causal
    with a visible prefix; 7, 8 packed, causal but for the last or the first sequence, which is a band. Without a mask,
    all is seen in every mode. Types of pse: 0 added after the scale, 1 before it, 2 ALiBi from slopes, 3 from the root
    of the distance.
    """

    heads: int
    layout: str
    pse: Tensor | None = None
    padding_mask: Tensor | None = None
    atten_mask: Tensor | None = None
    scale: float = 1.0
    keep_prob: float = 1.0
    pre_tokens: int = NO_LIMIT
    next_tokens: int = NO_LIMIT
    inner_precise: int = 0
    prefix: Any = None
    actual_seq_qlen: Any = None
    actual_seq_kvlen: Any = None
    sparse_mode: int = 0
    gen_mask_parallel: bool = True
    sync: bool = False
    softmax_layout: str = ""
    sink: Tensor | None = None
    dropout_mask: Tensor | None = None
    seed: int = 0
    offset: int = 0
    query_rope: Tensor | None = None
    key_rope: Tensor | None = None
    pse_type: int = 1
    q_start_idx: Any = None
    kv_start_idx: Any = None

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, heads: int, layout: str, options: dict[str, Any]) -> Options:
        """Rename the versions' options to one name each, and check them all."""
        renamed = {"pre_tockens": "pre_tokens", "next_tockens": "next_tokens", "scale_value": "scale"}
        chosen = cls(heads, layout.upper(), **{renamed.get(name, name): value for name, value in options.items()})
        chosen.check(query, key, value)
        return chosen

    def tokens(self, tensor: Tensor) -> int:
        """Return the number of tokens of a sequence in this layout, of all in a packed one."""
        return tensor.shape[self.layout.index("T" if self.packed else "S")]

    @property
    def ends(self) -> tuple[list[int], list[int]]:
        """Where packed sequences end, of queries and of keys; zeros at the end are sequences that do not count."""
        ends = ends_of(self.actual_seq_qlen), ends_of(self.actual_seq_kvlen)
        count = max((number for stops in ends for number, stop in enumerate(stops, 1) if stop), default=len(ends[0]))
        return ends[0][:count], ends[1][:count]

    @property
    def packed(self) -> bool:
        """Whether sequences lie one behind the other."""
        return self.layout == "TND"

    def check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Refuse what the wheel's documentation of the operator excludes."""

        def need(condition: bool, reason: str) -> None:
            check(condition, "npu_fusion_attention", reason)

        need(self.layout in _LAYOUTS, f"input_layout must be one of {', '.join(_LAYOUTS)}, got {self.layout}")
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            need(
                tensor.dim() == _LAYOUTS[self.layout],
                f"{name} must have {_LAYOUTS[self.layout]} dimensions in layout {self.layout}, got {tensor.dim()}",
            )
        need(
            query.dtype == key.dtype == value.dtype,
            f"query, key and value must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}",
        )
        need(1 <= self.heads <= 256, f"head_num must be within 1 and 256, got {self.heads}")
        need(0 < self.keep_prob <= 1, f"keep_prob must be in (0, 1], got {self.keep_prob}")
        modes = (0, 1, 2, 3, 4, 6, 7, 8) if self.packed else (0, 1, 2, 3, 4, 5, 6)
        need(self.sparse_mode in modes, f"sparse_mode must be one of {modes} in {self.layout}, got {self.sparse_mode}")
        need(self.padding_mask is None, "padding_mask is reserved and must be None")
        allowed = ("", "TND") if self.packed else ("",)
        need(self.softmax_layout in allowed, f"softmax_layout must be one of {allowed}, got {self.softmax_layout!r}")
        if self.sink is not None:
            need(
                self.sink.dtype == torch.float32 and self.sink.shape == (self.heads,),
                f"sink must be float32 [{self.heads}], got {self.sink.dtype} {list(self.sink.shape)}",
            )
        self._check_heads(query, key, value, need)
        self._check_packed(query, key, need)
        self._check_mask(query, key, need)
        self._check_band(need)
        self._check_pse(query, need)

    def _check_heads(self, query: Tensor, key: Tensor, value: Tensor, need: Any) -> None:
        if self.layout in ("BSH", "SBH"):
            need(query.shape[-1] % self.heads == 0, f"head_num {self.heads} does not divide {query.shape[-1]}")
            size = query.shape[-1] // self.heads
            need(key.shape[-1] % size == 0, f"key's width {key.shape[-1]} is no multiple of the head's, {size}")
            key_heads = key.shape[-1] // size
            need(key_heads == 0 or value.shape[-1] % key_heads == 0, "value's width is no multiple of key's heads")
            key_size, value_size = size, value.shape[-1] // max(key_heads, 1)
        else:
            axis = HEAD_AXIS[self.layout]
            need(query.shape[axis] == self.heads, f"head_num is {self.heads}, but query has {query.shape[axis]} heads")
            need(key.shape[axis] == value.shape[axis], "key and value must have the same number of heads")
            key_heads, size, key_size, value_size = key.shape[axis], query.shape[-1], key.shape[-1], value.shape[-1]
        need(
            key_heads > 0 and self.heads % key_heads == 0,
            f"query's heads ({self.heads}) must be a multiple of key's ({key_heads})",
        )
        need(
            size == key_size >= value_size and size <= 768,
            f"head sizes must be equal for query ({size}) and key ({key_size}), at most 768, and not less than value's "
            f"({value_size})",
        )
        if not self.packed:
            batch = 1 if self.layout == "SBH" else 0
            need(query.shape[batch] == key.shape[batch] == value.shape[batch], "batch sizes must be equal")
        sizes = [self.tokens(tensor) for tensor in (query, key, value)]
        need(sizes[1] == sizes[2], f"key and value must have as many tokens, got {sizes[1]} and {sizes[2]}")
        need(self.packed or min(sizes) > 0, "query and key must have tokens")

    def _check_packed(self, query: Tensor, key: Tensor, need: Any) -> None:
        if self.packed:
            need(
                self.actual_seq_qlen is not None and self.actual_seq_kvlen is not None,
                "layout TND needs actual_seq_qlen and actual_seq_kvlen",
            )
            queries, keys = len(ends_of(self.actual_seq_qlen)), len(ends_of(self.actual_seq_kvlen))
            need(
                queries == keys > 0,
                f"actual_seq_qlen and actual_seq_kvlen must name as many sequences, and some, got {queries} and {keys}",
            )
            for tensor, stops in zip((query, key), self.ends, strict=True):
                need(
                    stops == sorted(stops) and stops[-1] <= tensor.shape[0],
                    f"lengths {stops} must be running totals up to {tensor.shape[0]} tokens",
                )
        if self.query_rope is not None or self.key_rope is not None:
            need(self.query_rope is not None and self.key_rope is not None, "query_rope and key_rope belong together")
            need(self.packed and self.atten_mask is not None, "query_rope needs layout TND and an atten_mask")
            need(query.dtype == torch.bfloat16, f"query_rope needs bfloat16, got {query.dtype}")
            need(self.keep_prob == 1 and self.pse is None, "query_rope goes with neither dropout nor pse")

    def _check_mask(self, query: Tensor, key: Tensor, need: Any) -> None:
        if self.atten_mask is None:
            return
        need(
            self.atten_mask.dtype in (torch.bool, torch.uint8),
            f"atten_mask must be bool or uint8, got {self.atten_mask.dtype}",
        )
        shape = tuple(self.atten_mask.shape[-2:])
        if self.sparse_mode in (2, 3, 4, 7, 8):
            need(
                shape == (COMPRESSED, COMPRESSED),
                f"atten_mask must be the compressed [2048, 2048] in sparse_mode {self.sparse_mode}, got {list(shape)}",
            )
        if self.sparse_mode == 6:
            need(shape == (COMPRESSED_PREFIX, COMPRESSED), "atten_mask must be the compressed [3072, 2048] with prefix")
        if self.sparse_mode in (0, 1, 5) and not self.packed:
            queries, keys = self.tokens(query), self.tokens(key)
            batch = query.shape[1 if self.layout == "SBH" else 0]
            shapes = [(*front, queries, keys) for front in ((), (1, 1), (batch, 1), (batch, self.heads))]
            need(
                tuple(self.atten_mask.shape) in shapes,
                f"atten_mask must be one of {', '.join(str(list(one)) for one in shapes)} in sparse_mode "
                f"{self.sparse_mode}, got {list(self.atten_mask.shape)}",
            )
        if self.sparse_mode in (5, 6):
            need(self.prefix is not None, f"sparse_mode {self.sparse_mode} needs prefix")
            self._check_prefix(query, key, need)

    def _check_prefix(self, query: Tensor, key: Tensor, need: Any) -> None:
        """A prefix is one number a sequence, of no more keys than there are, and no fewer than are behind the queries."""
        prefix = ends_of(self.prefix)
        if self.packed:
            queries, keys = (
                [last - first for first, last in zip([0, *stops[:-1]], stops, strict=True)] for stops in self.ends
            )
        else:
            batch = query.shape[1 if self.layout == "SBH" else 0]
            queries, keys = [self.tokens(query)] * batch, [self.tokens(key)] * batch
        need(
            len(prefix) == len(keys), f"prefix must have a number for each of {len(keys)} sequences, got {len(prefix)}"
        )
        for number, q, k in zip(prefix, queries, keys, strict=True):
            need(
                max(k - q, 0) <= number <= k,
                f"prefix must be within {max(k - q, 0)} and {k} for {q} queries and {k} keys, got {number}",
            )

    def _check_band(self, need: Any) -> None:
        if self.atten_mask is not None and self.sparse_mode in (0, 4):
            need(
                self.pre_tokens + self.next_tokens >= 0,
                f"the band from pre_tockens {self.pre_tokens} to next_tockens {self.next_tokens} is empty",
            )

    def _check_pse(self, query: Tensor, need: Any) -> None:
        need(self.pse_type in (0, 1, 2, 3), f"pse_type must be 0 to 3, got {self.pse_type}")
        if self.pse is None:
            need(self.pse_type in (0, 1), f"pse_type {self.pse_type} needs pse, the slopes")
            return
        need(self.sparse_mode not in (7, 8), f"sparse_mode {self.sparse_mode} goes without pse")
        if self.pse_type in (2, 3):
            need(
                self.pse.dtype == torch.float32 and self.pse.dim() in (1, 2) and self.pse.shape[-1] == self.heads,
                "pse must be float32 slopes, [heads] or [batch, heads], with pse_type 2 and 3",
            )
        else:
            need(self.pse.dtype == query.dtype, f"pse must have query's dtype {query.dtype}, got {self.pse.dtype}")


def ends_of(lengths: Any) -> list[int]:
    """Return lengths or running totals, given as a tensor or a list, as numbers."""
    return [int(length) for length in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
