"""``dipod completion``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import shtab

from dipod.errors import UserError
from dipod.recipes import fields, names
from dipod.tasks.configs import task_names

NAME = "completion"
HELP = "print a completion script for a shell"
DESCRIPTION = """Print what makes a shell complete commands, flags, settings, recipes and paths.

  bash    dipod completion bash > ~/.local/share/bash-completion/completions/dipod
  zsh     dipod completion zsh > ~/.zfunc/_dipod      (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  tcsh    dipod completion tcsh > ~/.dipod.csh        (with `source ~/.dipod.csh` in ~/.tcshrc)

The script is made once; make it again after an update.
"""
Parsers = tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]
PATHS = {"RUN", "RUN_OR_MODEL", "DIR"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("shell", metavar="SHELL", help=", ".join(shtab.SUPPORTED_SHELLS))


def script(shell: str, build: Callable[[], Parsers], take_settings: tuple[str, ...]) -> str:
    """The completion script of the program whose parsers ``build`` makes.

    Args:
        shell: its name.
        build: fresh parsers, which are changed.
        take_settings: commands whose flags include every setting.

    Raises:
        UserError: a shell that is not known.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UserError("shell", shell, f"choose one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    parser, children = build()
    for command in take_settings:
        known = {option for action in children[command]._actions for option in action.option_strings}
        paths = {f"--{field.path}": field.about for task in task_names() for field in fields(task)}
        for flag, about in paths.items():
            if flag not in known:
                children[command].add_argument(flag, help=about.split(". ")[0].replace("%", "%%")[:80])
    for child in children.values():
        for action in child._actions:
            if action.dest == "recipe":
                action.choices = names()
            elif action.metavar in PATHS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    from dipod.cli.main import TAKE_SETTINGS, build_parser

    print(script(arguments.shell, build_parser, TAKE_SETTINGS))
