from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.spool import Spool

texts_strategy = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=20)


def filled(tmp_path_factory, texts):
    spool = Spool(tmp_path_factory.mktemp("spool") / "texts")
    for number, text in enumerate(texts):
        spool.append(text.encode(), key=(number * 7) % 5)
    return spool


@given(texts=texts_strategy, batch_bytes=st.integers(1, 50))
def test_batches_give_back_every_text_in_order(tmp_path_factory, texts, batch_bytes):
    with filled(tmp_path_factory, texts) as spool:
        for _ in range(2):
            assert [text for batch in spool.batches(batch_bytes) for text in batch] == texts
        assert len(spool) == len(texts)
        assert spool.size_bytes == sum(len(text.encode()) for text in texts)


@given(texts=texts_strategy, limit=st.integers(1, 60))
def test_sample_keeps_to_its_limit_and_to_the_order_of_keys(tmp_path_factory, texts, limit):
    with filled(tmp_path_factory, texts) as spool:
        sample = "".join(spool.sample(limit)).encode()
        order = sorted(range(len(texts)), key=lambda number: (number * 7) % 5)
        whole = "".join(texts[number] for number in order).encode()
        assert whole.startswith(sample)
        assert min(limit, len(whole)) - 3 <= len(sample) <= limit  # at most three bytes of a character do not fit
