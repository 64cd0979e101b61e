import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.tokenizer import (
    END_OF_TEXT,
    SPECIAL_TOKENS,
    decode,
    encode,
    open_tokenizer,
    token_bytes,
    train_tokenizer,
)
from longcat.errors import DataError

TEXTS = [f"def function_{n}(argument):\n    return argument + {n}\n" for n in range(300)] + ["零计算专家 ScMoE\n"] * 9
TOKENIZER = train_tokenizer(TEXTS, 400)
text_strategy = st.text(st.characters(exclude_categories=["Cs"]))
with_specials = st.lists(st.one_of(text_strategy, st.sampled_from([*SPECIAL_TOKENS, " ", "\n\n", "    "]))).map("".join)


@given(with_specials)
def test_every_text_comes_back_and_has_its_bytes(text):
    [tokens] = encode(TOKENIZER, [text])
    assert decode(TOKENIZER, tokens) == text
    assert END_OF_TEXT not in tokens
    assert token_bytes(TOKENIZER)[tokens].sum() == len(text.encode())


def test_vocabulary():
    assert [TOKENIZER.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert TOKENIZER.get_vocab_size() == 400
    assert token_bytes(TOKENIZER).tolist().count(0) == len(SPECIAL_TOKENS)
    [tokens] = encode(TOKENIZER, [TEXTS[0]])
    assert len(tokens) < len(TEXTS[0]) / 3  # it has learnt merges


def test_training_is_deterministic_and_a_poor_text_gives_fewer_tokens():
    assert train_tokenizer(TEXTS, 400).to_str() == TOKENIZER.to_str()
    assert train_tokenizer(["ab ab"], 400).get_vocab_size() < 300


def test_reopened_tokenizer_is_the_same(tmp_path):
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    again = open_tokenizer(tmp_path / "tokenizer.json")
    text = "return </longcat_s> 专家"
    assert np.array_equal(encode(again, [text])[0], encode(TOKENIZER, [text])[0])


def test_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        open_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=r"absent\.json"):
        open_tokenizer(tmp_path / "absent.json")
