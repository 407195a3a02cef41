#!/usr/bin/env bash
# Where things are: sourced by zkServer.sh, and by scripts of others that expect Apache ZooKeeper's variables.
#
# Reads ZOOBINDIR (default: the directory of this file) and takes "--config DIR" off the positional parameters. Sets
#   ZOOCFGDIR      directory of configuration files: as given, else ../conf, else /etc/zookeeper, else the checkout
#   ZOOCFG         the configuration file with its directory; the name alone may be given, default zoo.cfg
#   ZOO_LOG_DIR    where the output of a server in the background goes, default ../logs
#   ZKPY           the zkpy command: as given, else ../.venv/bin/zkpy, else the one on PATH
# and reads $ZOOCFGDIR/zookeeper-env.sh and $ZOOCFGDIR/java.env, where operators keep SERVER_JVMFLAGS and the like.

ZOOBINDIR="${ZOOBINDIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}"
ZOOKEEPER_PREFIX="$(cd "$ZOOBINDIR/.." && pwd)"

if [ "${1:-}" = "--config" ] && [ $# -gt 1 ]; then
  ZOOCFGDIR="$2"
  shift 2
fi

if [ -z "${ZOOCFGDIR:-}" ]; then
  ZOOCFGDIR="$ZOOKEEPER_PREFIX"
  for candidate in "$ZOOKEEPER_PREFIX/conf" /etc/zookeeper; do
    if [ -d "$candidate" ]; then
      ZOOCFGDIR="$candidate"
      break
    fi
  done
fi

for settings in "$ZOOCFGDIR/zookeeper-env.sh" "$ZOOCFGDIR/java.env"; do
  if [ -f "$settings" ]; then
    . "$settings"
  fi
done

ZOOCFG="${ZOOCFG:-zoo.cfg}"
case "$ZOOCFG" in
  */*) ;;
  *) ZOOCFG="$ZOOCFGDIR/$ZOOCFG" ;;
esac

ZOO_LOG_DIR="${ZOO_LOG_DIR:-$ZOOKEEPER_PREFIX/logs}"

if [ -z "${ZKPY:-}" ]; then
  ZKPY="$ZOOKEEPER_PREFIX/.venv/bin/zkpy"
  [ -x "$ZKPY" ] || ZKPY=zkpy
fi

# The server reads them from its environment; java.env usually sets them without exporting.
export SERVER_JVMFLAGS JVMFLAGS
