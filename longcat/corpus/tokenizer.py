"""Byte-level BPE, trained on the corpus: any text becomes tokens and comes back unchanged.

The first ids are those of the LongCat models: 1 begins, 2 ends a text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from longcat.errors import DataError

UNKNOWN, BEGIN_OF_TEXT, END_OF_TEXT = 0, 1, 2
SPECIAL_TOKENS = ("<longcat_unk>", "<longcat_s>", "</longcat_s>")


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn merges from texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: training text.
        vocabulary_size: tokens, with the special ones and the 256 bytes; there are fewer when the texts have no more
            pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _text_only(tokenizer)


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        DataError: it is missing or not a tokenizer.
    """
    try:
        return _text_only(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"cannot read tokenizer {path}: {error}") from None


def _text_only(tokenizer: Tokenizer) -> Tokenizer:
    # A document that spells out "</longcat_s>" must not end there; tokenizer.json has no place for this switch.
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, uint32, without special tokens. Holds no interpreter lock while it works."""
    return [np.array(item.ids, np.uint32) for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of token ids; the inverse of `encode`."""
    return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False))


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes that each token stands for, int32 `[vocabulary]`; 0 for special tokens."""
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int32)
    for token, index in tokenizer.get_vocab().items():
        lengths[index] = 0 if token in SPECIAL_TOKENS else len(token)  # one letter of the byte alphabet each
    return lengths


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep `tokenizers` from starting threads of its own, where the caller has brought some."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
