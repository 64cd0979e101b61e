"""Encodings of text that comes as bytes: the first that fits of a list, or the one that is detected.

A byte-order mark is believed before any of them: Latin-1 fits all bytes, and would make letters of it. Detection would rather say that it does not know. Byte-order marks, UTF-8 and UTF-32 leave no doubt; UTF-16 has to make
sense in one byte order only; of the older encodings, two detectors (chardet, charset-normalizer) have to find the same
text where Chinese, Japanese or Korean is possible, and encodings of one byte need enough bytes to judge by.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from longcat.corpus.readers.compression import chunks
from longcat.corpus.readers.format import File, Record, Unreadable
from longcat.errors import DataError

DETECT = "detect"
"""Stands for detection in a list of encodings."""
_UTF8 = "utf-8"
_SAMPLE_BYTES = 1 << 18
_JUDGED_BYTES = 1 << 12
"""Bytes that the detectors of older encodings get, of the parts that are not ASCII."""
_FEWEST_CJK, _FEWEST_OTHERS = 12, 12
"""Bytes beyond ASCII without which nothing is detected: of Chinese, Japanese or Korean, and of other languages."""
_MARKS = (
    (codecs.BOM_UTF8, _UTF8), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r"))
_ESCAPES = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$", "iso2022_jp_2"), (b"\x1b(J", "iso2022_jp_2"))
_CJK = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")
_KNOWN = {
    "gb18030": "gb18030", "gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "big5": "big5hkscs", "big5hkscs": "big5hkscs",
    "cp950": "big5hkscs", "shift_jis": "cp932", "cp932": "cp932", "shift_jis_2004": "cp932", "shift_jisx0213": "cp932",
    "euc_jp": "euc_jp", "euc_jis_2004": "euc_jp", "euc_jisx0213": "euc_jp", "euc_kr": "cp949", "cp949": "cp949", "johab": "johab",
    "iso8859-1": "cp1252", "cp1252": "cp1252", "cp1251": "cp1251", "koi8-r": "koi8-r", "cp1253": "cp1253",
}  # fmt: skip
"""What is detected, by Python's names of what the detectors say. Of Latin alphabets only the western one is told apart safely."""
_AMBIGUOUS_LATIN = re.compile(rb"[\xa4\xa6\xa8\xb4\xb8\xbc-\xbe]")
"""Where the western Windows code page and ISO 8859-15 differ."""
_SYMBOLS = set("°©®™№¦")


def decode(content: bytes, place: str, encodings: Sequence[str]) -> Record:
    """Decode bytes as their byte-order mark says, which is dropped, or else with the first encoding that fits."""
    marked = _marked(content) if len(content) > len(codecs.BOM_UTF32_LE) else None  # else it may be all there is
    content = content.removeprefix(codecs.BOM_UTF8)
    positions = []
    for encoding in encodings if marked is None or not _fits(content, marked) else [marked]:
        name = (detect(content) if encoding == DETECT else encoding) or _UTF8
        try:
            return content.decode(name)
        except UnicodeDecodeError as error:
            positions.append(error.start)
    names = " or ".join(dict.fromkeys((_UTF8 if name == DETECT else name).upper() for name in encodings))
    advice = (
        "; which other encoding it is in is not certain: name it in corpus.encodings" if DETECT in encodings else ""
    )
    return Unreadable(place, f"invalid {names} at byte {max(positions)}{advice}")


def detect(content: bytes, cut: bool = False) -> str | None:
    """Return the name of the encoding that bytes are in; None if it is not certain.

    Args:
        content: a text, or the beginning of one.
        cut: whether it is a beginning, which may end within a character.
    """
    if (marked := _marked(content)) is not None:
        return marked
    if b"\x1b" in content:
        for escape, name in _ESCAPES:
            if escape in content and _fits(content, name, cut):
                return name
    if not _fits(content, _UTF8, cut):
        return _wide(content, cut) or _older(content)
    # where letters of an alphabet are two bytes, every other byte is a control character; stray ones mean nothing
    controls = len(content) - len(content.translate(None, _CONTROLS))
    return (_wide(content, cut) if 8 * controls > len(content) else None) or _UTF8


@dataclass(frozen=True)
class Encoding:
    """How a file of records is decoded."""

    wide: str | None
    """The encoding that the file as a whole is in, where marks of ASCII cannot be looked for in its bytes: UTF-16, UTF-32, ISO-2022."""
    names: list[str]
    """Otherwise: tried in this order on each record."""


def encoding_of(file: File, encodings: Sequence[str]) -> Encoding:
    """Find out how a file is decoded from its first bytes: as their byte-order mark says, or by the encodings in their order.

    `DETECT` is one of them.

    Raises:
        DataError: the file is compressed, and its beginning damaged.
        OSError: it cannot be read.
    """
    sample, cut = _beginning(file)
    marked = _marked(sample)
    if marked is not None and _is_wide(marked) and _fits(sample, marked, True):
        return Encoding(marked, [_UTF8])
    names = [marked] if marked == _UTF8 else list[str]()
    for encoding in encodings:
        found = detect(_beyond_utf8(sample, cut), cut) if encoding == DETECT else encoding
        if found is not None and _is_wide(found):
            if not any(_fits(sample, name, cut) for name in names if name != DETECT) and _fits(sample, found, True):
                return Encoding(found, [_UTF8])
        elif encoding != DETECT:
            names.append(encoding)
        else:  # a file that is UTF-8 so far may still have other lines further on
            names += [_UTF8, DETECT if found in (None, _UTF8) else found]
    return Encoding(None, names or [_UTF8])


def to_utf8(pieces: Iterable[bytes], encoding: Encoding, file: File) -> Iterator[bytes]:
    """Return a file's content as it is, or in UTF-8 if it is in a wide encoding.

    Raises:
        DataError: it is in neither, from some byte on.
    """
    if encoding.wide is None:
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding.wide)()
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode()
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise DataError(f"{file} is not an intact file in {encoding.wide.upper()} ({error})") from None


def _beginning(file: File) -> tuple[bytes, bool]:
    """Read the first bytes of a file, decompressed, and say whether there are more."""
    sample = bytearray()
    with file.open("rb") as stream:
        for piece in chunks(stream, file):
            sample += piece
            if len(sample) > _SAMPLE_BYTES:
                return bytes(sample[:_SAMPLE_BYTES]), True
    return bytes(sample), False


def _beyond_utf8(sample: bytes, cut: bool) -> bytes:
    """Return the lines of a sample that are not UTF-8, or all of it if all of them are."""
    if _fits(sample, _UTF8, cut) or b"\0" in sample or detect(sample[:4]) != detect(b"") or b"\x1b" in sample:
        return sample
    return b"\n".join(line for line in sample.split(b"\n") if not _fits(line, _UTF8)) or sample


def _marked(content: bytes) -> str | None:
    """Return the encoding that a byte-order mark in front names; None without one."""
    return next((name for mark, name in _MARKS if content.startswith(mark)), None)


def _fits(content: bytes, name: str, cut: bool = False) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(content, final=not cut)
    except UnicodeError:
        return False
    return True


def _is_wide(name: str) -> bool:
    return codecs.lookup(name).name.startswith(("utf-16", "utf-32", "iso2022"))


def _wide(content: bytes, cut: bool) -> str | None:
    """Recognise UTF-16 or UTF-32 without a byte-order mark: it is text in one byte order, and none in the other."""
    for names, width in ((("utf-32-le", "utf-32-be"), 4), (("utf-16-le", "utf-16-be"), 2)):
        whole = content[: len(content) // width * width] if cut else content
        sensible = [name for name in names if len(whole) >= 2 * width and _is_sensible(whole, name)]
        if len(sensible) == 1:
            return sensible[0]
    return None


def _is_sensible(content: bytes, name: str) -> bool:
    """Say whether bytes are a text with characters that all texts have, and none that no text has."""
    try:
        text = codecs.getincrementaldecoder(name)().decode(content[: _JUDGED_BYTES * 4])
    except UnicodeError:
        return False
    kinds = {unicodedata.category(character) for character in set(text) - set("\t\n\r\ufeff")}
    usual = sum(character in " \n,.，。、" or "a" <= character <= "z" for character in text)
    return not kinds & {"Cc", "Cn", "Co", "Cs"} and usual >= max(1, len(text) // 100)


def _older(content: bytes) -> str | None:
    """Detect an encoding from before Unicode; None if there is too little to judge by, or the detectors do not agree."""
    import chardet
    import charset_normalizer

    parts = [line for line in content.split(b"\n") if not line.isascii()]
    judged = b"\n".join(parts)
    if len(judged) > _JUDGED_BYTES:  # cut where a line ends, or where no character is torn
        judged = judged[:_JUDGED_BYTES].rpartition(b"\n")[0] or judged[:_JUDGED_BYTES]
    beyond = sum(byte > 127 for byte in judged)
    said = chardet.detect(judged)["encoding"]
    found = _KNOWN.get(codecs.lookup(said).name) if said else None
    if found is None or beyond < (_FEWEST_CJK if found in _CJK else _FEWEST_OTHERS) or not _fits(content, found, True):
        return None
    if found in _CJK:
        possible = [name for name in _CJK if _fits(judged, name, True)]
        second = charset_normalizer.from_bytes(judged, cp_isolation=possible).best() if len(possible) > 1 else None
        agreed = len(possible) == 1 or (second is not None and _KNOWN.get(codecs.lookup(second.encoding).name) == found)
        return found if agreed else None
    if found == "cp1252" and _AMBIGUOUS_LATIN.search(content):
        return None
    text = content.decode(found, errors="ignore")
    odd = {c for c in set(text) - _SYMBOLS if unicodedata.category(c) in ("So", "Cc", "Cn", "Co")} - set("\t\n\r\f")
    return None if odd else found
