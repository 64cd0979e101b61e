"""What a `tokenizer.json` says about its tokens, read without the tokenizers library."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from longcat.config.corpus import TRAINED_END_OF_TEXT, CorpusConfig
from longcat.errors import ConfigError, DataError
from longcat.unpacking import read_json


@dataclass(frozen=True)
class TokenizerFile:
    """The tokens of a `tokenizer.json`."""

    path: Path
    content: Mapping[str, Any]
    """The whole file, as JSON."""

    @classmethod
    def read(cls, path: Path) -> TokenizerFile:
        """Read a `tokenizer.json`.

        Raises:
            DataError: it is missing, or not the file of a tokenizer, or gives two tokens the same id.
        """
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise TypeError(f"expected an object, found {type(content).__name__}")
            file = cls(path, content)
            clash = _same_id([*file.model_tokens.items(), *file.added_tokens.items()])
        except OSError as error:
            raise DataError(f"cannot read tokenizer {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"cannot read tokenizer {path}: it is no tokenizer.json of Hugging Face's tokenizers "
                f"({type(error).__name__}: {error})"
            ) from None
        if clash:
            raise DataError(f"cannot use tokenizer {path}: {clash}")
        return file

    @cached_property
    def model_tokens(self) -> dict[str, int]:
        """Id of each token of the model itself."""
        vocabulary = self.content["model"]["vocab"]
        if isinstance(vocabulary, list):  # of a unigram model: pairs of token and score
            return {str(token): index for index, (token, _) in enumerate(vocabulary)}
        return {str(token): int(index) for token, index in vocabulary.items()}

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """Id of each added token, special ones among them."""
        return {str(token["content"]): int(token["id"]) for token in self.content.get("added_tokens") or ()}

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Id of each special token."""
        added = self.content.get("added_tokens") or ()
        return {str(token["content"]): int(token["id"]) for token in added if token.get("special")}

    @property
    def vocabulary_size(self) -> int:
        """Rows that an embedding needs: the largest id + 1, however many tokens there are."""
        return max([*self.model_tokens.values(), *self.added_tokens.values()], default=-1) + 1

    def end_of_text(self, token: str) -> int:
        """Return the id of the special token that ends a document.

        Raises:
            ConfigError: there is no such special token.
        """
        special = self.special_tokens
        if token not in special:
            near = difflib.get_close_matches(token, special, n=1, cutoff=0.6)
            raise ConfigError(
                f"{self.path} has no special token {token!r} (corpus.end_of_text)"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f"; special ones are: {', '.join(special) or 'none'}"
            )
        return special[token]


def end_of_text(corpus: CorpusConfig) -> int:
    """Return the id of the token that ends a document in the corpus' tokenizer, whether it is given or yet to be trained.

    Raises:
        DataError: `corpus.tokenizer` cannot be read.
        ConfigError: `corpus.tokenizer` has no special token `corpus.end_of_text`.
    """
    if corpus.tokenizer is None:
        return TRAINED_END_OF_TEXT
    return TokenizerFile.read(Path(corpus.tokenizer).expanduser()).end_of_text(corpus.end_of_text)


def _same_id(tokens: list[tuple[str, int]]) -> str | None:
    """Describe two tokens that share an id, or one that has two; None if there are none."""
    token_of: dict[int, str] = {}
    id_of: dict[str, int] = {}
    for token, index in tokens:
        if token_of.setdefault(index, token) != token:
            return f"{token_of[index]!r} and {token!r} both have id {index}"
        if id_of.setdefault(token, index) != index:
            return f"{token!r} has the ids {id_of[token]} and {index}"
        if index < 0:
            return f"{token!r} has the negative id {index}"
    return None
