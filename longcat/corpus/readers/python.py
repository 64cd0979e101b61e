"""Python sources: a file is one document, in the encoding that it declares (PEP 263)."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

from longcat.corpus.readers.format import Reading, Record, Unreadable, document_format


def _text(content: bytes, path: Path, reading: Reading) -> Record:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Unreadable(str(path), f"not in the encoding it declares ({error})")


FORMAT = document_format((".py",), _text)
