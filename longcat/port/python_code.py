"""A Python module: what in it belongs to CUDA, and how each place is rewritten."""

from __future__ import annotations

import re
from dataclasses import dataclass

from longcat.errors import DataError
from longcat.port.findings import Finding, apply
from longcat.port.literals import Literals
from longcat.port.parsing import compiles, deep_recursion, parse
from longcat.port.support import Support

MARKS = re.compile(
    r"torch|cuda|nccl|nvidia|apex|triton|flash_attn|xformers|bitsandbytes|transformer_engine|gpu|cudnn|cublas",
    re.IGNORECASE,
)
"""What a module has somewhere in it if anything can be found there."""


@dataclass(frozen=True)
class Analysis:
    """What was found in a text, and the text after the rewrite."""

    findings: tuple[Finding, ...]
    rewritten: str


def analyse(
    text: str,
    file: str,
    support: Support | None = None,
    *,
    named: bool = True,
    taken: frozenset[str] = frozenset(),
) -> Analysis:
    """Find what belongs to CUDA in a Python module, and rewrite what can be rewritten.

    Args:
        text: the module.
        file: its name, for the findings.
        support: what the installed torch_npu registers; without it nothing is said of operators.
        named: bind a name to the accelerator's type where it is used; else it is the literal "npu".
        taken: names that other modules take from this one, see `longcat.port.exports`.

    Raises:
        DataError: it does not parse; the message begins with `line N`.
    """
    module = parse(text)
    if MARKS.search(text) is None:
        return Analysis((), text)
    with deep_recursion():
        visitor = Literals(text, module, file, support, named, taken)
        module.visit(visitor)
        findings = visitor.imports_settled()
    return _settled(text, visitor, findings)


def _settled(text: str, visitor: Literals, findings: list[Finding]) -> Analysis:
    """Make the edits; if what comes out would not parse, the lines stay as they are."""
    findings.sort(key=lambda one: (one.line, one.column, one.what))
    edits = [edit for one in findings for edit in one.edits]
    if not edits:
        return Analysis(tuple(findings), text)
    header, extra = visitor.header, []
    named = header.name is not None and any(re.search(rf"\b{header.name}\b", edit.text) for edit in edits)
    if named and header.line is not None:
        extra.append(header.line)
    if header.imports is not None and (named or any(re.search(r"\btorch\.", edit.text) for edit in edits)):
        extra.append(header.imports)
    try:
        rewritten = apply(text, [*extra, *edits])
        parse(rewritten)
        if not compiles(rewritten) and compiles(text):
            raise ValueError
    except (ValueError, DataError):
        left = [
            one.left("the rewrite of this file would not parse; " + one.why) if one.edits else one for one in findings
        ]
        return Analysis(tuple(left), text)
    return Analysis(tuple(findings), rewritten)
