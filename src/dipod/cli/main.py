"""Parsing, dispatch, and what a user sees when something is wrong: one line and exit status 2."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO

from dipod import __version__, partners
from dipod.cli import (
    compare,
    completion,
    drift,
    evaluate,
    export,
    flexibility,
    merge,
    motion,
    play,
    recipes,
    report,
    score,
    train,
    two_token,
)
from dipod.cli.terminal import plain
from dipod.errors import Note, UserError
from dipod.files import file_error
from dipod.parallel import first, leave
from dipod.stopping import Interrupted, follow
from dipod.visible import visible

WIDTH = 110

COMMANDS = (
    train,
    compare,
    evaluate,
    drift,
    flexibility,
    score,
    report,
    play,
    export,
    merge,
    motion,
    recipes,
    two_token,
    completion,
)
TAKE_SETTINGS = (train.NAME, compare.NAME, evaluate.NAME)
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN = 2, 130, 1


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=24, width=WIDTH)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError("command line", self.prog, f"{message}; see `{self.prog} --help`")


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and the parsers of its commands."""
    parser = _Parser(
        prog="dipod",
        description="Post-train diffusion policies by reinforcement learning while their likelihood bound stays tight.",
        formatter_class=_help_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dipod {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    children: dict[str, argparse.ArgumentParser] = {}
    for module in COMMANDS:
        child = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.DESCRIPTION,
            formatter_class=_help_formatter,
            allow_abbrev=False,
        )
        module.add_arguments(child)
        child.set_defaults(run=module.run)
        children[module.NAME] = child
    return parser, children


def entry() -> NoReturn:
    """The program ``dipod``: one command, then its exit status; a reader that has seen enough is no error."""
    follow()
    try:
        status = main()
        sys.stdout.flush()
    except SystemExit as end:  # `--help`, or another process has said why
        status = end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    leave(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 a user's mistake, 130 interrupted and saved, 1 broken."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, children = build_parser()
        settings: dict[str, str] = {}
        if given and given[0] in TAKE_SETTINGS:
            given, settings = split_settings(given, children[given[0]])
        arguments = parser.parse_args(given)
        arguments.settings = settings
        run: Callable[[argparse.Namespace], None] = arguments.run
        with plain(), _notes():
            try:
                run(arguments)
            except OSError as error:
                raise file_error(error) from error
    except UserError as error:
        return _end(f"error{partners.elsewhere()}: {error}", EXIT_USER_ERROR)
    except (Interrupted, KeyboardInterrupt) as stop:
        return _end(f"{stop or 'interrupted'}", EXIT_INTERRUPTED)
    except Exception as error:
        silent = partners.fail(EXIT_BROKEN)
        if silent is None:
            return EXIT_BROKEN
        if "RANK" not in os.environ:
            raise
        if not partners.broke(error):
            traceback.print_exc()
            return EXIT_BROKEN
        print(f"dipod: error: {partners.loss(error, silent)}", file=sys.stderr)
        return EXIT_BROKEN
    return 0


def _end(line: str, status: int) -> int:
    """End all processes of this run with a line that one of them prints; returns the exit status."""
    if partners.fail(status) is not None:
        print(f"dipod: {' '.join(visible(line).splitlines())}", file=sys.stderr)
    return status


@contextmanager
def _notes() -> Iterator[None]:
    """Inside it, a `Note` is a line on stderr, once, from one process."""
    said: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, Note):
            usual(message, category, filename, lineno, file, line)
        elif first() and str(message) not in said:
            said.add(str(message))
            print(f"dipod: note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield


def split_settings(given: Sequence[str], command: argparse.ArgumentParser) -> tuple[list[str], dict[str, str]]:
    """Take ``--field value`` and ``--field=value`` out of a command line; flags of the command itself stay.

    Returns:
        The rest for the command's parser, and the settings.

    Raises:
        UserError: a setting without a value.
    """
    own = {option for action in command._actions for option in action.option_strings}
    rest: list[str] = []
    settings: dict[str, str] = {}
    waiting = list(given)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in own:
            rest.append(word)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(flag, "", "a value is missing; settings are written --field value")
            value = waiting.pop(0)
        settings[flag[2:].replace("-", "_")] = value
    return rest, settings
