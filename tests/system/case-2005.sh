#!/bin/bash
# The report that began it all: eleven segments, eight single sectors of one frame, then three of
# another; also permuted, descending and repeated; READ and WRITE; every ABI. Law 1.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory memory 16M
disk memory "$(unix_uri memory)"
daemon_start
domid=20
for abi in x86_64 x86_32 arm; do
    domid=$((domid + 1))
    guest --disk memory --domid $domid --abi $abi --case-2005 >"$DIR/guest.out" 2>&1 ||
        { cat "$DIR/guest.out"; fail "$abi"; }
    sed "s/^/case-2005: $abi: /" "$DIR/guest.out"
done
daemon_stop
