#!/bin/bash
# Suite: system calls, copies, NBD commands, instructions of a guest request: the same every time (1 min)
#
# counts.sh BUILD OUT [--check | --keep]: writes OUT/counts.json and counts.svg. --check: what is worse than in
# tests/benchmark/counts.json fails; --keep: that file is made anew.
#
# Counted in lockstep (lockstep.c), and in the worker's turns only:
# - system calls by strace, but for an epoll_wait that found nothing: there the daemon sleeps, in the
#   very call that then brings the next event;
# - instructions by callgrind: the daemon's and its libraries', without the stand-ins for Xen's;
# - the rest by the stand-ins and by the server.
# What strace and callgrind saw is left in OUT/counts: callgrind_annotate FILE says more.
BUILD=$1 OUT=$2 option=${3-}
case $option in
'' | --check | --keep | --quick) ;; # it is quick
*) echo "counts: what is $option? --check and --keep are known" >&2; exit 100 ;;
esac
. "$(dirname "$0")/../system/lab.sh"
BENCHMARK=$ROOT/tests/benchmark
LOCKSTEP=$BUILD/benchmark/lockstep
LIVE_REQUESTS=20000

for tool in strace valgrind; do
    command -v $tool >/dev/null || fail "$tool is missing (apt-get install $tool)"
done
[ -x "$LOCKSTEP" ] || fail "there is no $LOCKSTEP: build the preset release first"

trace() { # PATTERN DEPTH
    strace -E LD_LIBRARY_PATH="$SIM/lib" -o "$OUT/counts/$1.$2.strace" "$LOCKSTEP" "$1" "$2" \
        >"$OUT/counts/$1.$2.traced"
}
# Turns are collected from the first on, so that leaving out the stand-ins is right in all of them;
# what came before the rounds that count is zeroed, and what comes after them goes to another file.
profile() { # PATTERN DEPTH
    local file=$OUT/counts/$1.$2.callgrind

    LD_LIBRARY_PATH=$SIM/lib valgrind --tool=callgrind --callgrind-out-file="$file" \
        --toggle-collect=worker_turn --toggle-collect='xengnttab_*' \
        --toggle-collect='xenevtchn_*' --zero-before=rounds_that_count \
        --dump-after=rounds_that_count "$LOCKSTEP" "$1" "$2" \
        >"$OUT/counts/$1.$2.profiled" 2>"$OUT/counts/$1.$2.valgrind" || return 1
    mv "$file.1" "$file"
}

stat_of() { "$SIM/simxen-ctl" stats | awk -v name="$1" '$1 == name {print $2}'; }
# How full a batch gets when nobody waits for anybody depends on the machine: shown, never judged. The
# kernel counts system calls without slowing them as strace would, where there is a perf.
live() { # MIX DEPTH
    local before counter calls
    before=$(stat_of grant_copy_calls)
    domid=$((${domid:-40} + 1))
    perf stat -x, -e raw_syscalls:sys_enter -p "$DAEMON_PID" -o "$DIR/perf" 2>/dev/null & counter=$!
    guest --disk memory --domid $domid --requests $LIVE_REQUESTS --depth "$2" --mix "$1" \
        --model-sectors 4096 >"$DIR/guest.out" 2>&1 || { cat "$DIR/guest.out" >&2; fail "$1, depth $2"; }
    kill -INT $counter 2>/dev/null
    wait $counter 2>/dev/null
    calls=$(awk -F, '$1 ~ /^[0-9]+$/ {print $1}' "$DIR/perf" 2>/dev/null)
    awk -v copies=$(($(stat_of grant_copy_calls) - before)) -v calls="${calls:-unknown}" \
        -v all=$LIVE_REQUESTS -v what="live, $1, depth $2" 'BEGIN {
            calls = calls == "unknown" ? "unknown (no perf)" : sprintf("%.3f", calls / all)
            printf "  %s: system calls %s, grant-copy calls %.3f\n", what, calls, copies / all}'
}

rm -rf "$OUT/counts"
mkdir -p "$OUT/counts"
lab_start
"$LOCKSTEP" --list >"$OUT/counts/rows"
while read -r pattern depth; do # one after the other: what the stand-ins count is one for all
    trace "$pattern" "$depth" && profile "$pattern" "$depth" || fail "$pattern, depth $depth"
done <"$OUT/counts/rows"
python3 "$BENCHMARK/counts.py" "$OUT" "$BENCHMARK/counts.json" "$option"
status=$?
nbd_memory memory 64M
disk memory "$(unix_uri memory)"
sed -i '/log-level/d; s/^workers = .*/workers = 1/' "$CONFIG"
daemon_start
live read4k 32
live write4k 32
daemon_stop
exit $status
