"""What pyproject.toml cannot say: the hot modules compiled with mypyc, when ZKPY_COMPILE=1 asks for it.

    make compile                      # a checkout
    ZKPY_COMPILE=1 pip install .      # a wheel

They stay plain Python that passes the same tests. Needs a C compiler; pip brings mypyc.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

COMPILE = os.environ.get("ZKPY_COMPILE") == "1"

# Every request passes through these, and nothing in them waits for the kernel: in process a write
# takes half the CPU, a read 40 %.
# Together, since a call from compiled code into plain code costs more than one within it.
HOT = [
    *(
        f"protocol/zkpy_protocol/{name}.py"
        for name in ("framing", "multi", "quorum_packets", "records", "requests", "txns")
    ),
    *sorted(map(str, Path("zkpy/core").rglob("*.py"))),
    # It makes and walks every node: a start is a quarter faster. The rest of storage gains nothing.
    "zkpy/storage/snapshot.py",
]
# Empty; types only; a class derived from deque, which mypyc cannot compile.
PLAIN = {"__init__.py", "auth.py", "throttling.py"}


def extensions() -> list[Any]:
    """The extension modules, none where pip only asks what a build needs: mypyc is not there yet, and takes its time."""
    if not COMPILE or not {"egg_info", "dist_info"}.isdisjoint(sys.argv):
        return []
    from mypyc.build import mypycify

    hot = [path for path in HOT if Path(path).name not in PLAIN]
    # -O1 is as fast as -O2 here and compiles in half the time.
    return mypycify(hot, opt_level="1", debug_level="0", group_name="zkpy")


setup(ext_modules=extensions(), setup_requires=["mypy[mypyc]>=2.4"] if COMPILE else [])
