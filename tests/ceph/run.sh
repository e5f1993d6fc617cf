#!/bin/bash
# tests/ceph/run.sh BUILD_DIR [SCENARIO...]: two qemu-nbd servers over one RBD image of a Ceph cluster
# of our own, and what can happen to them. As root; alone, since it is busy on all cores.
#
# Most scenarios are of the storage and its servers alone, by a client that is told of each error:
# what a backend may rely on, and what it may not. A shared image is safe with cache=none, and with
# exclusive-lock or a blocklisted loser; only blocklisting fences. In `guest`, blkgated has both
# servers as paths of one disk, and its guest must notice nothing of what happens to them.
BUILD=$(cd "${1-}" && pwd) || exit 100
shift
. "$(dirname "${BASH_SOURCE[0]}")/../recovery/lab.sh"
. "$ROOT/tests/ceph/cluster.sh"
TEST=ceph
CLUSTER=$DIR/ceph
declare -A CLIENT=() # by server: the address that Ceph knows it by

ceph_end() {
    local status=$? pid
    guests_end
    for pid in "${NBD_PIDS[@]-}"; do pid_end "$pid" KILL; done
    [ $status = 0 ] || {
        cp -r "$CLUSTER/log" "$DIR/ceph-log"
        tail -n 5 "$DIR"/*.log "$DIR"/ceph-log/*.err
    }
    [ -n "${KEEP-}" ] || cluster_down "$CLUSTER"
    (exit $status)
    lab_end
}
trap ceph_end EXIT

# -- servers: a, b and so on ----------------------------------------------------------------------
rbd_server() { # NAME IMAGE: starts nothing
    server_new "$1" $(cluster_server "$CLUSTER" "$2") -k "$DIR/$1.sock"
}
# Who it is to Ceph: the watcher that was not there before. qemu-nbd listens, then opens the image.
rbd_server_start() { # NAME IMAGE
    local before
    before=$(cluster_watchers "$CLUSTER" "$2")
    server_start "$1"
    wait_for 20 rbd_watches "$1" "$2" "${before:-none}" || fail "server $1 does not open its image"
}
rbd_watches() { # NAME IMAGE OTHERS
    CLIENT[$1]=$(cluster_watchers "$CLUSTER" "$2" | grep -vxF "$3")
    [ "$(wc -w <<<"${CLIENT[$1]}")" = 1 ]
}
rbd_servers() { # IMAGE NAME...
    local name
    for name in "${@:2}"; do
        rbd_server "$name" "$1"
        rbd_server_start "$name" "$1"
    done
}
rbd_fence() { cluster_fence "$CLUSTER" "${CLIENT[$1]}" || fail "server $1 is not fenced"; }

# -- clients --------------------------------------------------------------------------------------
io() { # NAME COMMAND...: qemu-io, connected for these commands; flushed at the end
    local name=$1 command commands=()
    shift
    for command in "$@"; do commands+=(-c "$command"); done
    timeout -k 5 60 qemu-io -t writeback -f raw "${commands[@]}" "$(server_uri "$name")" >"$DIR/io.out" 2>&1
    grep -qE '^(wrote|read) ' "$DIR/io.out" && ! grep -qE 'failed|error|[Cc]annot' "$DIR/io.out"
}
must() { "$@" || { cat "$DIR/io.out"; fail "$*"; }; }
shut_down() { # NAME COMMAND: it is answered ESHUTDOWN
    ! io "$@" && grep -q 'failed: Cannot send after transport endpoint shutdown' "$DIR/io.out" ||
        { cat "$DIR/io.out"; fail "$*: not ESHUTDOWN"; }
}
# One that stays connected: what is asked of it, and what it was answered.
queue_open() { # NAME
    rm -f "$DIR/queue"
    mkfifo "$DIR/queue"
    qemu-io -t writeback -f raw "$(server_uri "$1")" <"$DIR/queue" >"$DIR/queue.out" 2>&1 &
    QUEUE_PID=$!
    NBD_PIDS+=($QUEUE_PID)
    exec {QUEUE}>"$DIR/queue"
    queue_ask 'read 0 4k'
    queue_answered 'read 4096/'
}
queue_ask() { echo "$1" >&"$QUEUE"; }
queue_answered() { # PATTERN
    wait_for 60 grep -qE "$1" "$DIR/queue.out" || { cat "$DIR/queue.out"; fail "no answer: $1"; }
}
queue_close() {
    exec {QUEUE}>&-
    wait_for 20 eval "! kill -0 $QUEUE_PID" || fail "qemu-io does not end"
}
# In ms; for people to read, never to judge by.
took() { # WHAT COMMAND...
    local start=$EPOCHREALTIME
    "${@:2}"
    note "$1: $(awk "BEGIN {printf \"%.1f s\", $EPOCHREALTIME - $start}")"
}

# -- scenarios ------------------------------------------------------------------------------------
# Without a cache of their own, two servers are one: what one acknowledged, the other one reads.
scenario_same_image() {
    local i
    for i in 1 2 3 4; do
        must io a "write -P $i ${i}M 64k"
        must io b "read -P $i ${i}M 64k" "write -P 1$i ${i}M 4k"
        must io a "read -P 1$i ${i}M 4k"
    done
}
# A write is at the storage when it is acknowledged: not before.
scenario_no_cache() {
    rbd_servers plain c d
    must io c 'write -P 16 0 4k' flush # librbd caches only for clients that have flushed once
    queue_open c
    cluster_osd_pause "$CLUSTER" 0
    cluster_osd_pause "$CLUSTER" 1
    queue_ask 'write -P 17 0 4k'
    sleep 1.5
    ! grep -q 'wrote 4096/' "$DIR/queue.out" || fail "acknowledged by a cache"
    cluster_osd_resume "$CLUSTER" 0
    cluster_osd_resume "$CLUSTER" 1
    queue_answered 'wrote 4096/'
    must io d 'read -P 17 0 4k' # not flushed
    queue_close
    server_crash c d
}

# The lock of a dead server has to be broken: after osd_client_watch_timeout, or at once if fenced.
scenario_server_killed() {
    must io a 'write -P 21 0 64k'
    server_crash a
    took "a server's lock breaks after its death" must io b 'write -P 22 0 4k' 'read -P 21 4k 4k'
    rbd_server_start a vol
    must io a 'read -P 22 0 4k' 'write -P 23 0 4k'
    server_crash a
    rbd_fence a
    took "... if it is fenced" must io b 'write -P 24 0 4k'
    rbd_server_start a vol
    must io a 'read -P 24 0 4k'
}

# stale IMAGE OLD NEW [COMMAND...]: OLD hangs with a write in its socket, COMMAND, NEW overwrites it
# and is flushed, OLD goes on. Then $DIR/queue.out has what OLD answered.
stale() {
    must io "$2" 'write -P 31 0 64k'
    queue_open "$2"
    server_pause "$2"
    queue_ask 'write -P 32 0 4k'
    "${@:4}"
    must io "$3" 'write -P 33 0 4k' flush
    server_resume "$2"
    queue_answered 'wrote 4096/|write failed'
    queue_close
}
# Why a fence is needed at all: if this does not fail, the next two prove nothing.
scenario_stale_write_lands_on_a_plain_image() {
    rbd_servers plain c d
    stale plain c d true
    grep -q 'wrote 4096/' "$DIR/queue.out" || { cat "$DIR/queue.out"; fail "c did not write"; }
    must io d 'read -P 32 0 4k'
    server_crash c d
}
scenario_stale_write_after_fence() {
    rbd_servers plain c d
    stale plain c d rbd_fence c
    queue_answered 'write failed: Cannot send after transport endpoint shutdown'
    must io d 'read -P 33 0 4k'
    server_crash c d
}
# The lock's own way: b breaks a's lock after the watch timeout, and blocklists a in doing so. The
# blocklisted server is a zombie: it shakes hands, tells the size, and answers ESHUTDOWN for ever. (A
# read with structured replies, which qemu-io uses, it answers by closing the connection.)
scenario_stale_write_after_the_lock_broke() {
    took "a hung server's lock breaks" stale vol a b true
    queue_answered 'write failed: Cannot send after transport endpoint shutdown'
    must io b 'read -P 33 0 4k'
    shut_down a 'write -P 34 0 4k'
    ! io a 'read 0 4k' || fail "a fenced server reads"
    shut_down a 'write -P 34 0 4k'
    must io b 'read -P 33 0 4k'
    server_crash a
    rbd_server_start a vol
    must io a 'read -P 33 0 4k' 'write -P 34 0 4k'
}

scenario_osd_killed() {
    must io a 'write -P 41 0 32M' # of several objects: some have this OSD as their first
    cluster_osd_kill "$CLUSTER" 1
    took "writes go on after an OSD's death" must io a 'write -P 42 0 16M' 'read -P 41 16M 16M'
    cluster_osd_start "$CLUSTER" 1
    took "... and after its return" must io b 'write -P 43 0 8M' 'read -P 42 8M 8M' \
        'read -P 41 16M 16M'
}
scenario_osd_paused() {
    must io a 'write -P 51 0 32M'
    cluster_osd_pause "$CLUSTER" 0
    took "writes go on beside a hung OSD" must io a 'write -P 52 0 16M' 'read -P 51 16M 16M'
    cluster_osd_resume "$CLUSTER" 0
    must io b 'read -P 52 0 16M'
}
scenario_monitor_killed() {
    cluster_mon_kill "$CLUSTER"
    must io a 'write -P 61 0 4k' 'read -P 61 0 4k'
    cluster_mon_start "$CLUSTER"
    must io b 'read -P 61 0 4k'
}

# -- the daemon, in front of it -------------------------------------------------------------------
# What an operator writes: the loser is blocklisted, and then it can write nothing any more.
fence_program() {
    cat >"$DIR/fence" <<X
#!/bin/bash
. "$ROOT/tests/ceph/cluster.sh"
at=\${BLKGATE_EXPORT##*/} name=\${at%.sock}
[ ! -s "$DIR/client-\$name" ] || cluster_fence "$CLUSTER" "\$(cat "$DIR/client-\$name")"
X
    chmod +x "$DIR/fence"
}
# A server that was fenced is a zombie: only a new process of it is another client to Ceph.
guest_server_start() { # NAME
    rbd_server_start "$1" vol
    echo "${CLIENT[$1]}" >"$DIR/client-$1"
}
guest_goes_on_after() { # WHAT
    took "the guest goes on after $1" guest_goes_on vol
}
# ... and with a write in the socket of the one that is stopped, as under load there always is.
server_hangs() { # NAME
    server_pause "$1"
    guest_goes_on_after "$1 hung"
    server_resume "$1"
    guest_goes_on vol
}
scenario_guest() {
    recovery_start
    fence_program
    echo "${CLIENT[a]}" >"$DIR/client-a"
    echo "${CLIENT[b]}" >"$DIR/client-b"
    disk vol "$(server_uri a)" "export = $(server_uri b)" 'coherent = yes' 'command-timeout = 3s' \
        "fence = $DIR/fence" 'fence-time = 60s'
    daemon_start
    guest_start vol vol 40 --depth 16
    server_crash a
    guest_goes_on_after "a server's death"
    guest_server_start a
    cluster_osd_kill "$CLUSTER" 1
    guest_goes_on_after "an OSD's death"
    cluster_osd_start "$CLUSTER" 1
    server_hangs b
    guest_server_start_again b
    server_hangs a
    guest_server_start_again a
    server_crash b
    guest_goes_on_after "the other's death"
    guest_held vol
    row vol "two qemu-nbd over one RBD image: killed, hung, and an OSD killed"
    guest_server_start b
    daemon_stop
}
guest_server_start_again() {
    server_crash "$1"
    guest_server_start "$1"
}

SCENARIOS="same_image no_cache server_killed stale_write_lands_on_a_plain_image stale_write_after_fence
    stale_write_after_the_lock_broke osd_killed osd_paused monitor_killed guest"

took "cluster and image" eval 'cluster_up "$CLUSTER" && cluster_image "$CLUSTER" vol 512M &&
    cluster_image "$CLUSTER" plain 512M layering'
rbd_servers vol a b
passed=0
for scenario in ${*:-$SCENARIOS}; do
    echo "-- $scenario ($SECONDS s)"
    "scenario_$scenario"
    passed=$((passed + 1))
done
note "$passed scenarios passed in $SECONDS s"
