"""Python sources: a file is one document, in the encoding that it declares (PEP 263)."""

from __future__ import annotations

import io
import tokenize

from longcat.corpus.readers.document import document_format
from longcat.corpus.readers.format import File, Reading, Record, Unreadable


def _text(content: bytes, file: File, reading: Reading) -> Record:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Unreadable(str(file), f"not in the encoding it declares ({error})")


FORMAT = document_format((".py",), _text)
