#!/bin/bash
# pygrub: for it libxl attaches the guest's disk to domain 0 itself, frontend and backend in one
# domain, and takes it away before the guest gets it. Real I/O, by etc/block-blkgate.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory root 64M
disk root "$(unix_uri root)"
daemon_start
disk_of() { # DOMID ARGUMENTS...: as libxl attaches it
    local domid=$1
    shift
    guest --disk root --domid "$domid" --kind vbd --script "$ROOT/etc/block-blkgate" --run \
        --timeout-ms 8000 "$@" >"$DIR/guest$domid.out" 2>&1
}
state_is() { [ "$(xs "$1/state")" = "$2" ]; }
zero=/local/domain/0/backend/vbd/0/51712 five=/local/domain/0/backend/vbd/5/51712

for turn in 1 2; do
    disk_of 0 --seconds 6 --seed $turn --features --flush-every 50 &
    pygrub=$!
    wait_for 10 state_is $zero 4 || { cat "$DIR/guest0.out"; fail "domain 0 is not connected"; }
    # One export is never writable twice (hazard M4), whoever comes second.
    ! disk_of 5 --requests 10 || fail "the guest got a disk that domain 0 has"
    log_has "5/xvda .*attached writable already, as 0/xvda" || fail "and it was not said why"
    state_is $zero 4 || fail "domain 0 was disturbed"
    xenstore-rm $five
    xenstore-rm /local/domain/5
    wait $pygrub || { cat "$DIR/guest0.out"; fail "I/O in domain 0"; }
    wait_for 5 log_has "0/xvda .*closed" || fail "domain 0's disk is not closed"
    gone 0
    disk_of 5 --requests 2000 --seed 9 || { cat "$DIR/guest5.out"; fail "the guest, after domain 0"; }
    note "domain 0: $(head -1 "$DIR/guest0.out")"
    note "guest: $(head -1 "$DIR/guest5.out")"
done
# The worst scatter lists, and a frontend that breaks every rule: from domain 0 as from any other.
disk_of 0 --case-2005 || { cat "$DIR/guest0.out"; fail "case-2005 in domain 0"; }
disk_of 0 --hostile --seconds 5 --seed 3 || { cat "$DIR/guest0.out"; fail "a hostile domain 0"; }
disk_of 0 --requests 500 --reconnect 3 || { cat "$DIR/guest0.out"; fail "domain 0, again and again"; }
gone 0
daemon_stop
