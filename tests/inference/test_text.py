"""Text of tokens one after the other: characters and stop strings that tokens cut."""

import pytest

from longcat.inference.text import TextStream

TEXT = "naïve 外卖 🛵 done\n\nEND of"


def shown(tokenizer, text, stops=()):
    stream = TextStream(tokenizer, stops)
    pieces = []
    for token in tokenizer.encode(text).ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    assert "".join(pieces) == stream.text
    return pieces, stream


def test_a_character_appears_when_its_last_byte_is_there(byte_tokenizer):
    pieces, stream = shown(byte_tokenizer, TEXT)
    assert stream.text == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert "卖" in pieces and "🛵" in pieces


@pytest.mark.parametrize("stop", ["END", "\n\n", "卖 🛵", "n", "ïv"])
def test_a_stop_string_over_several_tokens(byte_tokenizer, stop):
    _, stream = shown(byte_tokenizer, TEXT, (stop, "zzz"))
    assert stream.stopped and stream.text == TEXT[: TEXT.index(stop)]


def test_the_first_of_several_stop_strings_counts(byte_tokenizer):
    _, stream = shown(byte_tokenizer, TEXT, ("one", "done", "done\n"))
    assert stream.text == TEXT[: TEXT.index("done")]


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none(byte_tokenizer):
    pieces, stream = shown(byte_tokenizer, "aabaac", ("aaa", "bb"))
    assert stream.text == "aabaac" and not stream.stopped
    assert pieces[:3] == ["", "", "aa"]
    pieces, _ = shown(byte_tokenizer, "xaa", ("aaa",))
    assert pieces == ["x", "", "", "aa"]


def test_an_empty_stop_string_stops_nothing(byte_tokenizer):
    _, stream = shown(byte_tokenizer, "ab", ("",))
    assert stream.text == "ab" and not stream.stopped


def test_bytes_that_are_no_character_are_shown_in_the_end(byte_tokenizer):
    ids = byte_tokenizer.encode("é").ids
    stream = TextStream(byte_tokenizer)
    assert stream.push(ids[0]) == ""
    assert stream.finish() == "\ufffd"
    stream = TextStream(byte_tokenizer)
    many = [stream.push(ids[1]) for _ in range(40)]
    assert sum(map(len, many)) >= 16  # a model that makes nothing else is seen at it
    stream.finish()
    assert stream.text == "\ufffd" * 40
