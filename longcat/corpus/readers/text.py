"""Plain text: a file is one document."""

from __future__ import annotations

from longcat.corpus.readers.format import as_text, document_format

FORMAT = document_format((".txt",), lambda content, path, reading: as_text(content, str(path), reading.encodings))
