#!/usr/bin/env bash
# Starts, stops and asks a server, with the verbs, arguments, environment, output and exit codes of Apache's script.
#
#   zkServer.sh [--config DIR] {start|start-foreground|stop|version|restart|status|print-cmd} [CFG]
#
# CFG without a directory is taken from ZOOCFGDIR. zkEnv.sh lists the variables; beyond those: ZOOPIDFILE,
# ZOO_DATADIR_AUTOCREATE_DISABLE, ZOO_NOEXEC, SERVER_JVMFLAGS, JVMFLAGS (see `zkpy server --help`).

ZOOBINDIR="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

VERB="${1:-}"
case "${2:-}" in
  "") ;;
  */*) ZOOCFG="$2" ;;
  *) ZOOCFG="$ZOOCFGDIR/$2" ;;
esac

SECONDS_TO_STOP=30

# The value of key $1 in file $2; of several lines the last one counts, as for the server.
cfg_value() {
  sed -n "s/^[[:space:]]*$1[[:space:]]*[=:[:space:]][[:space:]]*\(.*\)\$/\1/p" "$2" 2>/dev/null |
    sed 's/[[:space:]]*$//' | tail -n 1
}

is_running() {
  kill -0 "$1" 2>/dev/null
}

# Answers the four letter word $3 of the server at host $1, port $2.
four_letter_word() {
  # shellcheck disable=SC2016  # expanded by the inner shell
  timeout 10 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf %s "$2" >&3 && cat <&3' "$1" "$2" "$3" 2>/dev/null
}

# The same over TLS, without a certificate of our own. The server closes when it has answered; -quiet waits for that.
four_letter_word_tls() {
  local at="$1:$2"
  case "$1" in *:*) at="[$1]:$2" ;; esac
  printf %s "$3" | timeout 10 openssl s_client -quiet -connect "$at" 2>/dev/null
}

start() {
  printf 'Starting zookeeper ... '
  local pid out
  if [ -f "$ZOOPIDFILE" ] && is_running "$(cat "$ZOOPIDFILE")"; then
    echo "already running as process $(cat "$ZOOPIDFILE")."
    return 1
  fi
  mkdir -p "$ZOO_LOG_DIR"
  out="$ZOO_LOG_DIR/zookeeper-${USER:-$(id -un)}-server-${HOSTNAME:-$(uname -n)}.out"
  nohup "$ZKPY" server "$ZOOCFG" >>"$out" 2>&1 </dev/null &
  pid=$!
  if ! { printf %s "$pid" >"$ZOOPIDFILE"; } 2>/dev/null; then
    echo "FAILED TO WRITE PID"
    return 1
  fi
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.1
    if ! is_running "$pid"; then
      echo "FAILED TO START"
      echo "The reason is in $out" >&2
      return 1
    fi
  done
  echo STARTED
}

# Compat: nothing to stop is a success, and so is a process that is gone already.
stop() {
  printf 'Stopping zookeeper ... '
  local pid
  if [ ! -f "$ZOOPIDFILE" ]; then
    echo "no zookeeper to stop (could not find file $ZOOPIDFILE)"
    return 0
  fi
  pid="$(cat "$ZOOPIDFILE")"
  kill "$pid"
  for ((tenths = 0; tenths < SECONDS_TO_STOP * 10; tenths++)); do
    if ! is_running "$pid"; then
      rm -f "$ZOOPIDFILE"
      echo STOPPED
      return 0
    fi
    sleep 0.1
  done
  echo "process $pid is still running after $SECONDS_TO_STOP s"
  return 1
}

# Sets port, host and is_tls to where this server is reached; fails if the configuration does not say.
find_client_port() {
  local my_id client file
  is_tls=false
  host="$(cfg_value clientPortAddress "$ZOOCFG")"
  port="$(cfg_value clientPort "$ZOOCFG")"
  if [ -z "$port" ] && my_id="$(cat "$ZOO_DATADIR/myid" 2>/dev/null)"; then
    for file in "$ZOOCFG" "$(cfg_value dynamicConfigFile "$ZOOCFG")"; do
      client="$(cfg_value "server\\.$my_id" "$file" | sed -n 's/^[^;]*;[[:space:]]*\([^;]*\).*$/\1/p')"
      if [ -n "$client" ]; then
        port="${client##*:}"
        [ "$port" = "$client" ] || host="${client%:*}"
        break
      fi
    done
  fi
  if [ -z "$port" ]; then
    is_tls=true
    host="$(cfg_value secureClientPortAddress "$ZOOCFG")"
    port="$(cfg_value secureClientPort "$ZOOCFG")"
  fi
  host="${host#[}"
  host="${host%]}"
  host="${host:-localhost}"
  [ -n "$port" ]
}

status() {
  local port host is_tls mode
  if ! find_client_port; then
    echo "No client port and no secure client port in $ZOOCFG."
    return 1
  fi
  echo "Client port found: $port. Client address: $host. Client SSL: $is_tls."
  if [ "$is_tls" = true ]; then
    mode="$(four_letter_word_tls "$host" "$port" srvr | grep '^Mode: ')"
  else
    mode="$(four_letter_word "$host" "$port" srvr | grep '^Mode: ')"
  fi
  if [ -z "$mode" ]; then
    echo "Error contacting service. It is probably not running."
    return 1
  fi
  echo "$mode"
}

echo "Using config: $ZOOCFG" >&2

ZOO_DATADIR="$(cfg_value dataDir "$ZOOCFG")"
ZOO_DATALOGDIR="$(cfg_value dataLogDir "$ZOOCFG")"

case "$VERB" in
  start | start-foreground | restart)
    if [ -n "${ZOO_DATADIR_AUTOCREATE_DISABLE:-}" ]; then
      for directory in "$ZOO_DATADIR" "${ZOO_DATALOGDIR:-$ZOO_DATADIR}"; do
        if [ ! -d "$directory/version-2" ]; then
          echo "There is no data directory $directory/version-2, and it is not to be created."
          exit 1
        fi
      done
      # In front: what the operator says in the flags counts more.
      SERVER_JVMFLAGS="-Dzookeeper.datadir.autocreate=false ${SERVER_JVMFLAGS:-}"
    fi
    if [ -n "${ZOOPIDFILE:-}" ]; then
      mkdir -p "$(dirname "$ZOOPIDFILE")"
    elif [ -n "$ZOO_DATADIR" ]; then
      mkdir -p "$ZOO_DATADIR"
    elif [ "$VERB" != start-foreground ]; then
      # No place for the pid file; the server would refuse this configuration as well.
      echo "Starting zookeeper ... FAILED TO START"
      echo "There is no dataDir in $ZOOCFG" >&2
      exit 1
    fi
    ;;
esac
ZOOPIDFILE="${ZOOPIDFILE:-$ZOO_DATADIR/zookeeper_server.pid}"

case "$VERB" in
  start)
    start
    ;;
  start-foreground)
    if [ -n "${ZOO_NOEXEC:-}" ]; then
      "$ZKPY" server "$ZOOCFG"
    else
      exec "$ZKPY" server "$ZOOCFG"
    fi
    ;;
  stop)
    stop
    ;;
  restart)
    stop && start
    ;;
  status)
    status
    ;;
  version)
    "$ZKPY" --version
    ;;
  print-cmd)
    printf '"%s" server "%s"\n' "$ZKPY" "$ZOOCFG"
    ;;
  *)
    # Compat: exit code 0.
    echo "Usage: $0 [--config <conf-dir>] {start|start-foreground|stop|version|restart|status|print-cmd} [zoo.cfg]" >&2
    ;;
esac
