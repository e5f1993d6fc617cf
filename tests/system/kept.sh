#!/bin/bash
# The directory of the kept files: made at the start, or it is said why not; what is left of devices
# that are gone is removed by the next start, and nothing else.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory one 16M
disk one "$(unix_uri one)"
SHM=$(mktemp -d /dev/shm/bg.XXXXXX)
trap 'status=$?; rm -rf "$SHM"; (exit $status); lab_end' EXIT
said() { # STATUS REGEX CONFIG [--check]: the daemon ends by itself and says that
    LD_LIBRARY_PATH=$SIM/lib timeout -k 5 20 "$BUILD/blkgated" -c "$3" "${@:4}" >"$DIR/run.out" 2>&1
    [ $? = "$1" ] || { cat "$DIR/run.out"; fail "not status $1"; }
    grep -qE -- "$2" "$DIR/run.out" || { cat "$DIR/run.out"; fail "no word of \"$2\""; }
}
with() { # KEY VALUE: another configuration
    sed "s|^$1 = .*||; s|^\[gateway\]|&\n$1 = $2|" "$CONFIG" >"$DIR/other.conf"
    echo "$DIR/other.conf"
}

# -- where it is ------------------------------------------------------------------------------------
said 111 'not started: no files can be kept in /proc/none/keep: No such file' "$(with keep /proc/none/keep)"
: >"$DIR/file"
said 111 'not started: no files can be kept in .*/file: Not a directory' "$(with keep "$DIR/file")"
if [ "$(stat -f -c %T "$DIR")" != tmpfs ]; then
    said 0 "keep = $DIR/a/b is not on a tmpfs" "$(with keep "$DIR/a/b")" --check
    [ ! -e "$DIR/a" ] || fail "--check made a directory"
fi
sed -i "s|^keep = .*|keep = $SHM/a/keep|" "$CONFIG"
said 0 'memory = 1048576M, but keep = .* is on a tmpfs of [0-9]+M' "$(with memory 1T)" --check

# -- what is in it ----------------------------------------------------------------------------------
daemon_start
! log_has 'tmpfs' || fail "a tmpfs is complained about"
[ "$(stat -c %a "$SHM/a/keep")" = 700 ] || fail "others may look into $SHM/a/keep"
mkfifo "$DIR/quiet"
exec 9<>"$DIR/quiet"
"$BUILD/system/life" wait one 5 <&9 >"$DIR/guest.out" 2>&1 &
guest=$!
wait_for 20 grep -q ready "$DIR/guest.out" || fail "the guest does not connect"
daemon_stop
cd "$SHM/a/keep" || exit 1
[ "$(ls)" = qdisk-5-51712 ] || fail "kept files of one device: $(ls)"
stay=(qdisk-5-51712 README qdisk-06-51712 qdisk-6 qdisk-6-51712.bak qdisk-6-51712-1 blkdev-6-51712
    qdisk-99999-51712 qdisk--6-51712 .qdisk-6-51712)
touch "${stay[@]}" qdisk-6-51712 vbd-5-51712 vbd3-32751-4294967295
DAEMON_LOG=$DIR/blkgated.1.log
daemon_start
log_has 'kept files of 3 devices that are gone were removed: .*vbd-5-51712' || fail "no word of it"
[ "$(ls -A | sort)" = "$(printf '%s\n' "${stay[@]}" | sort)" ] || fail "what stayed: $(ls -A)"
echo >&9
wait $guest || { cat "$DIR/guest.out"; fail "the guest was disturbed"; }
wait_for 10 test ! -e qdisk-5-51712 || fail "the file of a device that is gone stays"
daemon_stop
