"""Notebooks: their cells of code, each examined as a module that goes on with the names of those before it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from longcat.errors import DataError
from longcat.port.files import kind_of
from longcat.port.findings import Finding, apply
from longcat.port.python_code import Analysis, analyse
from longcat.port.support import Support
from longcat.port.text_code import analyse as analyse_text

_MAGIC = re.compile(r"(\s*)([%!?].*|[\w.]+\?{1,2}\s*|[\w, ]+=\s*[%!].*)$")
_TIMED = re.compile(r"(\s*)(%(?:time|timeit|prun|memit)\s+(?:-\w+(?:\s*\d+)?\s+)*)([^\s%!-].*)$")
_RUN = ("%%time", "%%timeit", "%%capture", "%%prun", "%%memit")
_HIDDEN, _HIDDEN_IF, _GOES_ON = "pass  # longcat-magic ", "longcat-magic ", "# longcat-magic-goes-on "


def analyse_notebook(text: str, file: str, support: Support | None = None) -> Analysis:
    """Find what belongs to CUDA in the cells of a notebook; lines of findings are counted over its code.

    Lines that are for the shell or for IPython are read as a script's. If the file as a whole would not be written again as
    it is, its cells stay as they are.

    Raises:
        DataError: it is no notebook, or its code does not parse; the message begins with `line N`.
    """
    if not text.strip():
        raise DataError("empty: no notebook")
    try:
        notebook = json.loads(text)
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        line, why = getattr(error, "lineno", 1), getattr(error, "msg", "no cells with text")
        raise DataError(f"line {line}: no notebook ({why})") from error
    findings, changed, line = list[Finding](), False, 0
    own = [_is_cell(source) for source in sources]
    whole = "\n".join(_hidden(source) for source, here in zip(sources, own, strict=True) if here)
    imports = "\n".join(found for found in whole.splitlines() if re.match(r"(import|from) ", found))
    for cell, source, here in zip(cells, sources, own, strict=True):
        if here:
            result = _cell(source, imports, file, support, line)
            result = replace(result, findings=(*result.findings, *_shell_lines(source, file)))
        else:
            result = _other_language(source, file, support)
        findings += [replace(one, line=one.line + line, edits=one.edits) for one in result.findings]
        rewritten = result.rewritten
        if rewritten != source:
            changed = True
            cell["source"] = rewritten.splitlines(keepends=True) if isinstance(cell["source"], list) else rewritten
        line += source.count("\n") + 1
    if not changed:
        return Analysis(tuple(findings), text)
    original: Any = json.loads(text)
    ends = text[len(text.rstrip()) :]
    for indent, marks in ((1, None), (2, None), (4, None), (None, None), (None, (",", ":"))):
        for plain in (False, True):
            write = partial(json.dumps, indent=indent, separators=marks, ensure_ascii=plain)
            if write(original) + ends == text:
                return Analysis(tuple(findings), write(notebook) + ends)
    left = [
        one.left("this notebook would not be written again as it is; " + one.why) if one.edits else one
        for one in findings
    ]
    return Analysis(tuple(left), text)


def _cell(source: str, imports: str, file: str, support: Support | None, before: int) -> Analysis:
    """Examine a cell with the notebook's imports in front of it, which are taken away again."""
    hidden = _hidden(source)
    own = {found for found in hidden.splitlines() if re.match(r"(import|from) ", found)}
    context = "if True:\n" + "".join(f"    {found}\n" for found in imports.splitlines() if found not in own)
    context = context if context.count("\n") > 1 else ""
    try:
        result = analyse(context + hidden, file, support, named=False)
    except DataError as error:
        found = re.match(r"line (\d+)", str(error))
        number = (int(found[1]) if found else 1) - context.count("\n") + before
        raise DataError(re.sub(r"^line \d+", f"line {number} of its code", str(error))) from error
    lines = context.count("\n")
    findings = tuple(replace(one, line=one.line - lines) for one in result.findings if one.line > lines)
    edits = [edit for one in findings for edit in one.edits]  # what stands in other cells is theirs to change
    return Analysis(findings, _shown(apply(context + hidden, edits)[len(context) :]))


def _is_cell(source: str) -> bool:
    """Whether a cell is Python of the notebook's own, also with a magic in front that runs it in another way."""
    return not source.lstrip().startswith("%%") or source.split(None, 1)[0] in _RUN


def _other_language(source: str, file: str, support: Support | None) -> Analysis:
    """Examine a cell that is a script, or a file to be written."""
    head, end, body = source.lstrip().partition("\n")
    magic, *words = head.split()
    name = words[-1] if words else ""
    kind = (
        "shell" if magic in ("%%bash", "%%sh") else kind_of(Path(name)) if magic in ("%%writefile", "%%file") else None
    )
    if kind is None or kind == "notebook" or not end:
        return Analysis((), source)
    try:
        result = analyse(body, file, support) if kind == "python" else analyse_text(body, file, kind)
    except DataError:  # a piece of a file, which others go on with
        return Analysis((), source)
    before = source[: len(source) - len(body)]
    findings = tuple(replace(one, line=one.line + before.count("\n")) for one in result.findings)
    return Analysis(findings, before + result.rewritten)


def _hidden(source: str) -> str:
    """Return a cell with its lines for the shell and for IPython as comments, so that it parses.

    A statement that a magic runs stays one, behind an `if`.
    """
    lines, goes_on = list[str](), False
    for line in source.split("\n"):
        if goes_on:
            lines.append(f"{_GOES_ON}{line}")
        elif (found := _TIMED.match(line)) is not None:
            lines.append(f'{found[1]}if "{_HIDDEN_IF}{found[2]}": {found[3]}')
        elif (found := _MAGIC.match(line)) is not None:
            lines.append(f"{found[1]}{_HIDDEN}{found[2]}")
        else:
            lines.append(line)
            continue
        goes_on = line.endswith("\\")
    return "\n".join(lines)


def _shown(source: str) -> str:
    plain = source.replace(_HIDDEN, "").replace(_GOES_ON, "")
    return re.sub(rf'if "{_HIDDEN_IF}([^"]*)": ', r"\1", plain)


def _shell_lines(source: str, file: str) -> list[Finding]:
    """Return what is found in the lines for the shell; they stay as they are."""
    magics = (line.lstrip() if _TIMED.match(line) is None else "" for line in source.split("\n"))
    lines = "\n".join(line[1:] if line.startswith(("!", "%")) else "" for line in magics)
    return [
        replace(one, edits=(), effort="minutes" if one.edits else one.effort)
        for one in analyse_text(lines, file, "shell").findings
    ]
