#!/usr/bin/env bash
# Measures streams, and services that the gateway connects to beside such as connect to it: about five minutes. Options,
# records and exit codes are those of bench/peers.sh, which does the work; no peer is installed for it.
#
#   bench/streams.sh             both campaigns
#   bench/streams.sh --quick     one repeat of a second each: to see that everything works; nothing is recorded
set -euo pipefail
exec "$(dirname "$0")/peers.sh" "$@" streams upstream
