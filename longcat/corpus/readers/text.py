"""Plain text and Markdown: a file is one document."""

from __future__ import annotations

from longcat.corpus.readers.document import document_format
from longcat.corpus.readers.encoding import decode

FORMAT = document_format((".txt", ".md"), lambda content, file, reading: decode(content, str(file), reading.encodings))
