"""What programs import: signatures and docstrings, read from the source without importing it."""

from __future__ import annotations

from typing import Any

import griffe

from docs.build import ROOT
from docs.reference.markdown import code, prose, table

HEAD = """# Python API

Who calls longcat from a program or a notebook, or adds a part of their own, finds the functions and types to call here. For
example, the first stage of a run, without Prefect and MLflow:

```python
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess

tokens = preprocess(load_config("smoke"), workspace=Workspace("workspace"))
print(tokens.path, tokens.facts.headline)
```

Every mistake of a caller's is a `longcat.errors.UserError` with a sentence that says what would be right. What is not listed
here is the inside, and may change.
"""
LISTED = {
    "Configurations": ("config.load_config", "config.preset_names", "config.PipelineConfig"),
    "Stages": (
        "corpus.stage.preprocess",
        "training.stage.pretrain",
        "benchmark.stage.benchmark",
        "evaluation.stage.evaluate",
    ),
    "Results": ("artifact.Workspace", "artifact.Artifact", "artifact.open_artifact", "corpus.shards.TokenCorpus"),
    "Models": (
        "inference.opening.find_checkpoint",
        "inference.opening.open_checkpoint",
        "inference.opening.OpenCheckpoint",
        "inference.runner.Runner",
        "interchange.convert.export",
        "interchange.convert.import_folder",
    ),
    "Costs and MFU": (
        "costs.workload.longcat_workload",
        "costs.workload.Workload",
        "costs.flops.training_flops_per_token",
        "costs.memory.training_memory",
        "benchmark.mfu_answer.Run",
        "benchmark.mfu_answer.answer",
    ),
    "Parts of your own": (
        "evaluation.suites.Suite",
        "evaluation.suites.Scores",
        "flows.dag.Stage",
        "artifact.Facts",
        "artifact.Recipe",
    ),
    "Errors": ("errors.LongcatError", "errors.UserError", "errors.ConfigError", "errors.DataError", "errors.ArtifactError"),
}  # fmt: skip
"""Headings, and what stands below each besides what `import longcat` offers."""


def page() -> str:
    """Return the page: what `import longcat` offers, then what lies in modules."""
    package = griffe.load("longcat", search_paths=[ROOT], try_relative_path=False, docstring_parser="google")
    parts = [HEAD]
    if package.exports:
        parts.append("## `import longcat` { #longcat }")
        names = sorted(str(name) for name in package.exports if str(name) != "__version__")
        parts += [_shown(f"longcat.{name}", _target(package[name])) for name in names]
    for title, names in LISTED.items():
        parts.append(f"## {title}")
        parts += [_shown(f"longcat.{name}", _target(package[name])) for name in names]
    return "\n\n".join(parts) + "\n"


def _target(found: Any) -> Any:
    return found.final_target if found.is_alias else found


def _shown(path: str, found: Any) -> str:
    """Show a function, a class with its attributes and methods, or a value."""
    module, _, name = path.rpartition(".")
    shown = path if module == "longcat" else name
    parts = [f"### `{shown}` {{ #{path} }}", _python(f"from {module} import {name}", _signature(found))]
    parts += _docstring(found)
    if found.is_class:
        members = {name: one for name, one in found.members.items() if not name.startswith("_") and one.docstring}
        attributes = [one for one in members.values() if one.is_attribute]
        if attributes:
            rows = [(code(one.name), code(one.annotation or ""), prose(one.docstring.value)) for one in attributes]
            parts.append(table(("attribute", "type", "what it is"), rows))
        for name, one in members.items():
            if one.is_function:
                parts += [f"#### `{name}` {{ #{path}.{name} }}", _python(_signature(one)), *_docstring(one)]
    return "\n\n".join(parts)


def _signature(found: Any) -> str:
    """Return how it is called, on lines that a page has room for."""
    if found.is_attribute or (found.is_class and "__init__" not in found.members):
        return ""
    called = found.members["__init__"] if found.is_class else found
    given = [one for one in called.parameters if one.name not in ("self", "cls")]
    words, keyword_only = [], False
    for one in given:
        if one.kind is griffe.ParameterKind.keyword_only and not keyword_only:
            words.append("*")
            keyword_only = True
        star = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(one.kind, "")
        if star == "*":
            keyword_only = True
        default = "" if one.default is None or star else f" = {one.default}"
        words.append(f"{star}{one.name}{f': {one.annotation}' if one.annotation else ''}{default}")
    end = f") -> {called.returns}" if called.returns and not found.is_class else ")"
    line = f"{found.name}({', '.join(words)}{end}"
    return line if len(line) <= 90 else f"{found.name}(\n    " + ",\n    ".join(words) + f",\n{end}"


def _python(*lines: str) -> str:
    code_lines = "\n\n".join(filter(None, lines))
    return f"```python\n{code_lines}\n```" if code_lines else ""


def _docstring(found: Any) -> list[str]:
    """Return the sections of a docstring as Markdown."""
    parts: list[str] = []
    for section in found.docstring.parsed if found.docstring else ():
        kind = section.kind.value
        if kind == "text":
            parts += [prose(text) for text in section.value.split("\n\n")]
        elif kind in ("parameters", "attributes"):
            rows = [(code(one.name), prose(one.description)) for one in section.value]
            parts.append(table(("argument", "what it is"), rows))
        elif kind in ("returns", "yields"):
            parts += [f"**{kind.capitalize()}:** {prose(one.description)}" for one in section.value]
        elif kind == "raises":
            said = "; ".join(f"{code(one.annotation)}: {prose(one.description).rstrip('.')}" for one in section.value)
            parts.append(f"**Raises:** {said}.")
        elif kind == "admonition":
            parts.append(f"**{section.title}:** {prose(section.value.description)}")
    return parts
