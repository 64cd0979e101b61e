"""What is known of documents besides their text, while a block is judged; written where text is written out."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from longcat.corpus.judge import Verdict
from longcat.corpus.readers.format import Labelled
from longcat.disk import replacing

LABELS, DROPPED = "labels.jsonl", "dropped.zst"


class Labels:
    """Writes the labels of a block, and the documents that are left out of it."""

    def __init__(self, scratch: Path, name: str) -> None:
        self._scratch, self._name = scratch, name
        self._number = 0
        self._files = ExitStack()

    def __enter__(self) -> Labels:
        import zstandard

        self._kept: IO[bytes] = self._files.enter_context(replacing(self._scratch / f"{self._name}.{LABELS}"))
        dropped = self._files.enter_context(replacing(self._scratch / f"{self._name}.{DROPPED}"))
        self._dropped = self._files.enter_context(zstandard.ZstdCompressor().stream_writer(dropped, closefd=False))
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        return self._files.__exit__(*raised)

    def keep(self, record: str, verdict: Verdict) -> None:
        """Write the labels of a document that stays."""
        self._kept.write(_line(self._label(record, verdict)))

    def leave_out(self, reason: str, record: str, text: str, verdict: Verdict) -> None:
        """Write a document that is left out."""
        self._dropped.write(_line({**self._label(record, verdict), "reason": reason, "text": text}))

    def _label(self, record: str, verdict: Verdict) -> dict[str, Any]:
        self._number += 1
        own = record if isinstance(record, Labelled) else None
        score = verdict.score
        return {
            "id": own.id if own and own.id is not None else f"{self._name}-{self._number}",
            "url": own.url if own else None,
            "language": verdict.language,
            "quality": score if score is not None and math.isfinite(score) else None,
        }


def _line(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
