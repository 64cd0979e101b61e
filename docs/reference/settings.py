"""Every setting of the configuration, from its types and the lines below its fields."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.reference.markdown import code, prose
from longcat.config import RUNTIME, PipelineConfig, load_config
from longcat.config.section import Formerly

HEAD = """# Settings

Who writes a configuration looks settings up here: every one, with what it may be, its default and what it does. In a file
(`longcat run --config mine.yaml`) sections are nested; on the command line a dot stands between them:

    longcat run --preset tiny --set training.steps=500 --set 'corpus.sources=[my.jsonl]'

`longcat presets --show tiny` prints all of them with the values of a preset. A mistyped name is refused, with the nearest right
one. A setting that is *in the digest* is part of the address of what it changes: with another value results are made
anew. One that is *not in the digest* cannot change results, or something else stands for it there, such as the hash of a
file; changing it alone reuses what is finished.
"""
_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Setting:
    """A field of the configuration."""

    name: str
    """Dotted, as `--set` takes it."""
    field: FieldInfo
    section: type[BaseModel] | None
    """The section that it holds, alone or in a list."""
    in_digest: bool


def settings(section: type[BaseModel] = PipelineConfig, prefix: str = "", in_digest: bool = True) -> Iterator[Setting]:
    """Yield every field below a section: first those that hold a value, then each section before what is in it."""
    found = [
        Setting(prefix + name, field, _section_in(field.annotation), in_digest and RUNTIME not in field.metadata)
        for name, field in section.model_fields.items()
    ]
    for setting in sorted(found, key=lambda one: one.section is not None):
        yield setting
        if setting.section is not None:
            yield from settings(setting.section, f"{setting.name}.", setting.in_digest)


def page() -> str:
    """Return the page: a heading for each section, and for each setting."""
    tiny = load_config("tiny").model_dump(mode="json")
    return "\n".join([HEAD, "## The run { #run }\n", *(_shown(setting, tiny) for setting in settings())])


def _shown(setting: Setting, tiny: dict[str, Any]) -> str:
    depth = "##" if setting.section and "." not in setting.name else "###" if setting.section else "####"
    facts = [_kind(setting.field.annotation, setting.field.metadata), _default(setting.field)]
    value = _value(tiny, setting.name)
    if (
        setting.section is None
        and setting.name != "preset"
        and value is not None
        and value != _default_value(setting.field)
    ):
        facts.append(f"in `tiny` {code(_yaml(value))}")
    facts.append("in the digest" if setting.in_digest else "not in the digest")
    former = [mark.name for mark in setting.field.metadata if isinstance(mark, Formerly)]
    text = [prose(setting.field.description or "")]
    if setting.section is not None:
        said = prose(setting.section.__doc__ or "")
        text = [said] if said.startswith(text[0].rstrip(".")) else [*text, said]
    if former:
        text.append(f"Formerly {', '.join(map(code, former))}.")
    return f"{depth} `{setting.name}` {{ #{setting.name} }}\n\n{' · '.join(filter(None, facts))}\n{{ .facts }}\n\n" + (
        "\n\n".join(text) + "\n"
    )


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_section_in(inner) for inner in get_args(annotation)]
    return next(filter(None, found), None)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """Say what values a field takes."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0], [*inner[1:], *metadata])
    if origin in (Union, types.UnionType):
        kinds = [_kind(each, metadata) for each in inner if each is not type(None)]
        return " or ".join([*kinds, "null"] if type(None) in inner else kinds)
    if origin is Literal:
        return ", ".join(code(value) for value in inner)
    if origin is list:
        least = next((mark.min_length for mark in metadata if isinstance(mark, MinLen)), 0)
        return f"list{f' (at least {least})' if least else ''} of {_kind(inner[0], [])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS.get(annotation, str(annotation)) + _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    signs = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    said = [
        f"{sign} {getattr(mark, name)}"
        for mark in metadata
        for kind, (sign, name) in signs.items()
        if isinstance(mark, kind)
    ]
    said += [f"like {code(mark.pattern)}" for mark in metadata if getattr(mark, "pattern", None)]
    return f" {', '.join(said)}" if said else ""


def _default_value(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "to be given"
    value = _default_value(field)
    if isinstance(value, dict) or value is PydanticUndefined:
        return ""
    if isinstance(value, list):
        value = [
            one.model_dump(mode="json", exclude_defaults=True) if isinstance(one, BaseModel) else one for one in value
        ]
    return f"default {code(_yaml(value))}"


def _yaml(value: Any) -> str:
    return (
        value if isinstance(value, str) and value.strip() == value and value else json.dumps(value, ensure_ascii=False)
    )


def _value(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
