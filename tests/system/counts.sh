#!/bin/bash
# What a random 4 KiB request costs in system calls (by strace) and grant-copy calls (counted in the
# stand-in) at queue depths 1 and 32. Prints figures, judges none. strace slows the daemon, which
# makes its batches fuller: the second column of each pair is a run without it.
. "$(dirname "$0")/lab.sh"
command -v strace >/dev/null || fail "strace is missing (apt-get install strace)"
lab_start
nbd_memory memory 64M
disk memory "$(unix_uri memory)"
sed -i '/log-level/d; s/^workers = .*/workers = 1/' "$CONFIG"
daemon_start
REQUESTS=20000
domid=40

stat_of() { "$SIM/simxen-ctl" stats | awk -v name="$1" '$1 == name {print $2}'; }
per_request() { awk -v n="$1" -v total="$REQUESTS" 'BEGIN {printf "%.3f", n / total}'; }
load() { # MIX DEPTH: prints grant-copy calls and notifications per request
    local calls notifies
    calls=$(stat_of grant_copy_calls) notifies=$(stat_of notifies)
    domid=$((domid + 1))
    guest --disk memory --domid $domid --requests $REQUESTS --depth "$2" --mix "$1" \
        --model-sectors 4096 >"$DIR/guest.out" 2>&1 || { cat "$DIR/guest.out" >&2; fail "$1, depth $2"; }
    echo "$(per_request $(($(stat_of grant_copy_calls) - calls)))" \
        "$(per_request $(($(stat_of notifies) - notifies)))"
}

row='%-8s %5s %13s %18s %13s %12s\n'
printf "counts: $row" pattern depth 'system calls' 'grant copies: live' 'under strace' notifies
for mix in read4k write4k; do
    for depth in 1 32; do
        read -r live_calls live_notifies < <(load $mix $depth)
        strace -f -c -U calls,name -p "$DAEMON_PID" -o "$DIR/strace.$mix$depth" 2>/dev/null &
        tracer=$!
        sleep 0.5
        read -r traced_calls _ < <(load $mix $depth)
        kill -INT $tracer
        wait $tracer 2>/dev/null
        total=$(awk '$2 == "total" {print $1}' "$DIR/strace.$mix$depth")
        printf "counts: $row" $mix $depth "$(per_request "$total")" "$live_calls" "$traced_calls" \
            "$live_notifies"
        awk -v n=$REQUESTS -v what="$mix, depth $depth" 'BEGIN {printf "counts:   of them (%s):", what}
            $1 ~ /^[0-9]+$/ && $2 != "total" && $1 > n / 100 {printf " %s %.2f", $2, $1 / n}
            END {print ""}' "$DIR/strace.$mix$depth"
    done
done
daemon_stop
