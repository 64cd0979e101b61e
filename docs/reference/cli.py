"""Every command of the command line, from its parameters, help texts and examples."""

from __future__ import annotations

from typing import Any

import typer

from docs.reference.markdown import code, prose, table
from longcat.cli import app
from longcat.commands.help import EXAMPLES

HEAD = """# Command line

Who types commands looks them up here; `longcat COMMAND --help` says the same. Most need nothing but a name:

    longcat run --preset smoke          # the whole pipeline, in its smallest form
    longcat ls                          # what it has made

A command ends with exit code 0, with 2 for a mistake of the user's (one line says what would be right), with 130 after Ctrl-C, and
with 1 for anything else; `LONGCAT_DEBUG=1` adds the traceback. `--json` prints one JSON document on standard output, and nothing else.
"""
_GENERAL = "Options"


def commands() -> dict[str, Any]:
    """Return the commands by name, in the order of the help; those of a group have its name before theirs."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {one}": of for one, of in inner.items()} if inner else {name: command}
    return found


def page() -> str:
    """Return the page: a list of the commands, and a heading for each."""
    found = commands()
    rows = [
        (f"[`{name}`](#{_anchor(name)})", prose(_help(command).partition("\n\n")[0])) for name, command in found.items()
    ]
    return "\n".join([HEAD, table(("command", "what it does"), rows), "", *(_shown(*each) for each in found.items())])


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _examples(name: str) -> list[str]:
    lines = EXAMPLES[name.partition(" ")[0]]
    return [line for line in lines if " " not in name or line.startswith(f"longcat {name} ")]


def _help(command: Any) -> str:
    return str(command.help or "").replace("\b", "")


def _shown(name: str, command: Any) -> str:
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    usage = " ".join(["longcat", name, "[OPTIONS]", *map(_usage, arguments)])
    parts = [f"## `longcat {name}` {{ #{_anchor(name)} }}", *(prose(text) for text in _help(command).split("\n\n"))]
    parts += [
        f"```text\n{usage}\n```",
        "For example:",
        "```sh\n" + "\n".join(_examples(name)) + "\n```",
    ]
    panels: dict[str, list[Any]] = {"Arguments": arguments}
    for parameter in shown:
        if parameter.param_type_name == "option":
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or _GENERAL, []).append(parameter)
    for title, parameters in panels.items():
        if parameters:
            parts += [f"**{title}**", table(("name", "what it does"), [_row(one) for one in parameters])]
    return "\n\n".join(parts) + "\n"


def _usage(argument: Any) -> str:
    name = _value(argument) + ("..." if argument.nargs == -1 or argument.multiple else "")
    return name if argument.required else f"[{name}]"


def _value(parameter: Any) -> str:
    """Return the word that stands for a parameter's value."""
    return str(parameter.metavar or ("NUMBER" if parameter.type_descriptor.annotation in (int, float) else "TEXT"))


def _row(parameter: Any) -> tuple[str, str]:
    value = "" if getattr(parameter, "is_flag", False) else _value(parameter)
    if parameter.param_type_name == "argument":
        names = code(value)
    else:
        spellings = [*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts]
        names = ", ".join(code(f"{spelling} {value}".rstrip()) for spelling in spellings)
    text = [prose(parameter.help or "")]
    if parameter.envvar:
        text.append(f"Environment: {code(parameter.envvar)}.")
    if not (parameter.default is None or parameter.default is False or parameter.default in ([], (), "")):
        text.append(f"Default: {code(parameter.default)}.")
    if parameter.required and parameter.param_type_name == "option":
        text.append("Required.")
    return names, " ".join(filter(None, text))
