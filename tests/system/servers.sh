#!/bin/bash
# What the tests of recovery rest on: servers that crash, hang and come back do what lab-servers.sh
# says of them. Its clients are qemu-io and, for late under load, the daemon with a guest.
. "$(dirname "$0")/lab.sh"
. "$(dirname "$0")/lab-servers.sh"
lab_start

# A client that does not flush when it leaves; io_flushed does.
io() { # NAME COMMAND...
    local name=$1 command commands=()
    shift
    for command in "$@"; do commands+=(-c "$command"); done
    timeout -k 5 20 qemu-io -t writeback -f raw "${commands[@]}" -c 'sigraise 9' \
        "$(server_uri "$name")" >"$DIR/io.out" 2>&1
    grep -qE '^(wrote|read) ' "$DIR/io.out" &&
        ! grep -qiE 'failed|error' "$DIR/io.out"
} 2>/dev/null # bash tells of the SIGKILL
io_flushed() { io "$@" flush; }
must() { "$@" || { cat "$DIR/io.out"; fail "$*"; }; }
durable() { # IMAGE OFFSET BYTE: a page of it in the file
    [ "$(od -An -v -tu1 -w1 -j"$2" -N4096 "$DIR/$1.img" | sort -u | tr -d ' ')" = "$3" ]
}

# -- a crash loses the cache, and nothing else ----------------------------------------------------
loses_its_cache() {
    must io_flushed "$1" 'write -P 1 0 4k' 'write -P 1 4k 4k'
    must durable cached 0 1
    must io "$1" 'write -P 2 0 4k'
    must io "$1" 'read -P 2 0 4k' # any client sees it
    must durable cached 0 1
    server_restart "$1"
    must io "$1" 'read -P 1 0 8k'
    server_stop "$1"
    note "$1: flushed is kept, the rest is lost"
}
image cached 16M
server_cached nbdkit cached
server_start nbdkit
loses_its_cache nbdkit
rm "$DIR/cached.img"
image cached 16M
server_late late cached --volatile
server_start late
loses_its_cache late

# -- without a cache: whatever serves the image serves the same bytes ------------------------------
image common 16M
SERVER_AT[port]=127.0.0.1:$(free_port)
server_file file common
server_qemu qemu common
server_late late common
server_late port common
server_evil evil common trim
server_start file qemu late port evil
byte=1
for one in file qemu late port evil; do
    must io $one "write -P $byte 64k 4k"
    for two in file qemu late port evil; do must io $two "read -P $byte 64k 4k"; done
    byte=$((byte + 1))
done
server_crash file qemu late port evil # not one of them had a cache
must durable common 65536 5
server_start late qemu

# -- a hung server accepts, and answers nothing ---------------------------------------------------
server_pause late
! timeout -k 5 2 qemu-io -r -f raw -c 'read 0 4k' "$(server_uri late)" >/dev/null 2>&1 ||
    fail "a paused server answers"
server_resume late
must io late 'read -P 5 64k 4k'

# -- the same name, another kind, and back --------------------------------------------------------
server_crash late
server_evil late common silent
server_start late
! timeout -k 5 2 qemu-io -r -f raw -c 'read 0 4k' "$(server_uri late)" >/dev/null 2>&1 ||
    fail "a silent server answers"
server_crash late
server_late late common
server_start late
late_say late write=ENOSPC
! io late 'write -P 9 64k 4k' || fail "a write to a full disk"
late_say late
must io late 'read -P 5 64k 4k'

# -- an old write lands, through one server, on what another wrote ---------------------------------
late_say late hold
must io late 'aio_write -P 6 64k 4k' 'read 0 4k' # once it has the read, it has the write
late_say late
must io_flushed qemu 'write -P 7 64k 4k'
must durable common 65536 7
late_say late release
wait_for 10 durable common 65536 6 || fail "the held write does not land"
must io qemu 'read -P 6 64k 4k'
wait_for 10 grep -q 'op=write .*answered=never after_close=[0-9]' "$DIR/late.journal" ||
    fail "the journal does not show it"
server_crash late qemu

# -- late is correct under load, as late as it is --------------------------------------------------
image load 64M
server_late late load --volatile --delay-ms 0-40 --late-percent 20
server_start late
disk load "$(server_uri late)"
daemon_start
guest --disk load --domid 7 --seconds 5 --flush-every 40 --features >"$DIR/guest.out" 2>&1 ||
    { cat "$DIR/guest.out"; fail "a guest on a late server"; }
note "late: $(grep held "$DIR/guest.out")"
daemon_stop
# -- ... and crashes in time ----------------------------------------------------------------------
sleep 3 &
server_flap late $! 0.2 0.1
[ $SERVER_CRASHES -ge 2 ] || fail "$SERVER_CRASHES crashes"
note "$SERVER_CRASHES crashes in 3 s"
must io late 'read 0 4k'
