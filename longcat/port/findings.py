"""What is found in a repository: one finding per place, with its class, what it costs, and what the rewrite does there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

CLASSES: dict[str, str] = {
    "renames": "the rewrite changes the name, the meaning stays",
    "differs": "there is an equivalent, with the difference that is named",
    "none": "there is no equivalent; what replaces it is named",
    "operator": "torch_npu registers no kernel; it runs on the host, with copies both ways",
    "shapes": "shapes that depend on data cost time on an Ascend",
    "precision": "switches of precision and determinism mean something else",
    "unsure": "it looks like CUDA, and the source alone does not tell; the line stays as it is",
    "works": "it runs as it is",
}
"""Classes of findings, and what each means."""
EFFORTS: dict[str, str] = {
    "none": "nothing to do",
    "automatic": "the rewrite does it",
    "minutes": "a line to look at",
    "hours": "some code to write",
    "days": "a kernel or a subsystem to replace",
}
"""Classes of effort for one finding, least first."""


@dataclass(frozen=True)
class Edit:
    """Replacement of a part of a text; an insertion if it begins where it ends."""

    begin: int
    end: int
    text: str
    """What stands there afterwards; `{accelerator}` in it is the name of the accelerator's type."""


@dataclass(frozen=True)
class Finding:
    """Something that belongs to CUDA, at one place of a repository."""

    file: str
    line: int
    """Beginning with 1; 0 for a file as a whole."""
    column: int
    what: str
    """The name or text, as rules call it: `torch.cuda.synchronize`, `"cuda:0"`, `NCCL_DEBUG`."""
    kind: str
    """One of `CLASSES`."""
    effort: str
    """One of `EFFORTS`."""
    why: str
    source: str = ""
    """What says so."""
    instead: str = ""
    """What replaces it."""
    edits: tuple[Edit, ...] = ()
    """What the rewrite does; nothing if the line stays."""

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`, with `rewritten` instead of the edits."""
        row = {
            name: getattr(self, name)
            for name in ("file", "line", "column", "what", "kind", "effort", "why", "source", "instead")
        }
        return row | {"rewritten": bool(self.edits)}

    def left(self, why: str) -> Finding:
        """Return it as one whose line stays, and why."""
        effort = "minutes" if self.effort == "automatic" else self.effort
        return replace(self, kind="unsure" if self.kind == "renames" else self.kind, effort=effort, edits=(), why=why)


@dataclass(frozen=True)
class Unread:
    """File or folder that was not read, and why."""

    file: str
    line: int
    why: str


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each class, in their order."""
    found = Counter(one.kind for one in findings)
    return {kind: found[kind] for kind in CLASSES if found[kind]}


def efforts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each effort, in their order."""
    found = Counter(one.effort for one in findings)
    return {effort: found[effort] for effort in EFFORTS if found[effort]}


def from_json(row: Mapping[str, Any]) -> Finding:
    """Return the finding that `as_json` wrote, without its edits."""
    return Finding(**{name: value for name, value in row.items() if name != "rewritten"})


def apply(text: str, edits: Iterable[Edit]) -> str:
    """Return a text with edits made; all that lies outside of them stays as it is, to the last byte.

    Insertions at one place keep their order.

    Raises:
        ValueError: two edits overlap.
    """
    parts, place = list[str](), 0
    for edit in sorted(dict.fromkeys(edits), key=lambda one: (one.begin, one.end)):
        if edit.begin < place:
            raise ValueError(f"two edits at {edit.begin}")
        parts += [text[place : edit.begin], edit.text]
        place = edit.end
    return "".join([*parts, text[place:]])
