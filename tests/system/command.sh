#!/bin/bash
# The command `blkgate`: attach and detach without a toolstack, list; what goes wrong is said, and
# leaves nothing behind.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory data 64M
disk data "$(unix_uri data)"
disk absent "$(unix_uri absent)"
daemon_start
blkgate() { "$BUILD/blkgate" "$@" >"$DIR/out" 2>&1; }
says() { grep -qE -- "$1" "$DIR/out" || { cat "$DIR/out"; fail "no word of \"$1\""; }; }
refused() { # STATUS TEXT ARGUMENTS...
    local status=$1 text=$2
    shift 2
    blkgate "$@"
    [ $? = "$status" ] || { cat "$DIR/out"; fail "blkgate $*: not status $status"; }
    says "$text"
}

blkgate --help || fail "--help"
says 'Usage: blkgate list'
blkgate --version || fail "--version"
refused 100 'what to do'
refused 100 'is not a command' attack
refused 100 'is not a command' attach 5
refused 1 'no domain "nobody"' attach nobody xvda data
blkgate list || fail "list of nothing"
says 'serves no disk'
blkgate list --json || fail "list of nothing as JSON"
says '^\[\]$'
blkgate quota || fail "quota"
says '^Domain 0 has no quota in xenstore'
blkgate quota --json || fail "quota --json"
says '^\{"domid": 0, "disks": 0, "nodes": .*, "nodes_quota": null, .*"near": false\}$'

# A domain with a disk of its own, for as long as this takes.
"$SIM/simguest" --disk data --domid 5 --vdev xvdz --devid 268441856 --until "$DIR/seen" \
    >"$DIR/guest.out" 2>&1 &
guest=$!
wait_for 10 xs /local/domain/5/device/vbd/268441856/state || fail "no guest"
xenstore-write /local/domain/5/name visitor
before=$(xenstore-ls -f /local/domain/0/backend; xenstore-ls -f /libxl 2>/dev/null)

refused 100 'no virtual device' attach -c "$CONFIG" 5 floppy data
refused 1 'no disk "nosuchdisk" in .*add a section' attach -c "$CONFIG" 5 xvdb nosuchdisk
refused 1 'not attached: cannot connect' attach -c "$CONFIG" visitor xvdb absent
refused 1 'has a xvdz already' attach -c "$CONFIG" 5 xvdz data
refused 1 'attached writable already' attach -c "$CONFIG" 5 xvdb data
after=$(xenstore-ls -f /local/domain/0/backend; xenstore-ls -f /libxl 2>/dev/null)
[ "$(echo "$before" | grep -c 51728)" = "$(echo "$after" | grep -c 51728)" ] ||
    fail "what was refused left nodes behind"

blkgate attach -c "$CONFIG" --read-only visitor xvdb data || { cat "$DIR/out"; fail "attach"; }
blkgate list || fail "list"
says '^ +5 +visitor +xvdz +qdisk +data +Connected +ready'
says '^ +5 +visitor +xvdb +vbd +data +InitWait +ready'
[ "$(xs /libxl/5/device/vbd/51728/backend)" = /local/domain/0/backend/vbd/5/51728 ] ||
    fail "libxl would not know the disk"
blkgate list --json || fail "list --json"
says '"domid": 5, "domain": "visitor", "vdev": "xvdb", "kind": "vbd", "disk": "data"'
refused 1 'has no xvdc' detach visitor xvdc
blkgate detach visitor xvdb || { cat "$DIR/out"; fail "detach"; }
: >"$DIR/seen"
wait $guest || { cat "$DIR/guest.out"; fail "the guest was disturbed"; }
! xenstore-ls -f / | grep 51728 || fail "detach left nodes behind"

# An export that the configuration does not name, where it allows that.
uri=$(unix_uri data)
refused 1 'no disk' attach -c "$CONFIG" 5 xvdb "$uri"
daemon_stop
sed -i 's/^workers = .*/&\nallow-uri = yes/' "$CONFIG"
daemon_start
"$SIM/simguest" --disk data --domid 7 --until "$DIR/seen-too" --readonly >"$DIR/guest.out" 2>&1 &
guest=$!
wait_for 10 xs /local/domain/7/device/vbd/51712/state || fail "no guest"
blkgate attach -c "$CONFIG" --read-only 7 xvdb "$uri" || { cat "$DIR/out"; fail "attach by URI"; }
blkgate detach 7 xvdb || { cat "$DIR/out"; fail "detach of what a URI names"; }
: >"$DIR/seen-too"
wait $guest || { cat "$DIR/guest.out"; fail "guest 7 was disturbed"; }

# To a guest that uses it: a new one, whose disk the command takes away by force.
"$SIM/simguest" --disk data --domid 6 --seconds 20 --timeout-ms 3000 >"$DIR/guest.out" 2>&1 &
guest=$!
wait_for 10 sh -c '[ "$(xenstore-read /local/domain/0/backend/qdisk/6/51712/state)" = 4 ]' ||
    fail "guest 6 does not connect"
# The frontend's nodes are the guest's: it may have removed them, or name what it likes there.
xenstore-write /local/domain/6/device/vbd/51712/backend /local/domain/0/backend/vbd/6/51712
blkgate detach --force 6 xvda || { cat "$DIR/out"; fail "detach --force"; }
! wait $guest || fail "the guest did not notice"
! xenstore-ls -f / | grep -q '/backend/qdisk/6/51712' || fail "detach --force left nodes behind"
daemon_stop
