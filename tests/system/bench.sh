#!/bin/bash
# The load that tests/bench puts on a disk is the one it says: as many ring requests and copies an
# I/O as there must be, every block right; and a disk that holds other data is noticed.
. "$(dirname "$0")/lab.sh"
lab_start
MIB=$((1 << 20))
"$BUILD/nbd/lean" --unix "$DIR/lean.sock" --size $((64 * MIB)) >>"$DIR/lean.log" 2>&1 &
nbd_started lean $!
"$BUILD/nbd/lean" --unix "$DIR/empty.sock" --size $((64 * MIB)) >>"$DIR/lean.log" 2>&1 &
nbd_started empty $!
for disk in 0 1 2; do disk "lean$disk" "$(unix_uri lean "d$disk")"; done
disk empty0 "$(unix_uri empty)"
daemon_start

# play DISK GUESTS OPTIONS COMMAND...: one line of JSON a command.
play() {
    local disk=$1 guests=$2 options=$3
    shift 3
    printf '%s\n' "$@" | "$BUILD/benchmark/benchguest" --disk "$disk" --guests "$guests" \
        --check-every 1 --pid "$DAEMON_PID" $options >"$DIR/out" 2>>"$DIR/guest.err" ||
        { cat "$DIR/guest.err" "$DIR/out" >&2; fail "benchguest failed on $disk"; }
}
# is NAME VALUE LINE: a figure of the answer to the LINEth command, to a fifth: not all that was begun
# in the seconds that count ends in them.
is() {
    local value
    value=$(sed -n "$(($3 + 1))p" "$DIR/out" | sed -E "s/.*\"$1\": ([0-9.]+).*/\1/")
    awk -v value="$value" -v wanted="$2" 'BEGIN {exit !(value > wanted * 0.8 && value < wanted * 1.2)}' ||
        { cat "$DIR/out" >&2; fail "command $3: $1 is $value, not $2"; }
}
nothing_wrong() {
    ! grep -qvE '"errors": 0, "wrong": 0|"ready"' "$DIR/out" || { cat "$DIR/out" >&2; fail "$1"; }
}

printf 'fill\nrun 4k-seqread 32 0.1\nrun 4k-seqread 64 0.1 merged\nrun 4k-rw70 8 0.1\n' |
    "$BUILD/benchmark/floor" --uri "$(unix_uri lean)" --first-byte $((32 * MIB)) >"$DIR/out" ||
    fail "floor failed"
[ "$(grep -c '"errors": 0' "$DIR/out")" = 3 ] || { cat "$DIR/out" >&2; fail "floor had errors"; }

bytes="--bytes $((32 * MIB))" # floor's writes, behind it, have no stamps
play lean 1 "$bytes" 'run 4k-randwrite 32 0.2' 'run scatter-write 8 0.2' 'run 64k-seqwrite 4 0.2' \
    'run 1m-seqwrite 2 0.2' 'run 4k-randread 1 0.2' 'run 4k-rw70 128 0.2' 'run scatter-read 32 0.2' \
    'run 64k-seqread 32 0.2' 'run 1m-seqread 8 0.2'
nothing_wrong "the load was not right"
is ring_requests 1 1
is copy_ops 8 2
is ring_requests 1 3
is copy_ops 17 3 # one for the list of an indirect request
is ring_requests 8 4
is grant_copy_calls 1 5
play lean 1 "$bytes --indirect 0 --ring-order 0" 'run 64k-seqread 8 0.2' 'run 1m-seqread 4 0.2'
nothing_wrong "the load without INDIRECT was not right"
is ring_requests 2 1
is copy_ops 16 1
is ring_requests 24 2
play lean 3 "$bytes" 'run 4k-rw70 32 0.2' 'run 64k-seqread 4 0.2'
nothing_wrong "the load of three guests was not right"

play empty 1 "$bytes" 'run 4k-randread 4 0.1'
! grep -q '"wrong": 0,' "$DIR/out" || fail "a disk with other data was not noticed"
daemon_stop
note "the load of tests/bench is as it says, and finds wrong data"
