"""The configuration files that a reconfiguration changes, beside the static file the server was started with.

    files = ConfigFiles(fs, "/etc/zk/zoo.cfg")
    files.back_up()                                  # servers stand in the static file itself, reconfigEnabled
    files.proposed()                                 # at start: what a crash left open, or None
    files.save_proposed(membership)                  # before a proposed reconfig is acknowledged
    files.save_committed(membership, server_id)      # when it is committed

Used with reconfigEnabled only. Names and contents are Apache's, which reads them as it finds them::

    zoo.cfg                   the static file; dynamicConfigFile=<path> says which of the next is meant
    zoo.cfg.dynamic.<hex>     server, group and weight lines of that version, sorted as text; no version line,
                              no newline at the end
    zoo.cfg.dynamic.next      a proposed membership, the same with its version line, until it is committed
    zoo.cfg.bak               the static file as it was while it still held the server lines itself
    *.tmp                     half a file; means nothing

Every file is replaced whole: written under another name, synced, renamed, the directory synced. What a crash leaves:

* before `save_proposed` is through: nothing, or the proposal; a server that has it counts its quorum too from now on, and
  the next leader either completes it or replaces it by a newer one.
* in `save_committed`, before the static file is renamed: the old version and the proposal, as before; the new dynamic file is
  there without anything that names it. It is durable before the static file points at it.
* behind that: the new version. ``.next`` may still be there; it holds no higher version, so it decides nothing.

The static file loses what the dynamic file says now: server, group and weight lines, ``peerType``, ``dynamicConfigFile``, and
``clientPort`` with ``clientPortAddress`` when the server's own line has a client address. Comments go, as with Apache (the
backup has them). Unlike Apache the rest keeps its order, its escapes, and clientPortListenBacklog.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zkpy.core.membership import Membership, MembershipError, parse_membership_text
from zkpy.core.properties import parse_properties

if TYPE_CHECKING:
    from zkpy.storage.vfs import FileSystem

_NEXT = ".dynamic.next"
_BACKUP = ".bak"
_TMP = ".tmp"
_SUPERSEDED = ("server.", "group", "weight", "dynamicConfigFile", "peerType")
_CLIENT_PORT = {"clientPort", "clientPortAddress"}
_VERSION = re.compile(r"[0-9a-fA-F]{1,16}")
_LONG_MAX = 2**63 - 1
_SHORT_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
_KEY_SPECIALS = " =:#!"
_BLANK = "".join(map(chr, range(0x21)))  # what Apache trims off keys and values


class ConfigFiles:
    """The files of one server, named after its static file."""

    __slots__ = ("_fs", "_static")

    def __init__(self, fs: FileSystem, static_file: str) -> None:
        """`static_file` is absolute; symbolic links in it should be resolved, as they are in the path Apache writes."""
        self._fs = fs
        self._static = static_file

    def back_up(self) -> None:
        """Copy the static file, replacing an older copy.

        Raises:
            OSError: the copy cannot be written; an older one is still there.
        """
        self._replace(self._static + _BACKUP, self._fs.read(self._static))

    def proposed(self) -> Membership | None:
        """The membership that was proposed last and not known to be committed.

        Raises:
            MembershipError: the file does not hold one.
            OSError: it cannot be read.
        """
        path = self._static + _NEXT
        if not self._fs.exists(path):
            return None
        return parse_membership_text(self._fs.read(path).decode("latin-1"))

    def save_proposed(self, membership: Membership) -> None:
        """Remember a proposed membership; durable on return.

        Raises:
            OSError: what was proposed before may still be what is there.
        """
        lines = [*membership.lines(), f"version={membership.version:x}"]
        self._replace(self._static + _NEXT, _content(lines))

    def save_committed(self, membership: Membership, server_id: int) -> None:
        """Make a membership the one to start with; durable on return, and safe to repeat.

        Args:
            membership: what was committed.
            server_id: this server, whose client address may be in the membership.

        Raises:
            OSError: the server would start with the old membership, or with this one.
            PropertiesError: the static file was damaged in the meantime; it stays as it is.
        """
        dynamic_file = f"{self._static}.dynamic.{membership.version:x}"
        self._replace(dynamic_file, _content(membership.lines()))
        member = membership.servers.get(server_id)
        static = pointing_at(
            dynamic_file,
            self._fs.read(self._static),
            without_client_port=member is not None and member.client is not None,
        )
        self._replace(self._static, static)
        self._drop_proposed(membership.version)

    def _drop_proposed(self, version: int) -> None:
        """Remove what was proposed, unless it is newer than `version`."""
        path = self._static + _NEXT
        if not self._fs.exists(path):
            return
        try:
            proposed = self.proposed()
        except MembershipError:
            proposed = None
        if proposed is None or proposed.version <= version:
            self._fs.unlink(path)
            self._fs.sync_dir(self._directory)

    @property
    def _directory(self) -> str:
        return self._static.rpartition("/")[0] or "/"

    def _replace(self, path: str, content: bytes) -> None:
        file = self._fs.create(path + _TMP)
        try:
            file.write(content, 0)
            file.datasync()
        finally:
            file.close()
        self._fs.rename(path + _TMP, path)
        self._fs.sync_dir(self._directory)


def version_in_name(dynamic_file: str) -> int:
    """The version of a dynamic file: the hexadecimal number behind the last dot of its path; 0 when there is none."""
    _, dot, suffix = dynamic_file.rpartition(".")
    if not dot or not _VERSION.fullmatch(suffix) or int(suffix, 16) > _LONG_MAX:
        return 0
    return int(suffix, 16)


def pointing_at(dynamic_file: str, static: bytes, *, without_client_port: bool) -> bytes:
    """A static file that takes its servers from `dynamic_file`.

    Raises:
        PropertiesError: `static` cannot be read.
    """
    lines = [
        f"{_escaped_key(key)}={_escaped(value)}\n"
        for key, value in _trimmed_properties(static)
        if not key.startswith(_SUPERSEDED) and not (without_client_port and key in _CLIENT_PORT)
    ]
    return "".join([*lines, f"dynamicConfigFile={_escaped(dynamic_file)}\n"]).encode("latin-1")


def _trimmed_properties(content: bytes) -> list[tuple[str, str]]:
    return [(key.strip(_BLANK), value.strip(_BLANK)) for key, (value, _) in parse_properties(content).items()]


def _content(lines: list[str]) -> bytes:
    """Compat: sorted as text, so that server.10 stands before server.2."""
    return "\n".join(map(_escaped, sorted(lines))).encode("latin-1")


def _escaped(value: str) -> str:
    """`value`, which does not begin with a blank, so that it reads back from a Latin-1 properties file."""
    return "".join(
        _SHORT_ESCAPES.get(char) or (char if ord(char) < 0x100 else _unicode_escaped(char)) for char in value
    )


def _escaped_key(key: str) -> str:
    return "".join("\\" + char if char in _KEY_SPECIALS else _escaped(char) for char in key)


def _unicode_escaped(char: str) -> str:
    """As Java counts: a character beyond U+FFFF is two."""
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
