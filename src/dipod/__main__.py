"""``python -m dipod`` is ``dipod``."""

import sys

from dipod.cli import main

sys.exit(main())
