"""YAML files of the user: read with a bound, every key once, and errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from longcat.errors import ConfigError
from longcat.unpacking import read_bounded


class _Loader(yaml.SafeLoader):
    """Loader that refuses a mapping with a key twice: the last one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a file that holds one mapping.

    Args:
        path: the file.
        name: what messages call it; its path by default.

    Raises:
        ConfigError: it cannot be read, is no YAML, has a key twice, or holds something else; with line and column.
    """
    called = name or str(path)
    try:
        tree = yaml.load(read_bounded(path).decode(), _Loader)  # nosec B506 # a safe loader's subclass
    except OSError as error:
        raise ConfigError(f"cannot read {called}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{called} is not valid YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{called} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{called}: expected a mapping of fields, found {type(tree).__name__}")
    return tree
