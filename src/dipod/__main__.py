"""``python -m dipod`` is ``dipod``."""

from dipod.cli import entry

entry()
