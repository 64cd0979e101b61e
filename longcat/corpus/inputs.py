"""Which files a corpus is read from, and their hashes, so that one that has changed can be named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from longcat.config import CorpusConfig
from longcat.corpus.addresses import is_address
from longcat.corpus.listing import list_path

MOST = 1000
"""Files of a source that are listed; of one with more, only the hash of the whole is known."""


def input_files(corpus: CorpusConfig, sha256: Callable[[Path], str]) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of local files by path below their source, by the number of the source.

    Raises:
        DataError: a source is not there.
        OSError: a file cannot be read.
    """
    found = {}
    for number, source in enumerate(corpus.sources):
        if source.kind != "files" or is_address(str(source.path)):
            continue
        root = Path(str(source.path)).expanduser()
        files = [Path(str(file)) for file in list_path(root, f"corpus source {source.path}").files]
        if len(files) <= MOST:
            found[str(number)] = {
                str(file.relative_to(root)) if file != root and file.is_relative_to(root) else file.name: sha256(file)
                for file in files
            }
    return found
