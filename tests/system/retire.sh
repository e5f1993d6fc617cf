#!/bin/bash
# `blkgate retire`: all disks are closed for good, at once; a guest that refuses keeps a disk that
# works, and is named; it may be run again until all are closed. Then nothing of them is left.
. "$(dirname "$0")/lab.sh"
lab_start
for name in one two three four; do
    nbd_memory $name 64M
    disk $name "$(unix_uri $name)"
done
daemon_start
blkgate() { timeout -k 5 60 "$BUILD/blkgate" "$@" >"$DIR/out" 2>&1 </dev/null; }
says() { grep -qE -- "$1" "$DIR/out" || { cat "$DIR/out"; fail "no word of \"$1\""; }; }
status_is() { [ "$1" = "$2" ] || { cat "$DIR/out"; fail "status $1 and not $2"; }; }
back() { echo "/local/domain/0/backend/qdisk/$1/51712"; }
front() { echo "/local/domain/$1/device/vbd/51712"; }
b_state_is() { [ "$(xs "$(back "$1")/state")" = "$2" ]; }
kept_files() { find "$DIR/keep" -type f 2>/dev/null | wc -l; }
mkfifo "$DIR/quiet" # nobody writes there: these guests wait for ever
exec 9<>"$DIR/quiet"
connected() { # DISK DOMID: a guest that does what the test writes for it
    "$BUILD/system/life" wait "$1" "$2" <&9 >"$DIR/guest.$2.out" 2>&1 &
    NBD_PIDS+=($!) # ended with the servers
    disown $!
    wait_for 20 grep -q ready "$DIR/guest.$2.out" || fail "guest $2 does not connect"
}
# As Linux since 5.14, in state 5 it closes whatever is mounted; before, it goes to 5 first.
lets_go() { # DOMID
    wait_for 20 b_state_is "$1" 5 || fail "guest $1 is not asked"
    xenstore-write "$(front "$1")/state" 6
}

# -- nothing to do, and wrong use -------------------------------------------------------------------
blkgate retire
status_is $? 0
says 'serves no disk any more.*systemctl disable --now blkgated'
blkgate retire nobody
status_is $? 1
says 'no domain "nobody"'
blkgate retire --timeout soon
status_is $? 100
says 'write a number of seconds'

# -- one refuses ------------------------------------------------------------------------------------
"$SIM/simguest" --disk one --domid 5 --seconds 12 --flush-every 20 >"$DIR/guest.5.out" 2>&1 &
refuser=$!
wait_for 20 b_state_is 5 4 || fail "guest 5 does not connect"
connected two 6
connected three 7
xenstore-write /local/domain/6/name lender
[ "$(kept_files)" = 3 ] || fail "kept files: $(ls "$DIR/keep")"

lets_go 6 &
blkgate retire --timeout 20 lender # one domain's
status_is $? 0
says 'Domain lender has no disk of blkgated'
wait $! || fail "guest 6 was not asked"
! xs "$(back 6)/state" && ! xs "$(front 6)/state" && ! xs /libxl/6/device/vbd/51712/backend ||
    fail "the nodes of guest 6 are still there"
b_state_is 5 4 && b_state_is 7 4 || fail "another domain's disk was retired, too"

lets_go 7 &
blkgate retire --timeout 4
status_is $? 1
says '^waiting for .*5/xvda: the guest has not answered'
says 'not done after 4 s, disks left: 1$'
says 'have not answered, and served on, or held: 1; shut these guests down'
says 'run blkgate retire again'
wait $! || fail "guest 7 was not asked"
[ "$(grep -c '^waiting for' "$DIR/out")" = 4 ] || { cat "$DIR/out"; fail "no line a second"; }
! xs "$(back 7)/state" || fail "the disk of guest 7 is still there"
b_state_is 5 5 || fail "the disk that is left is in state $(xs "$(back 5)/state")"

xenstore-write "$(front 5)/state" 5 # so Linux before 5.14 says that it is in use
blkgate retire --timeout 1 --json
status_is $? 1
says '^\{"waiting": \[\{"domid": 5, "vdev": "xvda", "disk": "one", "for": "use"\}\]\}$'
says 'still used by their guests, and served on: 1; unmount'
wait $refuser || { cat "$DIR/guest.5.out"; fail "the disk of a guest that refused did not work"; }

blkgate retire
status_is $? 0
[ "$(kept_files)" = 0 ] || fail "kept files are left: $(ls "$DIR/keep")"
blkgate list
says 'serves no disk'

# -- without a daemon -------------------------------------------------------------------------------
connected four 8
daemon_stop
lets_go 8 &
blkgate retire --timeout 2
status_is $? 1
wait $! || fail "guest 8 was not asked"
says '8/xvda: blkgated is to close it'
says 'not closed by blkgated: 1; does it run'
DAEMON_LOG=$DIR/blkgated.1.log
daemon_start # with the data of guest 8 in its kept file
blkgate retire --json
status_is $? 0
[ "$(tail -1 "$DIR/out")" = '{"waiting": []}' ] || { cat "$DIR/out"; fail "no last line"; }
[ "$(kept_files)" = 0 ] || fail "kept files are left: $(ls "$DIR/keep")"

# -- xenstored away: not the same as no disks ---------------------------------------------------------
XENSTORED_PATH=$DIR/nobody blkgate retire
status_is $? 111
says 'is xenstored running'

# -- at a terminal it asks ----------------------------------------------------------------------------
connected one 9
echo n | timeout -k 5 20 script -qec "$BUILD/blkgate retire" /dev/null >"$DIR/out" 2>&1
says 'closed for good: 1\.'
says 'nothing was done'
b_state_is 9 4 || fail "what was not wanted was done"
daemon_stop
