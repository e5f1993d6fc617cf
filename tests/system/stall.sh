#!/bin/bash
# Laws 4 and 10: a server that stops answering costs its guest no more than the time to close, and
# others nothing. The first disks are held for a second only, so that a flush that fails ends them.
. "$(dirname "$0")/lab.sh"
STALL=$BUILD/system/stall
lab_start
echo "queues = 16" >>"$CONFIG" # for trial tangle
for name in flush flush-killed broken broken-killed mute deep; do
    disk $name "$(unix_uri $name)" 'on-loss = hold 1s'
done
for ((i = 0; i <= 20; i++)); do # of which the last 20 hoard, in the first's worker
    disk hoard$((i > 0 ? i : 0)) "$(unix_uri hoard$((i > 0 ? 1 : 0)) $i)" 'worker = 0'
done
daemon_start

domid=100
trial() { # TRIAL DISK [ARGUMENTS...]
    local trial=$1 name=$2
    shift 2
    domid=$((domid + 1))
    timeout -k 5 60 "$STALL" "$trial" --disk "$name" --domid $domid "$@" >"$DIR/trial.out" 2>&1 ||
        { cat "$DIR/trial.out"; fail "$name"; }
    daemon_alive
    note "$name: $(tail -1 "$DIR/trial.out")"
}

# -- a second failure comes after the one that ended the disk's service ---------------------------
for trial in flush broken; do
    faults=(stall)
    [ $trial = broken ] || faults=(flush-eio stall=3) # a write, the flush, and then nothing
    nbd_evil $trial 1048576 "${faults[@]}"
    trial $trial $trial
    nbd_evil $trial-killed 1048576 "${faults[@]}"
    trial $trial $trial-killed --kill "$NBD_PID"
done

# -- a guest that breaks its ring and never closes costs no CPU time -------------------------------
nbd_evil mute 1048576
trial mute mute --daemon "$DAEMON_PID"

# -- what one guest may have at a server, and in its worker's memory (proto/limits.h) -------------
nbd_evil deep 1048576 stall
trial deep deep
[ "$(grep -c stalled "$DIR/deep.log")" = 64 ] ||
    fail "$(grep -c stalled "$DIR/deep.log") commands of one disk are at its server"
# More than the worker's memory holds, at servers that keep it: who has none of it is served.
nbd_memory hoard0 1M
nbd_evil hoard1 1048576 stall
trial hoard hoard
trial gorge hoard
trial tangle hoard --daemon "$DAEMON_PID"
daemon_stop
