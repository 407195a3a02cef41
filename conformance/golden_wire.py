#!/usr/bin/env python3
"""Golden wire: 435 recorded exchanges with Apache ZooKeeper 3.9.5, compared byte by byte with the server under test.

    golden_wire.py                              zkpy, all three profiles
    golden_wire.py --profile sasl               one of them
    golden_wire.py --server apache:3.9.5        Apache against its own recording
    golden_wire.py --server apache:3.9.5 --out FILE    a new recording

Each profile gets a fresh server on an empty data directory. Exit code: 0 all equal, 1 some differ (they are shown).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # also when imported from the repository's root

import capture_client_wire as wire  # noqa: E402

GOLDEN = HERE.parent / "protocol/vectors/client-wire-3.9.5.json"
PROFILES = ("default", "full", "sasl")
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="  # super:test
JAAS = """Server {
  org.apache.zookeeper.server.auth.DigestLoginModule required
  user_super="adminsecret"
  user_bob="bobsecret";
};
"""


def settings(profile: str, directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """zoo.cfg keys and system properties of a profile; writes the JAAS file that `sasl` needs."""
    # The values a server takes when its file does not say: the recording was made without these keys.
    config = {"maxClientCnxns": "60", "4lw.commands.whitelist": "srvr"}
    properties = {}
    if profile == "full":
        config |= {"extendedTypesEnabled": "true", "enforceQuota": "true", "4lw.commands.whitelist": "*"}
        properties["zookeeper.DigestAuthenticationProvider.superDigest"] = SUPER_DIGEST
    if profile == "sasl":
        jaas = directory / "jaas.conf"
        jaas.write_text(JAAS)
        config["authProvider.1"] = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
        properties |= {"java.security.auth.login.config": str(jaas), "zookeeper.fips-mode": "false"}
    return config, properties


def run_profile(kind: str, profile: str, directory: Path) -> list[dict]:
    """The vectors of one profile, exchanged with a fresh server of this kind."""
    from harness import Zk

    directory.mkdir(parents=True)
    config, properties = settings(profile, directory)
    server = Zk(directory / "server", kind, config=config, properties=properties).start()
    try:
        return wire.run_all(("127.0.0.1", server.port), profile, cut_short)
    finally:
        server.stop()


def cut_short(scenario: str, error: Exception) -> None:
    print(f"{scenario} could not go on after a wrong answer: {error!r}", file=sys.stderr)


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--server", default="zkpy", help="zkpy, or apache:VERSION")
    ap.add_argument("--profile", choices=PROFILES, action="append", help="only this one (may be repeated)")
    ap.add_argument("--golden", type=Path, default=GOLDEN)
    ap.add_argument("--names", action="store_true", help="of the vectors that differ, print only the names")
    ap.add_argument("--out", type=Path, help="write what the server answered")
    a = ap.parse_args()
    from harness import work_directory

    recorded, wrong, total = [], 0, 0
    with work_directory("golden-wire") as directory:
        for profile in a.profile or PROFILES:
            golden = wire.load(str(a.golden), profile)
            vectors = run_profile(a.server, profile, directory / profile)
            found = wire.differences(golden, vectors)
            for name, text in found:
                print(f"DIFF {name}" if a.names else f"DIFF {name}: {text}")
            print(f"{profile}: {len(golden) - len(found)} of {len(golden)} vectors equal, {len(found)} differ", flush=True)
            recorded += vectors
            wrong += len(found)
            total += len(golden)
    if a.out:
        a.out.write_text(json.dumps({"server": a.server, "captured_by": "conformance/golden_wire.py", "vectors": recorded}, indent=1) + "\n")
    print(f"{total - wrong} of {total} vectors equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
