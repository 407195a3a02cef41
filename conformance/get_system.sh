#!/usr/bin/env bash
# get_system.sh kafka|hbase   bring an unmodified Kafka 3.9.2 or HBase 2.6.4-hadoop3 from Maven Central.
# Prints the directory of its jars, below $ZKPY_CONFORMANCE_CACHE (default ~/.cache/zkpy-conformance).
# Needs: mvn, java. Idempotent; safe to call from several processes.
set -euo pipefail
case ${1:-} in
kafka)
    dest=kafka-3.9.2   # the newest release of the last line with ZooKeeper mode
    wanted="org.apache.kafka:kafka_2.13:3.9.2 org.slf4j:slf4j-reload4j:1.7.36" ;;
hbase)
    dest=hbase-2.6.4-hadoop3
    wanted="org.apache.hbase:hbase-server:2.6.4-hadoop3" ;;
*) echo "usage: $0 kafka|hbase" >&2; exit 2 ;;
esac
cache=${ZKPY_CONFORMANCE_CACHE:-$HOME/.cache/zkpy-conformance}
dest=$cache/$dest
[ -f "$dest/.ok" ] && { echo "$dest"; exit 0; }
mkdir -p "$cache"
tmp=$(mktemp -d "$cache/fetch.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
{
    echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    echo '<groupId>conformance</groupId><artifactId>system</artifactId><version>1</version><dependencies>'
    for coordinates in $wanted; do
        IFS=: read -r group artifact version <<<"$coordinates"
        echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done
    echo '</dependencies></project>'
} > "$tmp/pom.xml"
mvn -q -B -Dstyle.color=never -f "$tmp/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$tmp/jars" >&2
touch "$tmp/jars/.ok"
mv -T "$tmp/jars" "$dest" 2>/dev/null || [ -f "$dest/.ok" ]   # another process may have been first
echo "$dest"
