"""Files that an lm-evaluation-harness task consists of: YAML, what it includes, the code it names, and its data."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from longcat.errors import DataError
from longcat.provenance import code_behind
from longcat.unpacking import parse_json, read_bounded

BUILDERS = ("arrow", "csv", "json", "pandas", "parquet", "text", "webdataset", "xml")
"""Values of `dataset_path` that stand for files of a format; others are data sets of the hub or folders."""
_NAMES = re.compile(
    r"""^(?:task|group|tag):[ \t]*\[?["']?([^\s"',\]]+)|^\s*-\s+(?:task:\s*|group:\s*)?["']?([^\s"',\]]+)["']?\s*$""",
    re.MULTILINE,
)


def parts_of(path: Path, _seen: tuple[Path, ...] = ()) -> list[Path]:
    """List a YAML file, all that it includes, and the Python files that it takes functions from.

    To code belong the modules beside it and the parts of this package that it imports.

    Raises:
        DataError: a file is missing, its YAML is broken, or it includes itself.
    """
    path = path.resolve()
    if path in _seen:
        raise DataError(f"{path}: includes itself by way of {_seen[-1]}")
    root = _compose(path)
    found = [path]
    for function in _functions(root):
        module = function.value.rpartition(".")[0]
        source = path.parent / f"{module.replace('.', '/')}.py"
        if source.is_file():
            found += _code(source.resolve())
        elif (origin := _origin(module)) is not None:
            found.append(origin)
        else:
            raise DataError(f"{path}:{function.start_mark.line + 1}: !function {function.value}: there is no {source}")
    for include in _values(root, "include"):
        inner = path.parent / include.value
        if not inner.is_file():
            raise DataError(f"{path}:{include.start_mark.line + 1}: include: there is no file {inner}")
        found += parts_of(inner, (*_seen, path))
    return list(dict.fromkeys(found))


def broken_files(folder: Path) -> list[str]:
    """Say what is wrong with the YAML files of a folder that cannot be read with all that they include."""
    reasons = []
    for path in sorted(folder.rglob("*.yaml")):
        try:
            parts_of(path)
        except DataError as error:
            reasons.append(str(error))
    return reasons


def settled_data(config: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Return the keys of a task's configuration that say where its data is, with places that do not depend on where one is.

    A relative file is looked for beside the YAML, then from the working directory. Without any, it is the YAML's own name
    with `.jsonl`.

    Args:
        config: the task, with what it includes.
        folder: of the YAML file.
        where: the YAML file, for messages.

    Returns:
        `dataset_path` and `dataset_kwargs` where they have to change; nothing otherwise.

    Raises:
        DataError: a file is missing, or a line of it is no JSON object.
    """
    path = config.get("dataset_path")
    options = dict(config.get("dataset_kwargs") or {})
    if path not in BUILDERS:
        local = isinstance(path, str) and (folder / path).is_dir()
        return {"dataset_path": str((folder / str(path)).resolve())} if local else {}
    files = options.get("data_files")
    if files is None and "data_dir" not in options:
        beside = Path(where).with_suffix(".jsonl")
        splits = [config.get(f"{name}_split") for name in ("test", "validation", "training")]
        split = next((name for name in splits if name), "test")
        files = {split: str(beside)}
    if isinstance(options.get("data_dir"), str):
        options["data_dir"] = str(_place(options["data_dir"], folder, where))
    if isinstance(files, dict):
        options["data_files"] = {split: _places(some, folder, where) for split, some in files.items()}
    elif files is not None:
        options["data_files"] = _places(files, folder, where)
    for file in data_files(options):
        if file.suffix == ".jsonl" and path == "json":
            check_lines(file)
    return {"dataset_kwargs": options}


def named_files(config: dict[str, Any], folder: Path) -> list[Path]:
    """List the files beside a YAML that it names to its own code, in `dataset_kwargs`."""
    values = (config.get("dataset_kwargs") or {}).values()
    return [folder / value for value in values if isinstance(value, str) and (folder / value).is_file()]


def data_files(options: dict[str, Any]) -> list[Path]:
    """List the local files that settled `dataset_kwargs` name."""
    named = options.get("data_files")
    groups = named.values() if isinstance(named, dict) else [named]
    names = [name for group in groups if group for name in ([group] if isinstance(group, str) else group)]
    found = [file for name in names if "://" not in name for file in _matches(Path(name))]
    if isinstance(options.get("data_dir"), str):
        found += sorted(file for file in Path(options["data_dir"]).rglob("*") if file.is_file())
    return found


def check_lines(path: Path) -> None:
    """Refuse a file without lines, or with a line that is no JSON object; blank lines are left out.

    Raises:
        DataError: says which line.
    """
    empty = True
    for number, line in _lines(path):
        empty = False
        try:
            value = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken JSON ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
    if empty:
        raise DataError(f"{path}: there are no documents in it")


def record_at(path: Path, item: int) -> tuple[int, dict[str, Any]]:
    """Return an item of a JSONL file, counted from 0, after the number of the line that it is in."""
    number, line = next(itertools.islice(_lines(path), item, None))
    return number, parse_json(line)


def names_in(folder: Path) -> set[str]:
    """Return all that may be the name of a task, a group or a tag in a folder, without parsing its YAML."""
    found = set()
    for path in folder.rglob("*yaml*"):
        if path.is_file():
            for one, other in _NAMES.findall(path.read_text(encoding="utf-8", errors="replace")):
                found.add(one or other)
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its number."""
    number = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason})") from None


def _places(files: Any, folder: Path, where: str) -> str | list[str]:
    if isinstance(files, str):
        return str(_place(files, folder, where))
    if isinstance(files, list) and files and all(isinstance(file, str) for file in files):
        return [str(_place(file, folder, where)) for file in files]
    raise DataError(f"{where}: dataset_kwargs.data_files: expected names of files, found {files!r}")


def _place(name: str, folder: Path, where: str) -> Path | str:
    if "://" in name:
        return name
    places = [folder.resolve() / name, Path.cwd() / name]
    for place in places:
        if _matches(place) or place.is_dir():
            return place
    raise DataError(f"{where}: dataset_kwargs: there is no file {places[0]}")


def _matches(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    anchor = Path(path.anchor)
    return (
        sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file())
        if "*" in str(path)
        else []
    )


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(read_bounded(path).decode(), Loader=yaml.SafeLoader)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise DataError(f"{path}{line}: broken YAML ({problem or str(error).splitlines()[0]})") from None


def _functions(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    match node:
        case yaml.ScalarNode(tag="!function"):
            yield node
        case yaml.SequenceNode(value=children):
            for child in children:
                yield from _functions(child)
        case yaml.MappingNode(value=pairs):
            for _, value in pairs:
                yield from _functions(value)


def _values(root: yaml.Node | None, key: str) -> list[yaml.ScalarNode]:
    """Return the scalar or the scalars of a key of the outermost mapping."""
    if not isinstance(root, yaml.MappingNode):
        return []
    values = [value for name, value in root.value if name.value == key]
    return [part for value in values for part in (value.value if isinstance(value, yaml.SequenceNode) else [value])]


def _code(path: Path, _seen: tuple[Path, ...] = ()) -> list[Path]:
    """List a Python file, the modules beside it that it imports, and what it imports of this package."""
    try:
        tree = ast.parse(read_bounded(path))
    except SyntaxError as error:
        line = "" if error.lineno is None else f":{error.lineno}"
        raise DataError(f"{path}{line}: broken Python ({error.msg})") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    found = [path, *code_behind(path)]
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names.append(node.module)
        for name in names:
            beside = path.parent / f"{name.split('.')[0]}.py"
            if beside.is_file() and beside not in (path, *_seen):
                found += _code(beside, (*_seen, path))
    return list(dict.fromkeys(found))


def _origin(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
