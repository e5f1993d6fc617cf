#!/bin/bash
# Law 4: a guest that breaks every rule fails only itself; its neighbour's bytes stay right, and the
# log is not flooded.
. "$(dirname "$0")/lab.sh"
lab_start
printf 'queues = 4\nring-page-order = 2\n' >>"$CONFIG"
nbd_memory good 64M
nbd_memory bad 64M
disk good "$(unix_uri good)"
disk bad "$(unix_uri bad)"
daemon_start
SECONDS_LONG=${SECONDS_LONG:-20}

for abi in x86_64 x86_32; do
    # One page and one queue, or more of both.
    rings=()
    [ $abi = x86_64 ] || rings=(--queues 2 --ring-order 1)
    guest --disk good --domid 7 --seconds "$SECONDS_LONG" --seed 7 --flush-every 50 \
        >"$DIR/good.out" 2>&1 &
    good=$!
    guest --disk bad --domid 66 --abi $abi "${rings[@]}" --hostile --seconds "$SECONDS_LONG" \
        --seed 3 >"$DIR/bad.out" 2>&1 || { cat "$DIR/bad.out"; fail "the hostile guest saw a wrong answer"; }
    wait $good || { cat "$DIR/good.out"; fail "the neighbour"; }
    sed "s/^/hostile: $abi: /" "$DIR/bad.out" | tail -3
    sed "s/^/hostile: neighbour: /" "$DIR/good.out" | tail -1
done
lines=$(grep -vc debug "$DAEMON_LOG")
note "$lines lines logged"
[ "$lines" -lt $((40 * SECONDS_LONG)) ] || fail "the log is flooded: $lines lines"
# What was read once is what is read at the end: a read-only disk was not written to, nor trimmed.
guest --disk bad --domid 67 --readonly --hostile --requests 1000 --seed 4 >"$DIR/bad.out" 2>&1 ||
    { cat "$DIR/bad.out"; fail "the hostile guest with a read-only disk saw a wrong answer"; }
sed "s/^/hostile: read-only: /" "$DIR/bad.out" | tail -1
# Who was hostile may come back.
guest --disk bad --domid 66 --requests 500 --seed 5 >"$DIR/again.out" 2>&1 ||
    { cat "$DIR/again.out"; fail "the disk is of no use after the hostile guest"; }
daemon_stop
