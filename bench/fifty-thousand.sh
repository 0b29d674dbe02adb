#!/usr/bin/env bash
# Holds 50,000 idle connections, then speaks to all of them: each is subscribed, hears one event and has a ping answered.
#
#   bench/fifty-thousand.sh      about a minute, once all is built
#
# Where a process may hold 60,000 descriptors (ulimit -Hn) this is one gateway and one generator. Where it may not, it is three
# of each, all at the same time: the gateways on processor 0, the generators on the last one, and what counts is what the
# kernel's table of sockets shows while all of them hold.
#
# GATEWAY and LOADGEN name programs to use instead of building them. Ends with 0 if at least 50,000 connections were held at
# once and nothing was lost, 1 if not, 2 if it could not be done.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=50000
connections=51000
hold_s=20
# Connecting takes some seconds, speaking some more, and the generator gives up on what stands still for ten.
limit_s=100

fail() { printf 'bench/fifty-thousand.sh: %s\n' "$*" >&2; exit 2; }

work=$(mktemp -d)
gateways=()
generators=()
ports=()
cleanup() {
    for pid in "${generators[@]}" "${gateways[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${generators[@]}" "${gateways[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- what it takes ---------------------------------------------------------------------------------------------------

processors=$(nproc)
[ "$processors" -ge 2 ] || fail "two processors are needed: one for the gateways, one for the generators"
last=$((processors - 1))
descriptors=$(ulimit -Hn)
if [ "$descriptors" = unlimited ] || [ "$descriptors" -ge 60000 ]; then pairs=1; else pairs=3; fi
each=$((connections / pairs))
if [ "$descriptors" != unlimited ] && [ "$descriptors" -lt $((each + 1000)) ]; then
    fail "a process may hold $descriptors descriptors and needs $((each + 1000)): raise the hard limit (ulimit -Hn)"
fi
if [ -z "${GATEWAY:-}" ] || [ -z "${LOADGEN:-}" ]; then
    cargo build --quiet --release -p fluxar-gateway -p fluxar-loadgen
fi
target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
gateway="${GATEWAY:-$target_dir/release/fluxar-gateway}"
loadgen="${LOADGEN:-$target_dir/release/loadgen}"
[ -x "$gateway" ] || fail "there is no program $gateway"
[ -x "$loadgen" ] || fail "there is no program $loadgen"

# --- gateways --------------------------------------------------------------------------------------------------------

# Resident memory of all gateways together, bytes.
resident_bytes() {
    local pid kib sum=0
    for pid in "${gateways[@]}"; do
        kib=$(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB$/\1/p' "/proc/$pid/status") || return 1
        sum=$((sum + kib * 1024))
    done
    echo "$sum"
}

# Established connections at the gateways' end, from the kernel's table. While connections come, the table shows some of them
# twice, and perhaps some not at all: only a count that stays the same is one.
established() {
    local hex="" port
    for port in "${ports[@]}"; do hex+=$(printf '%04X ' "$port"); done
    awk -v ports="$hex" '
        BEGIN { count = split(ports, list, " "); for (i = 1; i <= count; i++) ours[list[i]] = 1 }
        $4 == "01" && (substr($2, 10) in ours) && !seen[$2 $3]++ { held++ }
        END { print held + 0 }' /proc/net/tcp
}

for ((pair = 0; pair < pairs; pair++)); do
    log="$work/gateway-$pair.log"
    # A port that is free is found by the kernel.
    taskset -c 0 "$gateway" --cores 1 --log off --no-log --listen tcp://127.0.0.1:0 >"$log" 2>&1 &
    gateways+=($!)
    for _ in $(seq 100); do
        grep -q '^ready' "$log" && break
        kill -0 "${gateways[pair]}" 2>/dev/null || { cat "$log" >&2; fail "the gateway did not start"; }
        sleep 0.1
    done
    grep -q '^ready' "$log" || { cat "$log" >&2; fail "the gateway is not ready after 10 s"; }
    ports+=("$(grep -o 'tcp://127.0.0.1:[0-9]*' "$log" | head -n 1 | sed 's/.*://')")
done
before_bytes=$(resident_bytes)

# --- all at once -----------------------------------------------------------------------------------------------------

printf '%d gateway(s) on processor 0, %d generator(s) of %d connections each on processor %d\n' "$pairs" "$pairs" "$each" "$last"
began=$SECONDS
for ((pair = 0; pair < pairs; pair++)); do
    # --pid, since a search for the listener would look through the descriptors of everything that runs here.
    timeout "$limit_s" "$loadgen" idle --url "tcp://127.0.0.1:${ports[pair]}" --protocol fluxar --pid "${gateways[pair]}" \
        --connections "$each" --concurrency 64 --duration "${hold_s}s" --cores "$last" --assert 'lost == 0' \
        >"$work/generator-$pair.out" 2>"$work/generator-$pair.err" &
    generators+=($!)
done

running() {
    local pid
    for pid in "${generators[@]}"; do kill -0 "$pid" 2>/dev/null && return 0; done
    return 1
}

# Counted once a second until all are in and stay: two counts that agree. Memory is read with the second one.
held=0
held_bytes=0
held_after_s=0
before=0
while [ "$held" -lt $((each * pairs)) ] && running; do
    sleep 1
    now=$(established)
    bytes=$(resident_bytes) || fail "a gateway has ended: $(cat "$work"/gateway-*.log)"
    if [ "$now" -eq "$before" ] && [ "$now" -gt "$held" ]; then
        held=$now
        held_bytes=$bytes
        held_after_s=$((SECONDS - began))
    fi
    before=$now
done

# --- what came of it -------------------------------------------------------------------------------------------------

status=0
for ((pair = 0; pair < pairs; pair++)); do
    code=0
    wait "${generators[pair]}" || code=$?
    if [ "$code" -ne 0 ]; then
        status=1
        printf 'generator %d ended with %d\n' "$pair" "$code" >&2
        cat "$work/generator-$pair.err" >&2
    fi
    cat "$work/generator-$pair.out"
done
generators=()

printf '\n%d connections held at once after %d s (wanted: %d)\n' "$held" "$held_after_s" "$wanted"
[ "$held" -ge "$wanted" ] || status=1
if [ "$held" -gt 0 ]; then
    printf '%d bytes of resident memory for each (%d KiB before, %d KiB then, of %d gateway(s) together)\n' \
        $(((held_bytes - before_bytes) / held)) $((before_bytes / 1024)) $((held_bytes / 1024)) "$pairs"
fi
if [ "$status" -eq 0 ]; then
    echo "then each was spoken to, and nothing was lost"
else
    echo "NOT all of them were held and spoken to"
fi
exit "$status"
