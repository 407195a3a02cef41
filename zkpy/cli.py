"""The command ``zkpy``: which subcommand is meant, and what its arguments are.

Owns the words on the terminal and the exit codes of a bad invocation. Arguments are told apart by hand and everything
heavy is imported by the subcommand that needs it, because a server that restarts is down until its imports are done.

Exit codes (Apache's): 0 asked to stop; 1 unexpected error; 2 bad invocation or configuration; 3 no access to the data
directory; the rest come from the server's ``run``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from zkpy import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zkpy.ops.config import ServerConfig

EXIT_OK = 0
EXIT_INVOCATION = 2

HELP = """\
zkpy: a ZooKeeper server in Python

usage:
  zkpy server [-Dname=value ...] [zoo.cfg]
  zkpy server [-Dname=value ...] <clientPort> <dataDir> [<tickTime> [<maxClientCnxns>]]
  zkpy --version
  zkpy --help

`zkpy server --help` tells more.
"""

SERVER_HELP = """\
zkpy server: run one server in the foreground, until SIGTERM or SIGINT

usage:
  zkpy server [-Dname=value ...] [zoo.cfg]
  zkpy server [-Dname=value ...] <clientPort> <dataDir> [<tickTime> [<maxClientCnxns>]]

  zoo.cfg         a configuration file of Apache ZooKeeper; zoo.cfg.example explains every key.
                  Without one: clientPort 2181, tickTime 2000, dataDir ./zkpy-data.
  clientPort ...  the short form: no file, tickTime 3000, any number of connections per address.
  -Dname=value    a Java system property as in Apache's manual, for example
                  -Dzookeeper.snapCount=10000 -Djute.maxbuffer=4194304. A key of the file wins over it.

environment:
  SERVER_JVMFLAGS, JVMFLAGS   -Dname=value options are read from both; later ones win, the command line is last.
                              What only concerns a JVM (-Xmx1g ...) is passed over.
  ZKPY_LOG_LEVEL              debug, info (default), warning or error; -Dzkpy.log.level= wins over it.

Log records go to standard error: readable on a terminal, one JSON object a line otherwise.

exit codes:
   0  stopped as asked              3  no access to the data directory
   1  unexpected error             10  a snapshot could not be written
   2  bad arguments or zoo.cfg     12  a commit that is not the next one
  13  the leader goes back to a txn that is not here: remove the data, the others have it
  14  the election port is not to be had
"""

_HELP_OPTIONS = {"-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        return _refuse("expected a subcommand", HELP)
    command, *rest = words
    if command in _HELP_OPTIONS:
        return _print(HELP)
    if command == "--version":
        return _print(f"zkpy {__version__} (in the place of Apache ZooKeeper 3.9.5)\n")
    if command == "server":
        return _server(rest)
    return _refuse(f"{command}: no such subcommand", HELP)


def _server(arguments: Sequence[str]) -> int:
    if not _HELP_OPTIONS.isdisjoint(arguments):
        return _print(SERVER_HELP)

    from zkpy.ops.config import ConfigError
    from zkpy.ops.config_loader import load_config

    try:
        config = load_config(arguments, os.environ)
    except ConfigError as error:
        return _refuse(str(error))
    from zkpy.server import run

    return run_configured(config, run)


def run_configured(config: ServerConfig, run: Callable[[ServerConfig], int]) -> int:
    """Set up logging, say what there is to say about the configuration, and run."""
    import structlog

    from zkpy.ops.logging import configure_logging

    configure_logging(config.log_level)
    log = structlog.get_logger()
    for level, event, details in config.notices:
        getattr(log, level)(event, **details)
    return run(config)


def _print(text: str) -> int:
    sys.stdout.write(text)
    return EXIT_OK


def _refuse(reason: str, usage: str = "") -> int:
    sys.stderr.write(f"zkpy: {reason}\n")
    if usage:
        sys.stderr.write(f"\n{usage}")
    return EXIT_INVOCATION
