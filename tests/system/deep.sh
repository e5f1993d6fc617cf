#!/bin/bash
# Law 4: a guest whose rings hold more indirect requests than a worker has memory for is served all
# the same, and one beside it on the same worker meanwhile.
. "$(dirname "$0")/lab.sh"
lab_start
printf 'queues = 16\n' >>"$CONFIG"
for name in one two three; do
    nbd_memory $name 16M
    disk $name "$(unix_uri $name)" 'worker = 0'
done
daemon_start

guest --disk three --domid 9 --seconds 5 --features --queues 1 >"$DIR/guest.out" 2>&1 &
neighbour=$!
timeout -k 5 120 "$BUILD/system/deep" one two 900 "$DAEMON_PID" >"$DIR/deep.out" 2>&1 ||
    { cat "$DIR/deep.out"; fail "not all requests were answered"; }
note "$(cat "$DIR/deep.out")"
wait $neighbour || { cat "$DIR/guest.out"; fail "the neighbour"; }
daemon_stop
