#!/usr/bin/env bash
# Measures what is stored (qos 1) beside JetStream, Redis streams and mosquitto, at levels that promise the same: about ten
# minutes. Options, records and exit codes are those of bench/peers.sh, which does the work.
#
#   bench/stored.sh              the campaign, which says whether what it asserts held
#   bench/stored.sh --quick      one repeat of a second each: to see that everything works; nothing is recorded
#   TMPDIR=DIR bench/stored.sh   with the servers' directories on the disk of DIR, which is the one that is measured
set -euo pipefail
directory="${TMPDIR:-/tmp}"
kind=$(stat -f -c %T "$directory")
case "$kind" in
    tmpfs | ramfs)
        printf 'bench/stored.sh: %s is in memory (%s), where a sync costs nothing: set TMPDIR to a directory on a disk\n' \
            "$directory" "$kind" >&2
        exit 2
        ;;
esac
exec "$(dirname "$0")/peers.sh" "$@" stored
