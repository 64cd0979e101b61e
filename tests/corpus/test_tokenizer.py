import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from longcat.config import CorpusConfig
from longcat.config.corpus import TRAINED_END_OF_TEXT as END_OF_TEXT
from longcat.corpus.tokenizer import (
    SPECIAL_TOKENS,
    decode,
    encode,
    open_tokenizer,
    provide_tokenizer,
    token_bytes,
    train_tokenizer,
    vocabulary_size,
)
from longcat.errors import ConfigError, DataError

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
    assert TOKENIZER.token_to_id(CorpusConfig().end_of_text) == END_OF_TEXT
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


def pieces(text):
    """A text as it is cut before merges are learnt."""
    return [text[begin:end] for _, (begin, end) in TOKENIZER.pre_tokenizer.pre_tokenize_str(text)]


@given(text_strategy)
def test_pieces_cover_the_text_and_numbers_have_three_digits_at_most(text):
    found = pieces(text)
    assert "".join(found) == text
    for piece in found:
        numeric = [character.isnumeric() for character in piece if character.isdecimal()]
        assert len(numeric) <= 3
        assert not numeric or piece.isnumeric()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024年10000", ["202", "4", "年", "100", "00"]),
        ("٣٤٥٦", ["٣٤٥", "٦"]),
        ("x1y22", ["x", "1", "y", "22"]),
        ("用GPT写代码ひらカナok", ["用", "GPT", "写代码ひらカナ", "ok"]),
        ("你好，world！好", ["你好", "，world", "！", "好"]),
        ("\U00020000\U0002a6d6a", ["\U00020000\U0002a6d6", "a"]),
        ("it's WE'LL 'quoted", ["it", "'s", " WE", "'LL", " '", "quoted"]),
        ("def f():\n    return 1", ["def", " f", "():\n", "   ", " return", " ", "1"]),
        ("a  \n\n  b   ", ["a", "  \n\n", " ", " b", "   "]),
        ("مرحبا بالعالم", ["مرحبا", " بالعالم"]),
        ("한국어 ok", ["한국어", " ok"]),
        ("👩‍👩‍👧!!", ["👩‍👩‍👧!!"]),
    ],
)
def test_text_is_cut_into_pieces(text, expected):
    assert pieces(text) == expected


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_a_token_has_as_many_digits_as_are_asked_for(tmp_path, digits):
    corpus = CorpusConfig(vocabulary_size=400, digits_per_token=digits)
    tokenizer = provide_tokenizer(tmp_path / "tokenizer.json", corpus, ["1212 12:12 ١٢١٢ " * 50])
    for again in (tokenizer, open_tokenizer(tmp_path / "tokenizer.json")):
        tokens = [again.decode([number]) for number in encode(again, ["1212 12:12"])[0]]
        assert max(map(len, tokens)) == digits
        assert "".join(tokens) == "1212 12:12"


def test_no_token_holds_chinese_and_latin_letters():
    tokenizer = train_tokenizer(["用GPT写代码" * 50, "写代码abc" * 50], 600)
    tokens = [tokenizer.decode([number]) for number in range(tokenizer.get_vocab_size())]
    assert "代码" in "".join(token for token in tokens if len(token) > 1)
    assert not [token for token in tokens if re.search("[a-zA-Z]", token) and re.search("[\u4e00-\u9fff]", token)]


@given(st.lists(text_strategy, max_size=5))
def test_texts_of_a_batch_do_not_know_each_other(texts):
    together = encode(TOKENIZER, texts, END_OF_TEXT)
    assert len(together) == len(texts)
    for text, tokens in zip(texts, together, strict=True):
        assert tokens.tolist() == [*encode(TOKENIZER, [text])[0], END_OF_TEXT]
        assert tokens.dtype == np.uint32


@given(st.binary(min_size=1, max_size=20))
def test_bytes_that_are_no_text_are_refused_and_never_become_other_tokens(content):
    text = content.decode(errors="surrogateescape")
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(TypeError):  # readers and cleaning let none of these through
            encode(TOKENIZER, [text])
    else:
        assert decode(TOKENIZER, encode(TOKENIZER, [text])[0]).encode() == content


def test_a_part_of_a_character_is_shown_as_damaged():
    [tokens] = encode(TOKENIZER, ["𠀀"])
    assert len(tokens) > 1
    assert decode(TOKENIZER, tokens[:-1]) == "\ufffd"


def given_tokenizer(tmp_path, tokenizer, **settings):
    """What becomes of a tokenizer that somebody brings."""
    mine = tmp_path / "mine.json"
    tokenizer.save(str(mine))
    corpus = CorpusConfig(tokenizer=str(mine), **settings)
    return provide_tokenizer(tmp_path / "tokenizer.json", corpus, []), corpus


def changed(**parts):
    """A good tokenizer with something else about it."""
    tokenizer = train_tokenizer(TEXTS, 400)
    for name, value in parts.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_a_tokenizer_of_ones_own_is_taken_as_it_is(tmp_path):
    found, _ = given_tokenizer(tmp_path, TOKENIZER)
    assert found.to_str() == TOKENIZER.to_str()
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "mine.json").read_bytes()


@pytest.mark.parametrize(
    ("tokenizer", "settings", "message"),
    [
        (
            TOKENIZER,
            {"vocabulary_size": 399},
            r"mine\.json has ids up to 399; corpus\.vocabulary_size=399 has to be at least 400",
        ),
        (
            TOKENIZER,
            {"end_of_text": "<eos>"},
            r"mine\.json has no special token '<eos>' \(corpus\.end_of_text\); special ones are: <longcat_unk>",
        ),
        (Tokenizer(models.WordLevel({"a": 0, "</longcat_s>": 1}, "a")), {}, r"mine\.json does not work on bytes"),
        (Tokenizer(models.BPE()), {}, r"mine\.json does not work on bytes"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, tokenizer, settings, message):
    with pytest.raises(ConfigError, match=message):
        given_tokenizer(tmp_path, tokenizer, **settings)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_tokenizer_that_does_not_work_on_bytes_is_refused_by_field(tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.tokenizer"):
        given_tokenizer(tmp_path, Tokenizer(models.BPE()))


def truncating():
    tokenizer = changed()
    tokenizer.enable_truncation(5)
    return tokenizer


def padding():
    tokenizer = changed()
    tokenizer.enable_padding(length=500)
    return tokenizer


def stripping():
    tokenizer = changed()
    tokenizer.add_tokens([AddedToken("専門", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(truncating(), id="truncation"),
        pytest.param(padding(), id="padding"),
        pytest.param(stripping(), id="added token that eats white space"),
        pytest.param(changed(normalizer=normalizers.Lowercase()), id="normalizer"),
        pytest.param(changed(pre_tokenizer=pre_tokenizers.Whitespace()), id="letters instead of bytes"),
        pytest.param(changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), id="space in front"),
    ],
)
def test_a_tokenizer_that_changes_text_is_refused_or_mended(tmp_path, tokenizer):
    text = "Every document of theirs  専門 has to come back\n    as É it was."
    try:
        found, _ = given_tokenizer(tmp_path, tokenizer)
    except ConfigError:
        return
    assert decode(found, encode(found, [text])[0]) == text


def test_end_of_text_has_to_be_a_special_token(tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.end_of_text"):
        given_tokenizer(tmp_path, TOKENIZER, end_of_text="a")


def test_bytes_of_added_tokens_are_those_of_their_text():
    tokenizer = changed()
    tokenizer.add_tokens(["専門"])
    assert token_bytes(tokenizer)[tokenizer.token_to_id("専門")] == len("専門".encode())


def described(*changes):
    """The file of the good tokenizer, changed."""
    content = json.loads(TOKENIZER.to_str())
    for change in changes:
        change(content)
    return content


def move_token(content):
    """Give the first token of the first text a large id."""
    first = encode(TOKENIZER, TEXTS[:1])[0][0]
    content["model"]["vocab"][TOKENIZER.id_to_token(first)] = 70_000


def add_end(index, content="<|endoftext|>", special=True):
    def change(described):
        described["added_tokens"].append(
            {**described["added_tokens"][0], "id": index, "content": content, "special": special}
        )

    return change


def opened(tmp_path, content):
    (tmp_path / "described.json").write_text(json.dumps(content))
    return open_tokenizer(tmp_path / "described.json")


def test_a_vocabulary_with_holes_ends_at_the_largest_id(tmp_path):
    content = described(move_token)
    tokenizer = opened(tmp_path, content)
    [moved] = (token for token, index in content["model"]["vocab"].items() if index == 70_000)
    assert (tokenizer.get_vocab_size(), vocabulary_size(tokenizer)) == (400, 70_001)
    assert token_bytes(tokenizer).shape == (70_001,)
    assert token_bytes(tokenizer)[70_000] == len(moved)
    [tokens] = encode(tokenizer, TEXTS[:1])
    assert tokens[0] == 70_000
    assert decode(tokenizer, tokens) == TEXTS[0]


@pytest.mark.parametrize("index", [400, 407, 70_000])
@pytest.mark.parametrize("others", [[], [add_end(500, "<pad>")], [add_end(401, "専門", special=False)], [move_token]])
def test_added_tokens_keep_the_ids_of_their_file(tmp_path, index, others):
    if others == [move_token] and index == 70_000:
        index = 70_002
    content = described(*others, add_end(index))
    wanted = {token["content"]: token["id"] for token in content["added_tokens"]}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    corpus = CorpusConfig(tokenizer=str(tmp_path / "mine.json"), end_of_text="<|endoftext|>", vocabulary_size=80_000)
    tokenizer = provide_tokenizer(tmp_path / "tokenizer.json", corpus, [])
    assert {token: tokenizer.token_to_id(token) for token in wanted} == wanted
    assert vocabulary_size(tokenizer) == max([*wanted.values(), *content["model"]["vocab"].values()]) + 1
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # as anybody else opens it
    assert {token: again.token_to_id(token) for token in wanted} == wanted
    text = "a document that spells <|endoftext|> and <pad> and 専門"
    [tokens] = encode(tokenizer, [text])
    assert index not in tokens
    assert decode(tokenizer, tokens) == text


def test_ids_beyond_the_vocabulary_are_refused_by_the_largest(tmp_path):
    (tmp_path / "holes.json").write_text(json.dumps(described(add_end(70_000))))
    corpus = CorpusConfig(tokenizer=str(tmp_path / "holes.json"), vocabulary_size=70_000)
    with pytest.raises(ConfigError, match=r"ids up to 70000; corpus\.vocabulary_size=70000 has to be at least 70001"):
        provide_tokenizer(tmp_path / "tokenizer.json", corpus, [])


@pytest.mark.parametrize(
    "post_processor",
    [
        processors.TemplateProcessing(
            "<longcat_s> $A </longcat_s>", special_tokens=[("<longcat_s>", 1), ("</longcat_s>", 2)]
        ),
        processors.BertProcessing(("</longcat_s>", 2), ("<longcat_s>", 1)),
        processors.RobertaProcessing(("</longcat_s>", 2), ("<longcat_s>", 1), trim_offsets=False),
        processors.ByteLevel(),
    ],
)
def test_what_a_post_processor_adds_is_in_no_document(tmp_path, post_processor):
    tokenizer, _ = given_tokenizer(tmp_path, changed(post_processor=post_processor))
    texts = ["one", "two and three"]
    for tokens, text in zip(encode(tokenizer, texts, END_OF_TEXT), texts, strict=True):
        assert tokens.tolist().count(1) == 0
        assert np.flatnonzero(tokens == 2).tolist() == [len(tokens) - 1]
        assert decode(tokenizer, tokens[:-1]) == text
