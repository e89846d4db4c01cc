"""The command line: ``dipod COMMAND``."""

from dipod.cli.main import main

__all__ = ["main"]
