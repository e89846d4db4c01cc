"""The command line: ``dipod COMMAND``."""

from dipod.cli.main import entry, main

__all__ = ["entry", "main"]
