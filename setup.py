"""What pyproject.toml cannot say: the hot modules are compiled with mypyc where there is a C compiler.

    pip install .                     # compiled, or plain Python without a compiler and the headers of Python
    ZKPY_COMPILE=0 pip install .      # plain Python
    ZKPY_COMPILE=1 pip install .      # compiled; a missing compiler is an error

Both forms do the same and pass the same tests.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from setuptools import setup

# Every request passes through these: in process a write takes half the CPU, a read 40 %; of what a synchronous client
# costs beside the kernel, half is in the shell and the driver.
# Together, since a call from compiled code into plain code costs more than one within it.
HOT = [
    *(
        f"protocol/zkpy_protocol/{name}.py"
        for name in ("connection", "framing", "multi", "quorum_packets", "records", "requests", "txns")
    ),
    *sorted(map(str, Path("zkpy/core").rglob("*.py"))),
    # It makes and walks every node: a start is a quarter faster.
    "zkpy/storage/snapshot.py",
    "zkpy/storage/txn_log.py",
    "zkpy/storage/vfs.py",
    "zkpy/net/client_server.py",
    *(f"zkpy/runtime/{name}.py" for name in ("clock", "driver", "log_thread", "lookout", "quorum_driver")),
]
PLAIN = {
    *map(str, Path("zkpy/core").rglob("__init__.py")),  # empty
    "zkpy/core/auth.py",  # types only
    "zkpy/core/throttling.py",  # a class derived from deque, which mypyc cannot compile
    # Elections, joining and reconfiguration are rare.
    "zkpy/core/membership.py",
    "zkpy/core/pipeline/reconfig.py",
    "zkpy/core/properties.py",
    "zkpy/core/zab/election.py",
    "zkpy/core/zab/learner_sync.py",
    "zkpy/core/zab/observer_master.py",
    "zkpy/core/zab/reconfig.py",
    "zkpy/core/zab/votes.py",
}


def is_wanted() -> bool:
    """Whether to compile; not where pip only asks what a build needs."""
    if not {"egg_info", "dist_info"}.isdisjoint(sys.argv):
        return False
    choice = os.environ.get("ZKPY_COMPILE", "")
    return choice == "1" or (choice != "0" and has_compiler())


def has_compiler() -> bool:
    """Whether something that includes Python.h can be compiled here."""
    from distutils.ccompiler import new_compiler
    from distutils.errors import CCompilerError, DistutilsError
    from distutils.sysconfig import customize_compiler, get_python_inc

    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("#include <Python.h>\n")
        try:
            compiler.compile([str(source)], directory, include_dirs=[get_python_inc()])
        except (CCompilerError, DistutilsError, OSError) as error:
            sys.stderr.write(f"zkpy: no C compiler with Python's headers ({error}): plain Python\n")
            return False
    return True


def extensions() -> list[Any]:
    """The extension modules."""
    if not is_wanted():
        return []
    from mypyc.build import mypycify

    hot = [path for path in HOT if path not in PLAIN]
    # Whoever only builds may not have the dependencies; `make check` is strict.
    os.environ["MYPYPATH"] = "protocol"
    lenient = ["--config-file=", "--ignore-missing-imports"]
    # -O1 is as fast as -O2 here and compiles in half the time.
    return mypycify([*lenient, *hot], opt_level="1", debug_level="0", group_name="zkpy")


setup(ext_modules=extensions())
