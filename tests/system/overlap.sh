#!/bin/bash
# Laws 1 and 2 where requests overlap in flight: they take effect in their ring's order (plan.h),
# at a server that executes each command after a random time of its own, and at one that takes
# nothing longer than 8 KiB, so that they go out in chunks.
. "$(dirname "$0")/lab.sh"
lab_start
"$BUILD/nbd/late" --unix "$DIR/late.sock" --size 4194304 --delay-ms 0-6 --delay-all \
    >>"$DIR/late.log" 2>&1 &
nbd_started late $!
nbd_evil chunks 4194304 max-block=8192 trim
for name in late chunks; do disk $name "$(unix_uri $name)"; done
daemon_start
domid=900
for name in late chunks; do
    domid=$((domid + 1))
    timeout -k 5 120 "$BUILD/system/overlap" $name $domid "${REQUESTS:-6000}" $domid \
        >"$DIR/overlap.out" 2>&1 || { cat "$DIR/overlap.out"; fail "$name, seed $domid"; }
    note "$name: $(tail -1 "$DIR/overlap.out")"
done
daemon_stop
