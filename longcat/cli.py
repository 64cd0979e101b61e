"""The command line `longcat`: its commands, and how their errors are reported."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from longcat import __version__
from longcat.commands import (
    assess,
    clean,
    cluster,
    compare,
    dispatch,
    mfu,
    models,
    plan,
    port,
    presets,
    reproduce,
    serve,
    sweep,
    tools,
    workspace,
)
from longcat.commands.evaluate import benchmark_command, evaluate_command
from longcat.commands.help import Command, Group
from longcat.commands.preprocess import preprocess_command
from longcat.commands.pretrain import pretrain_command
from longcat.commands.run import flow_command, run
from longcat.disk import failing_disk
from longcat.errors import LongcatError, Terminated, UserError
from longcat.extensions import STAGES as OWN_STAGES
from longcat.extensions import registered
from longcat.flows.dag import STAGES
from longcat.printable import printable, shown_warnings
from longcat.processes.environment import NO_TELEMETRY, QUIET
from longcat.redaction import redact, redact_error

app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Pre-train LongCat models: from text to checkpoint, MFU benchmark and evaluation.",
    epilog="longcat COMMAND --help tells the options of a command, with an example.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"longcat {__version__}")
        raise typer.Exit


@app.callback()
def _quieten(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "emulate":  # a program of the user
        for name, value in (NO_TELEMETRY | QUIET).items():
            os.environ.setdefault(name, value)


_COMMANDS = {
    "preprocess": preprocess_command,
    "pretrain": pretrain_command,
    "benchmark": benchmark_command,
    "evaluate": evaluate_command,
}
_STAGES, _MODELS, _KEEPING, _MACHINE = "The pipeline", "Models and runs", "The workspace", "The machine"
app.command(cls=Command, rich_help_panel=_STAGES)(run)
for _stage in STAGES:
    _needs = "; earlier stages run first if their results are missing." if _stage.needs else "."
    _make = _COMMANDS.get(_stage.name, partial(flow_command, _stage.name))
    app.command(_stage.name, cls=Command, rich_help_panel=_STAGES)(_make(_stage.title + _needs))
for _name, _own in registered(OWN_STAGES).items():
    if _name not in {_stage.name for _stage in STAGES}:
        app.command(_name, cls=Command, rich_help_panel=_STAGES)(
            flow_command(_name, f"A stage of {_own[0].distribution}; what it needs runs first.")
        )
_function: Callable[..., None]
for _function in (
    sweep.sweep,
    compare.compare,
    reproduce.reproduce,
    presets.presets,
    assess.assess,
    plan.plan,
    mfu.mfu,
    models.generate,
    dispatch.dispatch,
    models.export,
):
    app.command(cls=Command, rich_help_panel=_MODELS)(_function)
app.command("import", cls=Command, rich_help_panel=_MODELS)(models.import_)
app.command(cls=Command, rich_help_panel=_MODELS)(serve.serve)
_PROGRAM = {"ignore_unknown_options": True, "allow_interspersed_args": False}
app.command(cls=Command, context_settings=_PROGRAM, rich_help_panel=_MACHINE)(tools.emulate)
app.add_typer(port.app, name="port", rich_help_panel=_MODELS)
_KEPT = (
    workspace.ls,
    workspace.show,
    workspace.pin,
    workspace.unpin,
    workspace.rm,
    workspace.gc,
    clean.clean,
    tools.verify,
)
for _function in (cluster.join, tools.doctor):
    app.command(cls=Command, rich_help_panel=_MACHINE)(_function)
for _function in (tools.ui, *_KEPT, tools.sync):
    app.command(cls=Command, rich_help_panel=_KEEPING)(_function)


_INTERRUPTED = 130
_AGAIN = "run the same command again; it continues from its last checkpoint if it keeps any"
_UNREAD = 128 + signal.SIGPIPE
"""Exit code where the reader of standard output is gone: that of a program which the signal ends."""


class _Signals:
    """Signals that ask this process to stop, as exceptions; what else fails after one fails because of it."""

    asked: BaseException | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as for a job in a shell's background
                signal.signal(number, self._stop)

    def uninstall(self) -> None:
        """Let a signal end this process without a word: the command is over, and its files are closed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) == self._stop:
                signal.signal(number, signal.SIG_DFL)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.asked = KeyboardInterrupt() if number == signal.SIGINT else Terminated(f"stopped by SIGTERM; {_AGAIN}")
        raise self.asked


def _refusal_of_output() -> OSError | None:
    """Return why standard output takes no more, as after `| head` or on a full disk; what is left for it is thrown away then."""
    try:
        sys.stdout.flush()
    except OSError as refusal:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return refusal
    return None


def _have_streams() -> None:
    """Open what stands for a standard stream that this process was started without, so that no file takes its place."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def _complain(text: str) -> None:
    print(f"error: {printable(text)}", file=sys.stderr)


def _warn(text: str) -> None:
    print(f"warning: {printable(redact(text))}", file=sys.stderr)


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code."""
    signals = _Signals()
    signals.install()
    try:
        try:
            # the command's exit code where typer has caught its exit or an interrupt, else None
            with shown_warnings(_warn):
                code = app(standalone_mode=False) or 0
                sys.stdout.flush()
        except Exception as error:
            if signals.asked is None or isinstance(error, LongcatError):
                raise
            raise signals.asked from error  # for example of a module that was being imported
        finally:
            signals.uninstall()
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except SystemExit as left:
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        code = _UNREAD  # click and rich leave so when nobody reads
    except LongcatError as error:
        _complain(str(error))
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print(f"error: interrupted; {_AGAIN}", file=sys.stderr)
        code = _INTERRUPTED
    except Exception as error:
        redact_error(error)
        refusal = _refusal_of_output() if isinstance(error, OSError) else None
        if isinstance(refusal, BrokenPipeError):
            code = _UNREAD
        elif refusal is not None:
            _complain(f"standard output cannot be written: {refusal.strerror}")
            code = UserError.exit_code
        elif type(error).__module__.startswith(("click", "typer")) and hasattr(error, "exit_code"):
            context = getattr(error, "ctx", None)
            if context is None or type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
            else:
                text = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
                _complain(f"{redact(text)}; see {context.command_path} --help")
            code = int(error.exit_code)
        elif (refused := failing_disk(error, Path.cwd())) is not None:
            _complain(str(refused))
            code = refused.exit_code
        else:
            if os.environ.get("LONGCAT_DEBUG"):
                print(printable(traceback.format_exc()), file=sys.stderr)
            text = str(error).splitlines()[0] if str(error) else ""
            where = "; ".join(getattr(error, "__notes__", ())) or "set LONGCAT_DEBUG=1 for the traceback"
            _complain(f"{type(error).__name__}: {text} ({where})")
            code = 1
    sys.exit(code)


@dataclass
class _Leaving:
    """The end of this process once all that it has to do is done, its exit handlers included.

    Python would take down its modules and objects next, which takes longer than a short command where torch is loaded.
    """

    code: int | None = None

    def __call__(self) -> None:
        if self.code is None:  # an error that main does not know
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(self.code)


def program() -> None:
    """Run the command line as a process of its own, which ends with it."""
    _have_streams()
    leaving = _Leaving()
    atexit.register(leaving)  # the first one that is registered is called last
    try:
        main()
    except SystemExit as left:
        leaving.code = left.code if isinstance(left.code, int) else None
        raise


if __name__ == "__main__":
    program()
