#!/bin/bash
# Law 1 as a property: at least 100,000 random legal requests on each of three real servers, every
# byte of model and guest memory compared: any scatter list, direct and indirect, discards, flushes
# with data, in one or several rings of any size, for each ABI, answered in any order.
. "$(dirname "$0")/lab.sh"
lab_start
echo 'queues = 4' >>"$CONFIG"
nbd_memory nbdkit 128M
nbd_qemu qemu-nbd 128M
nbd_server nbd-server 128M
disk nbdkit "$(unix_uri nbdkit)"
disk qemu-nbd "$(unix_uri qemu-nbd)"
disk nbd-server "nbd://localhost:$NBD_PORT/nbd-server"
daemon_start
REQUESTS=${REQUESTS:-5600} # by three ABIs and six kinds of rings

field() { sed -nE "s/.*$1: ([0-9]+).*/\\1/p" "$DIR/guest.out"; }
domid=100
for server in nbdkit qemu-nbd nbd-server; do
    total=0 indirect=0 discards=0 flushes=0
    for abi in x86_64 x86_32 arm; do
        for rings in 1:0 1:2 1:4 4:0 4:2 4:4; do
            domid=$((domid + 1))
            guest --disk $server --domid $domid --abi $abi --queues ${rings%:*} \
                --ring-order ${rings#*:} --features --requests "$REQUESTS" \
                --seed $((domid * 7919)) --mix random --depth 32 >"$DIR/guest.out" 2>&1 ||
                { cat "$DIR/guest.out"; fail "$server, $abi, rings $rings, seed $((domid * 7919))"; }
            grep -q 'wrong bytes: 0 ' "$DIR/guest.out" || fail "$server, $abi: wrong bytes"
            total=$((total + REQUESTS)) indirect=$((indirect + $(field indirect)))
            discards=$((discards + $(field discards)))
            flushes=$((flushes + $(field 'flushes with data')))
        done
    done
    [ "$indirect" -gt $((total / 10)) ] && [ "$discards" -gt 0 ] && [ "$flushes" -gt 0 ] ||
        fail "$server: not all kinds of requests were sent"
    note "$server: $total requests ($indirect indirect, $discards discards, $flushes flushes with" \
        "data), 0 wrong bytes"
done
daemon_stop
