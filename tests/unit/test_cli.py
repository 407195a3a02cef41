"""The command line: which subcommand runs, what it prints, and its exit codes."""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from zkpy import __version__, cli, ensemble, server
from zkpy.ops.config_loader import config_from_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zkpy.ops.config import ServerConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Logging as it was, after a test that runs the command to its end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    for module in (ensemble, server):
        vars(module.log).pop("bind", None)  # a logger remembers the configuration of its first use
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_goes_to_standard_output(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([option]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("zkpy: a ZooKeeper server")
    assert printed.err == ""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["-Dx=y", "zoo.cfg", "--help"]])
def test_the_server_explains_its_own_arguments(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["server", *arguments]) == 0
    assert "<clientPort> <dataDir>" in capsys.readouterr().out


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zkpy {__version__} (in the place of Apache ZooKeeper 3.9.5)\n"


@pytest.mark.parametrize(
    ("arguments", "reason"), [([], "expected a subcommand"), (["serve"], "serve: no such subcommand")]
)
def test_a_bad_subcommand_is_refused_with_the_usage(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"zkpy: {reason}\n")
    assert "usage:" in printed.err
    assert printed.out == ""


def test_a_bad_configuration_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zoo.cfg"
    file.write_text("dataDir=/var/zk\ntickTime=fast\n")
    assert cli.main(["server", str(file)]) == 2
    assert capsys.readouterr().err == f"zkpy: {file}:2: tickTime=fast: expected a whole number\n"


def test_arguments_default_to_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["zkpy", "--version"])
    assert cli.main() == 0
    assert __version__ in capsys.readouterr().out


def test_the_server_runs_with_its_configuration_after_the_notices_are_logged(
    restored_logging: None, capfd: pytest.CaptureFixture[str]
) -> None:
    ran: list[ServerConfig] = []

    def run(config: ServerConfig) -> int:
        ran.append(config)
        return 3

    config = config_from_text("dataDir=/var/zk\nsnapcount=5\noraclePath=/o\n")
    assert cli.run_configured(config, run) == 3
    assert ran == [config]
    records = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(record["level"], record["event"], record["keys"]) for record in records] == [
        ("info", "config.keys_without_effect", ["oraclePath"]),
        ("warning", "config.unknown_keys", ["snapcount"]),
    ]


def test_the_exit_code_is_the_servers(
    restored_logging: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["server", "0", str(tmp_path / "file" / "data")]) == 3  # no access to the data directory
    events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert events == ["server.starting", "server.cannot_start"]


def test_the_package_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in ((["--version"], 0), (["serve"], 2)):
        monkeypatch.setattr(sys, "argv", ["zkpy", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("zkpy", run_name="__main__")
        assert ended.value.code == code
    assert __version__ in capsys.readouterr().out


def test_nothing_heavy_is_imported_before_the_configuration_is_known() -> None:
    """A server is down until its imports are done, and a wrong zoo.cfg should be refused at once."""
    script = "import sys, zkpy.cli; sys.exit(zkpy.cli.main(['server', '/nowhere/zoo.cfg']) != 2 or 'asyncio' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protocol'}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=environ)
    assert done.returncode == 0
