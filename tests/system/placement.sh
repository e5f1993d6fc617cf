#!/bin/bash
# A disk is placed on the worker that is least busy, not on the one with the fewest disks.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory busy 64M
nbd_memory idle 64M
disk busy "$(unix_uri busy)" 'worker = 0'
disk idle "$(unix_uri idle)" 'shared = yes'
daemon_start
guest --disk busy --domid 800 --seconds 8 --depth 32 >"$DIR/guest.out" 2>&1 &
busy=$!
wait_for 10 log_has '800/xvda .*placed on worker 0' || fail "the busy one is not where it was told to be"
sleep 2 # of work
others=()
for i in 1 2 3; do # together: by their number alone, the second one's place would be worker 0
    guest --disk idle --domid $((800 + i)) --seconds 4 --readonly >"$DIR/idle$i.out" 2>&1 &
    others+=($!)
    wait_for 10 log_has "$((800 + i))/xvda .*placed on worker" || fail "$i is not placed"
    log_has "$((800 + i))/xvda .*placed on worker 1" || fail "$i is placed beside the busy one"
done
for pid in "${others[@]}"; do wait "$pid" || fail "one of the others"; done
wait $busy || { cat "$DIR/guest.out"; fail "the busy one"; }
daemon_stop
