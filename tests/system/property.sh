#!/bin/bash
# Law 1 as a property: at least 100,000 random legal requests on each of three real servers, every
# byte of model and guest memory compared: any scatter list, direct and indirect, discards, flushes
# with data, in one or several rings of any size, for each ABI, answered in any order; a third of them
# with the merging of neighbours as it is, and a third with each of its extremes: none, and as much as
# ever possible (the build for tests' fault merge-all: who has a neighbour at the server always waits).
. "$(dirname "$0")/lab.sh"
lab_start
echo 'queues = 4' >>"$CONFIG"
nbd_memory nbdkit 128M
nbd_qemu qemu-nbd 128M
nbd_server nbd-server 128M
disk nbdkit "$(unix_uri nbdkit)"
disk qemu-nbd "$(unix_uri qemu-nbd)"
disk nbd-server "nbd://localhost:$NBD_PORT/nbd-server"
REQUESTS=${REQUESTS:-1870} # by three ABIs, six kinds of rings, and three ways of merging

field() { sed -nE "s/.*$1: ([0-9]+).*/\\1/p" "$DIR/guest.out"; }
declare -A total indirect discards flushes
domid=100
play() { # SERVER ABI RINGS
    domid=$((domid + 1))
    guest --disk "$1" --domid $domid --abi "$2" --queues "${3%:*}" --ring-order "${3#*:}" --features \
        --requests "$REQUESTS" --seed $((domid * 7919)) --mix random --depth 32 \
        >"$DIR/guest.out" 2>&1 ||
        { cat "$DIR/guest.out"; fail "$*, merging $merging, seed $((domid * 7919))"; }
    grep -q 'wrong bytes: 0 ' "$DIR/guest.out" || fail "$*, merging $merging: wrong bytes"
    total[$1]=$((${total[$1]-0} + REQUESTS))
    indirect[$1]=$((${indirect[$1]-0} + $(field indirect)))
    discards[$1]=$((${discards[$1]-0} + $(field discards)))
    flushes[$1]=$((${flushes[$1]-0} + $(field 'flushes with data')))
}

for merging in usual nothing all; do
    [ $merging = usual ] || export BLKGATED=$BUILD/blkgated-faulty BLKGATE_FAULT=merge-$merging
    daemon_start
    for server in nbdkit qemu-nbd nbd-server; do
        for abi in x86_64 x86_32 arm; do
            for rings in 1:0 1:2 1:4 4:0 4:2 4:4; do play $server $abi $rings; done
        done
    done
    daemon_stop
done
for server in nbdkit qemu-nbd nbd-server; do
    [ "${indirect[$server]}" -gt $((total[$server] / 10)) ] && [ "${discards[$server]}" -gt 0 ] &&
        [ "${flushes[$server]}" -gt 0 ] || fail "$server: not all kinds of requests were sent"
    note "$server: ${total[$server]} requests (${indirect[$server]} indirect," \
        "${discards[$server]} discards, ${flushes[$server]} flushes with data), 0 wrong bytes"
done
