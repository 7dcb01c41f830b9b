#!/bin/sh
# every.sh SECONDS COMMAND...: runs the command now and then again and again, that long after it was begun each time.
# That it fails is in the log and in the metrics (docs/disaster-recovery.md); the next one is made all the same.
set -eu
every=$1
shift
while :; do
    began=$(date +%s)
    "$@" || echo "every.sh: '$*' has failed with exit code $?; again in its turn" >&2
    left=$((every - ($(date +%s) - began)))
    [ "$left" -le 0 ] || sleep "$left"
done
