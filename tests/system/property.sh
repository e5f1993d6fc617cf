#!/bin/bash
# Law 1 as a property: at least 100,000 random legal requests (any scatter list, any order of
# answers) on each of three real servers, every byte of model and guest memory compared.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory nbdkit 128M
nbd_qemu qemu-nbd 128M
nbd_server nbd-server 128M
disk nbdkit "$(unix_uri nbdkit)"
disk qemu-nbd "$(unix_uri qemu-nbd)"
disk nbd-server "nbd://localhost:$NBD_PORT/nbd-server"
daemon_start
REQUESTS=${REQUESTS:-34000} # by three ABIs

domid=100
for server in nbdkit qemu-nbd nbd-server; do
    total=0
    for abi in x86_64 x86_32 arm; do
        domid=$((domid + 1))
        guest --disk $server --domid $domid --abi $abi --requests "$REQUESTS" --flush-every 100 \
            --seed $((domid * 7919)) --mix random --depth 32 >"$DIR/guest.out" 2>&1 ||
            { cat "$DIR/guest.out"; fail "$server, $abi, seed $((domid * 7919))"; }
        grep -q 'wrong bytes: 0 ' "$DIR/guest.out" || fail "$server, $abi: wrong bytes"
        total=$((total + REQUESTS))
    done
    note "$server: $total requests, 0 wrong bytes"
done
daemon_stop
