#!/usr/bin/env bash
# Measures what is stored (qos 1) beside JetStream, Redis streams and mosquitto, at levels that promise the same: about ten
# minutes; then what a session costs that returns. Options, records and exit codes are those of bench/peers.sh, which does the
# work, and refuses a directory that is in memory, or on a disk that cannot mean it when it says that something is written.
#
#   bench/stored.sh              the campaign, which says whether what it asserts held
#   bench/stored.sh --quick      one repeat of a second each: to see that everything works; nothing is recorded
#   TMPDIR=DIR bench/stored.sh   with the servers' directories on the disk of DIR, which is the one that is measured
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
bench/peers.sh "$@" stored || status=$?
# Without figures of the one, none of the other.
[ "$status" -le 1 ] || exit "$status"
printf '\n== %s\n' "sessions that return"
cargo bench --quiet -p fluxar-gateway --bench resume || status=1
exit "$status"
