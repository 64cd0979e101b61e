"""Byte-level BPE, trained on the corpus: any text becomes tokens and comes back unchanged.

The first ids are those of the LongCat models: 1 begins, 2 ends a text. How text is cut before merges are learnt is not
published of them; it is done here as in GPT-4 and DeepSeek-V3: numbers in groups of at most three digits, Chinese and
kana in runs of their own, other letters with the character before them, white space by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from longcat.config import CorpusConfig
from longcat.config.corpus import TRAINED_END_OF_TEXT
from longcat.errors import ConfigError, DataError

UNKNOWN, BEGIN_OF_TEXT, END_OF_TEXT = 0, 1, TRAINED_END_OF_TEXT
SPECIAL_TOKENS = ("<longcat_unk>", "<longcat_s>", "</longcat_s>")
_HAN = r"\p{Han}\p{Hiragana}\p{Katakana}"
_PIECES = (  # the most frequent first: the order changes nothing but the time
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{_HAN}]]+|\p{{N}}{{1,3}}|[{_HAN}]+"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PROBE = "Every  Document, of 12345 numbers\n\n\tand  é É ﬁ 專門 한 😀 don't  end "
"""Text that a tokenizer with a normal form, a lower case or spaces of its own does not give back."""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn merges from texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: training text.
        vocabulary_size: tokens, with the special ones and the 256 bytes; there are fewer when the texts have no more
            pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
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
    tokenizer.no_truncation()  # of no concern to a corpus, whoever saved the tokenizer with it
    tokenizer.no_padding()
    return tokenizer


def provide_tokenizer(path: Path, corpus: CorpusConfig, sample: Iterable[str]) -> Tokenizer:
    """The tokenizer at `path`; if there is none yet, that of the configuration or one trained on the sample.

    Raises:
        DataError: `corpus.tokenizer` cannot be read.
        ConfigError: it has more tokens than `corpus.vocabulary_size`, or works on other units than bytes.
    """
    if not path.exists():
        if corpus.tokenizer is None:
            tokenizer = train_tokenizer(sample, corpus.vocabulary_size)
        else:
            tokenizer = given_tokenizer(corpus.tokenizer, corpus)
        temporary = path.with_name(f".{path.name}.tmp")
        tokenizer.save(str(temporary))
        os.replace(temporary, path)
    return open_tokenizer(path)


def given_tokenizer(path: str, corpus: CorpusConfig) -> Tokenizer:
    """A tokenizer of the user's.

    Raises:
        DataError: it cannot be read.
        ConfigError: it has too many tokens, works on other units than bytes, changes text, or does not end it.
    """
    tokenizer = open_tokenizer(Path(path).expanduser())
    if any(tokenizer.token_to_id(letter) is None for letter in pre_tokenizers.ByteLevel.alphabet()):
        raise ConfigError(
            f"corpus.tokenizer={corpus.tokenizer} does not work on bytes; only byte-level tokenizers lose nothing"
        )
    size = max(tokenizer.get_vocab().values()) + 1
    if size > corpus.vocabulary_size:
        raise ConfigError(
            f"corpus.tokenizer={corpus.tokenizer} has {size} tokens; corpus.vocabulary_size is {corpus.vocabulary_size}"
        )
    end_of_text(tokenizer, corpus)
    added = "".join(f"a  {token.content}  " for token in tokenizer.get_added_tokens_decoder().values())
    for text in (_PROBE, added):
        found = decode(tokenizer, encode(tokenizer, [text])[0])
        if found != text:
            raise ConfigError(f"corpus.tokenizer={corpus.tokenizer} changes text: {text!r} comes back as {found!r}")
    return tokenizer


def end_of_text(tokenizer: Tokenizer, corpus: CorpusConfig) -> int:
    """The token that follows every document.

    Raises:
        ConfigError: `corpus.tokenizer` has no special token `corpus.end_of_text`.
    """
    if corpus.tokenizer is None:
        return END_OF_TEXT
    special = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if corpus.end_of_text not in special:
        raise ConfigError(
            f"{corpus.tokenizer} has no special token {corpus.end_of_text!r} (corpus.end_of_text); special ones are: "
            f"{', '.join(special) or 'none'}"
        )
    return int(special[corpus.end_of_text])


def encode(tokenizer: Tokenizer, texts: list[str], end: int | None = None) -> list[np.ndarray]:
    """Token ids of each text, uint32, without special tokens, but with the token `end` behind them if one is given."""
    tail = [] if end is None else [end]
    return [
        np.array(item.ids + tail, np.uint32) for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ]


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of token ids; the inverse of `encode`."""
    return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False))


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes that each token stands for, int32 `[vocabulary]`; 0 for special tokens."""
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int32)
    for token, index in vocabulary.items():
        if index in added:  # text as it is
            lengths[index] = 0 if added[index].special else len(token.encode())
        else:
            lengths[index] = len(token)  # one letter of the byte alphabet each
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
