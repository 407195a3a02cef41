"""``python -m zkpy`` is the command ``zkpy``."""

from __future__ import annotations

import sys

from zkpy.cli import main

sys.exit(main())
