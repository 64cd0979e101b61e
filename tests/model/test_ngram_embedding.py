"""N-gram embedding against integers in plain Python, and on its way to disk and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import ModelConfig, NgramConfig, load_config
from longcat.errors import ConfigError
from longcat.interchange import load_huggingface, save_huggingface
from longcat.model import LongcatModel
from longcat.model.ngram import NgramEmbedding, ngram_rows
from longcat.ops.documents import find_document_starts


def oracle(row, vocabulary, neighbors, splits, ratio, end_of_text=2):
    """Rows of every branch by the published rule, one position and one branch at a time."""
    result = []
    for t in range(len(row)):
        here, offset = [], 0
        for branch in range((neighbors - 1) * splits):
            size = int(ratio * vocabulary) + 2 * branch + 1
            total = row[t]
            for back in range(1, 2 + branch // splits):
                if t - back < 0 or row[t - back] == end_of_text:
                    break
                total += row[t - back] * vocabulary**back
            here.append(offset + total % size)
            offset += size
        result.append(here)
    return result


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.sampled_from([0, 1, 2, 3, 57, 96]), min_size=1, max_size=12),
    neighbors=st.integers(2, 5),
    splits=st.integers(1, 3),
    ratio=st.sampled_from([1.5, 78.5, 100.567]),
    end_of_text=st.sampled_from([0, 2, 96]),
)
def test_rows_equal_the_published_rule_in_integers(row, neighbors, splits, ratio, end_of_text):
    config = NgramConfig(vocab_size_ratio=ratio, neighbor_num=neighbors, split_num=splits)
    got = ngram_rows(torch.tensor([row]), 97, neighbors, splits, config.rows(97), end_of_text)
    assert got[0].tolist() == oracle(row, 97, neighbors, splits, ratio, end_of_text)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from([0, 2, 3, 57]), min_size=1, max_size=5), min_size=1, max_size=4))
def test_ngrams_stay_in_their_document(texts):
    config = NgramConfig(vocab_size_ratio=78.5, neighbor_num=4, split_num=2)
    numbers = torch.tensor([[number for number, text in enumerate(texts) for _ in text]])
    row = torch.tensor([[token for text in texts for token in text]])
    got = ngram_rows(row, 97, 4, 2, config.rows(97), 2, find_document_starts(numbers))
    assert got[0].tolist() == [rows for text in texts for rows in oracle(text, 97, 4, 2, 78.5)]


def test_products_of_the_largest_model_fit():
    """Vocabulary and tables of LongCat-2.0: no overflow of 64 bits."""
    config = NgramConfig(vocab_size_ratio=100.567, neighbor_num=5, split_num=4)
    row = [163839] * 6
    got = ngram_rows(torch.tensor([row]), 163840, 5, 4, config.rows(163840), 2)
    assert got[0].tolist() == oracle(row, 163840, 5, 4, 100.567)


def test_embedding_is_the_mean_of_word_and_branches():
    torch.manual_seed(0)
    config = NgramConfig(vocab_size_ratio=2.5, neighbor_num=3, split_num=2)
    module = NgramEmbedding(config, 50, 8, end_of_text=2)
    words, tokens = torch.randn(2, 7, 8), torch.randint(0, 50, (2, 7))
    rows = ngram_rows(tokens, 50, 3, 2, config.rows(50), 2)
    total = words.clone()
    for branch, weight in enumerate(module.projection.weight.chunk(4, dim=1)):
        total += module.tables(rows[..., branch]) @ weight.T
    torch.testing.assert_close(module(words, module.start(tokens, 7)()), total / 5)


NGRAM = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"


def test_the_end_of_text_is_the_models_own():
    """Token 0 ends a document here, and 2 is a letter like any other."""
    config = load_config("smoke", overrides=[NGRAM, "model.mtp_num_layers=1"]).model.model_copy(
        update={"eos_token_id": 0}
    )
    model = LongcatModel(config).eval()
    model.initialize(0)
    with torch.no_grad():
        ngrams = model.model.ngram_embeddings
        embedded = [ngrams(torch.zeros(1, 4, 64), ngrams.start(torch.tensor([row]), 4)())[0, -1]
                    for row in ([50, 60, 0, 70], [51, 61, 0, 70], [50, 60, 2, 70], [51, 61, 2, 70])]  # fmt: skip
    assert torch.equal(embedded[0], embedded[1])
    assert not torch.equal(embedded[2], embedded[3])


def test_a_model_without_a_settled_end_of_text_is_refused():
    settled = load_config("smoke", overrides=[NGRAM]).model
    assert settled.end_of_text == 2  # of the tokenizer that preprocessing trains
    with pytest.raises(ConfigError, match=r"model\.eos_token_id is not set"):
        LongcatModel(settled.model_copy(update={"eos_token_id": None}))


def test_a_model_with_ngrams_survives_disk(tmp_path):
    config = load_config("smoke", overrides=[NGRAM]).model
    model = LongcatModel(config).eval()
    model.initialize(0)
    save_huggingface(model, tmp_path)
    tokens = torch.randint(0, 512, (2, 20))
    with torch.no_grad():
        assert torch.equal(load_huggingface(tmp_path)(tokens), model(tokens))


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.ngram={vocab_size_ratio: 3.0, neighbor_num: 3, split_num: 2}", "multiple of vocab_size=512"),
        ("model.ngram={neighbor_num: 4, split_num: 5}", "do not divide hidden_size=64"),
        ("model.num_attention_heads=3", "does not divide hidden_size=64"),
        ("model.moe_topk=7", "exceeds n_routed_experts"),
        ("model.qk_rope_head_dim=7", "multiple of 2"),
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(setting, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config("smoke", overrides=[setting])


def test_tables_near_a_multiple_can_be_accepted():
    config = load_config(
        "smoke",
        overrides=["model.ngram={vocab_size_ratio: 3.0, neighbor_num: 3, split_num: 2, allow_near_multiple: true}"],
    )
    assert config.model.ngram.rows(512)[0] == 1537


def test_an_end_of_text_outside_the_vocabulary_is_refused():
    model = load_config("smoke").model.model_dump()
    with pytest.raises(ValueError, match="not a token of vocab_size=512"):
        ModelConfig(**(model | {"eos_token_id": 512}))
