#!/bin/bash
# Requests side by side are one command; a bad one among them is the only one that fails.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_evil evil 1048576 tell bad-sector=300 bad-sector=450
disk evil "$(unix_uri evil)"
daemon_start
timeout -k 5 120 "$BUILD/system/merge" evil 900 "$DAEMON_PID" "$DIR/evil.log" \
    >"$DIR/merge.out" 2>&1 || { cat "$DIR/merge.out"; fail "a trial"; }
note "$(tail -1 "$DIR/merge.out")"
daemon_stop
