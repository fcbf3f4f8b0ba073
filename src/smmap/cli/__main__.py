"""`python -m smmap.cli` is the command `smmap`."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
