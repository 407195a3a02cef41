"""Property tests draw the same examples in every run, so that a red gate is never luck.

``HYPOTHESIS_PROFILE=explore`` draws fresh ones; what it finds becomes an example of its test.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("gate", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
