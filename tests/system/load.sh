#!/bin/bash
# Law 1, on every server and ABI: random scatter lists, byte-exact on both sides of the daemon.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory memory 64M
nbd_qemu qemu 64M
nbd_server nbdserver 64M
disk memory "$(unix_uri memory)"
disk qemu "$(unix_uri qemu)"
disk nbdserver "nbd://localhost:$NBD_PORT/nbdserver" # and TCP, and a name to look up
daemon_start
REQUESTS=${REQUESTS:-1500}

domid=10
for server in memory qemu nbdserver; do
    for abi in x86_64 x86_32 arm none; do
        domid=$((domid + 1))
        guest --disk $server --domid $domid --abi $abi --requests "$REQUESTS" --flush-every 40 \
            --seed $domid --mix scatter >"$DIR/guest.out" 2>&1 ||
            { cat "$DIR/guest.out"; fail "$server, $abi"; }
        gone $domid qdisk
    done
done
for mix in random seq rw70; do
    domid=$((domid + 1))
    guest --disk memory --domid $domid --requests "$REQUESTS" --mix $mix --seed $domid \
        >"$DIR/guest.out" 2>&1 || { cat "$DIR/guest.out"; fail "mix $mix"; }
done
note "$((domid - 10)) guests, $REQUESTS requests each"
daemon_stop
