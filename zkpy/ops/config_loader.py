"""The configuration of a server out of its command line, its environment and its file.

    config = load_config(["-Dzookeeper.snapCount=500", "zoo.cfg"], os.environ)

Owns the forms of the command line and the order of the steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zkpy.ops import config_rules, ensemble_rules
from zkpy.ops.config import SECTIONS, ConfigError, ServerConfig
from zkpy.ops.config_sources import Setting, Sources, jvm_properties, read_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What `zkpy server` without a file runs with.
BUILT_IN_FILE = b"tickTime=2000\ndataDir=./zkpy-data\nclientPort=2181\n"


def load_config(arguments: Sequence[str], environ: Mapping[str, str]) -> ServerConfig:
    """Read what the arguments of ``zkpy server`` and the environment say.

    Args:
        arguments: ``-Dname=value`` options and either one file, or ``clientPort dataDir [tickTime] [maxClientCnxns]``,
            or nothing.
        environ: SERVER_JVMFLAGS, JVMFLAGS and ZKPY_LOG_LEVEL are read from it.

    Raises:
        ConfigError: the server cannot start this way.
    """
    options = [argument for argument in arguments if argument.startswith("-")]
    positional = [argument for argument in arguments if not argument.startswith("-")]
    properties: dict[str, Setting] = {}
    if level := environ.get("ZKPY_LOG_LEVEL"):
        properties["zkpy.log.level"] = Setting(level, "ZKPY_LOG_LEVEL")
    for variable in ("SERVER_JVMFLAGS", "JVMFLAGS"):
        # Split as an unquoted shell variable is: at white space, quotes mean nothing.
        properties.update(jvm_properties(environ.get(variable, "").split(), variable))
    for option in options:
        if not option.startswith("-D") or option == "-D":
            raise ConfigError(f"{option}: expected -Dname=value")
    properties.update(jvm_properties(options, "command line"))

    if not positional:
        return _config(Sources(BUILT_IN_FILE, None, properties))
    if len(positional) == 1:
        file = str(Path(positional[0]).absolute())
        return _config(Sources(read_file(file), file, properties))
    return _from_positional(positional, properties)


def config_from_text(
    content: bytes | str,
    properties: Mapping[str, str] | None = None,
    *,
    file: str = "zoo.cfg",
) -> ServerConfig:
    """Read a configuration that is in memory; ``properties`` are full names, as behind ``-D``."""
    settings = {name: Setting(value, "-D") for name, value in (properties or {}).items()}
    raw = content if isinstance(content, bytes) else content.encode("latin-1")
    return _config(Sources(raw, str(Path(file).absolute()), settings))


def _from_positional(positional: Sequence[str], properties: Mapping[str, Setting]) -> ServerConfig:
    """The short form. Compat: connections of one address are not limited unless the fourth argument says so."""
    if len(positional) > 4:
        raise ConfigError(f"{positional[4]}: expected at most clientPort dataDir tickTime maxClientCnxns")
    names = ("clientPort", "dataDir", "tickTime", "maxClientCnxns")
    settings = {"maxClientCnxns": "0", **dict(zip(names, positional, strict=False))}
    static = {name: Setting(value, "command line") for name, value in settings.items()}
    return _config(Sources(b"", None, properties, static))


def _config(sources: Sources) -> ServerConfig:
    sources.notice_keys_without_effect()
    sections = {name: sources.values_of(cls) for name, cls in SECTIONS.items()}
    server = sources.values_of(ServerConfig)
    config_rules.complete_auth(sections["auth"], sources)
    config_rules.complete_server(server, sources)
    ensemble_rules.complete_ensemble(sections["ensemble"], server, sources)
    server |= {name: cls(**sections[name]) for name, cls in SECTIONS.items()}
    return ServerConfig(
        **server,
        config_file=sources.file,
        config_text=sources.content.decode("latin-1"),
        system_properties={name: value for name, (value, _) in sorted(sources.properties.items())},
        notices=tuple(sources.notices),
    )
