"""Notebooks: their cells of code, each examined as a module that goes on with the names of those before it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from longcat.errors import DataError
from longcat.port.findings import Finding, apply
from longcat.port.python_code import Analysis, analyse
from longcat.port.support import Support
from longcat.port.text_code import analyse as analyse_text

_MAGIC = re.compile(r"^(\s*)([%!].*)$", re.MULTILINE)
_HIDDEN = "pass  # longcat-magic "


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
    whole = "\n".join(_hidden(source) if not source.lstrip().startswith("%%") else "" for source in sources)
    imports = "\n".join(found for found in whole.splitlines() if re.match(r"(import|from) ", found))
    for cell, source in zip(cells, sources, strict=True):
        if source.lstrip().startswith("%%"):
            magic = source.lstrip().split(None, 1)[0]
            if magic in ("%%bash", "%%sh"):
                result = analyse_text(source, file, "shell")
            elif magic in ("%%time", "%%timeit", "%%capture"):
                result = analyse(_hidden(source), file, support, named=False)
            else:
                line += source.count("\n") + 1
                continue
        else:
            result = _cell(source, imports, file, support, line)
            result = replace(result, findings=(*result.findings, *_shell_lines(source, file)))
        findings += [replace(one, line=one.line + line, edits=one.edits) for one in result.findings]
        rewritten = result.rewritten
        if rewritten != source:
            changed = True
            cell["source"] = rewritten.splitlines(keepends=True) if isinstance(cell["source"], list) else rewritten
        line += source.count("\n") + 1
    if not changed:
        return Analysis(tuple(findings), text)
    original: Any = json.loads(text)
    for indent in (1, 2, 4, None):
        for plain in (False, True):
            ends = text[len(text.rstrip()) :]
            if json.dumps(original, indent=indent, ensure_ascii=plain) + ends == text:
                return Analysis(tuple(findings), json.dumps(notebook, indent=indent, ensure_ascii=plain) + ends)
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


def _hidden(source: str) -> str:
    """Return a cell with its lines for the shell as comments of a statement, so that it parses."""
    return _MAGIC.sub(lambda found: f"{found[1]}{_HIDDEN}{found[2]}", source)


def _shown(source: str) -> str:
    return source.replace(_HIDDEN, "")


def _shell_lines(source: str, file: str) -> list[Finding]:
    """Return what is found in the lines for the shell; they stay as they are."""
    lines = "\n".join(line.lstrip()[1:] if line.lstrip().startswith(("!", "%")) else "" for line in source.splitlines())
    return [
        replace(one, edits=(), effort="minutes" if one.edits else one.effort)
        for one in analyse_text(lines, file, "shell").findings
    ]
