# Sourced by every test in tests/system: a simulation (simxen and the real xenstored), NBD servers,
# and the unmodified daemon. run.sh sets BUILD; ends everything it started, by pid, on exit.

set -u -o pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${BUILD:-$ROOT/build/default}
TEST=$(basename "$0" .sh)
DIR=$(mktemp -d /tmp/bg.XXXXXX) # short: a unix socket's path has 108 bytes
SIM=$BUILD/sim
NBD_PIDS=()
DAEMON_PID=
SIMXEN_PID=
XENSTORED_PID=
DAEMON_LOG=$DIR/blkgated.log

fail() {
    printf '%s: FAILED: %s\n' "$TEST" "$*" >&2
    [ ! -s "$DAEMON_LOG" ] || { echo "-- the daemon's last lines:" >&2; tail -25 "$DAEMON_LOG" >&2; }
    exit 1
}
note() { printf '%s: %s\n' "$TEST" "$*"; }

pid_end() { # PID [SIGNAL]: ends a process of ours and waits for it
    [ -n "${1-}" ] || return 0
    kill "-${2-TERM}" "$1" 2>/dev/null
    local i
    for ((i = 0; i < 300; i++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null
}

lab_end() {
    local status=$? pid
    trap - EXIT
    [ -z "$DAEMON_PID" ] || pid_end "$DAEMON_PID"
    for pid in "${NBD_PIDS[@]-}"; do pid_end "$pid" KILL; done
    pid_end "$XENSTORED_PID"
    pid_end "$SIMXEN_PID"
    if [ $status = 0 ] && [ -z "${KEEP-}" ]; then
        rm -rf "$DIR"
    else
        note "everything is kept in $DIR"
    fi
    exit $status
}
trap lab_end EXIT
trap 'exit 130' INT TERM

lab_start() {
    SIMXEN_PID=$("$SIM/simxen" -d "$DIR") || fail "simxen does not start"
    XENSTORED_PID=$("$ROOT/tests/sim/xenstored.sh" "$BUILD" "$DIR") || fail "xenstored does not start"
    export BLKGATE_SIM=$DIR XENSTORED_PATH=$DIR/run/socket
    CONFIG=$DIR/blkgate.conf
    printf '[gateway]\nlock = %s/lock\nkeep = %s/keep\nworkers = 2\nlog-level = debug\n' "$DIR" "$DIR" >"$CONFIG"
}

# disk NAME URI [LINE...]: adds a disk to the configuration.
disk() {
    local name=$1 uri=$2 line
    shift 2
    printf '\n[disk %s]\nexport = %s\n' "$name" "$uri" >>"$CONFIG"
    for line in "$@"; do printf '%s\n' "$line" >>"$CONFIG"; done
}
unix_uri() { echo "nbd+unix:///${2-}?socket=$DIR/$1.sock"; }

# Below those that the kernel gives to clients.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

wait_for() { # SECONDS COMMAND...: until it succeeds
    local tenths=$(($1 * 10)) i
    shift
    for ((i = 0; i < tenths; i++)); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    return 1
}

# -- servers: each serves $DIR/NAME.sock ----------------------------------------------------------
nbd_started() { # NAME PID
    NBD_PIDS+=("$2")
    NBD_PID=$2
    disown "$2" 2>/dev/null # so that bash says nothing when it is killed
    wait_for 10 test -S "$DIR/$1.sock" || fail "NBD server $1 does not start"
}
# noparallel: nbdkit 1.32 aborts when a client leaves with several commands in flight.
nbd_memory() { # NAME SIZE [FILTER ARGUMENTS...]
    local name=$1 bytes=$2
    shift 2
    nbdkit -f -U "$DIR/$name.sock" --filter=noparallel "$@" memory "$bytes" \
        >>"$DIR/$name.log" 2>&1 &
    nbd_started "$name" $!
}
nbd_qemu() { # NAME SIZE
    truncate -s "$2" "$DIR/$1.img"
    qemu-nbd -t -e 8 -f raw -k "$DIR/$1.sock" "$DIR/$1.img" >>"$DIR/$1.log" 2>&1 &
    nbd_started "$1" $!
}
# Not -d, which serves one client only. Over TCP: with a unix socket it listens on nothing else.
nbd_server() { # NAME SIZE
    NBD_PORT=$(free_port)
    truncate -s "$2" "$DIR/$1.img"
    cat >"$DIR/$1.conf" <<X
[generic]
    port = $NBD_PORT
    listenaddr = 127.0.0.1
[$1]
    exportname = $DIR/$1.img
    flush = true
    fua = true
    trim = true
X
    nbd-server -C "$DIR/$1.conf" -p "$DIR/$1.pid" >>"$DIR/$1.log" 2>&1
    wait_for 10 test -s "$DIR/$1.pid" || fail "nbd-server $1 does not start"
    NBD_PID=$(cat "$DIR/$1.pid")
    NBD_PIDS+=("$NBD_PID")
}
nbd_evil() { # NAME SIZE FAULT...
    local name=$1 bytes=$2 fault arguments=()
    shift 2
    for fault in "$@"; do arguments+=(--fault "$fault"); done
    "$BUILD/nbd/evil" --unix "$DIR/$name.sock" --size "$bytes" "${arguments[@]}" \
        >>"$DIR/$name.log" 2>&1 &
    nbd_started "$name" $!
}
nbd_end() { pid_end "$NBD_PID" "${1-KILL}"; }

# -- the daemon -----------------------------------------------------------------------------------
# BLKGATED: another build of it. The log is appended to, over all its lives.
daemon_spawn() {
    daemon_starts=$(grep -c 'blkgated .* serves' "$DAEMON_LOG" 2>/dev/null)
    LD_LIBRARY_PATH=$SIM/lib "${BLKGATED:-$BUILD/blkgated}" -c "$CONFIG" >>"$DAEMON_LOG" 2>&1 &
    DAEMON_PID=$!
}
daemon_is_ready() { [ "$(grep -c 'blkgated .* serves' "$DAEMON_LOG")" -gt "${daemon_starts:-0}" ]; }
daemon_start() {
    daemon_spawn
    wait_for 20 daemon_is_ready || fail "the daemon does not become ready"
}
daemon_alive() { kill -0 "$DAEMON_PID" 2>/dev/null || fail "the daemon died"; }
# A clean stop: exit status 0, and not a word from a sanitizer.
daemon_stop() {
    local status
    kill -TERM "$DAEMON_PID" 2>/dev/null || fail "the daemon was gone before it was stopped"
    wait "$DAEMON_PID"
    status=$?
    DAEMON_PID=
    [ $status = 0 ] || fail "the daemon ended with status $status"
    ! grep -qE 'ERROR: (Address|Leak)Sanitizer|runtime error:|WARNING: ThreadSanitizer' \
        "$DAEMON_LOG" || fail "a sanitizer complains"
}
# Not the simulation's: a stand-in keeps the memory of each domain it has seen.
daemon_fds() { ls -l "/proc/$DAEMON_PID/fd" | grep -vc memfd:domain-memory; }
daemon_rss_kib() { awk '/^VmRSS/ {print $2}' "/proc/$DAEMON_PID/status"; }

# -- what is to be seen ---------------------------------------------------------------------------
guest() { "$SIM/simguest" "$@"; }
log_has() { grep -qE -- "$1" "$DAEMON_LOG"; }
xs() { xenstore-read "$1" 2>/dev/null; }
no_grants_mapped() { # DOMID
    "$SIM/simxen-ctl" grants "$1" | grep -Eq 'mapped[ =:]*0|mapped 0'
}
# What a guest leaves: no backend node, no grant.
gone() { # DOMID [KIND]
    ! xenstore-ls "/local/domain/0/backend/${2-vbd}/$1" 2>/dev/null | grep -q . ||
        fail "domain $1's backend nodes are still there"
}
