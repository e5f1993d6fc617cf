#!/bin/bash
# Suite: one daemon with 1 to 1,000 disks: memory and CPU of idle ones, attach, restart, fairness (5 min)
#
# scale.sh BUILD OUT [--quick]: writes OUT/scale.json and scale.svg. --quick: up to 100 disks, and
# shorter. What is measured, and how, is said in scale.py.
#
# scale.sh BUILD --lab DISKS is what scale.py runs: a simulation with a server, a daemon and guests of
# so many disks, which obeys lines on stdin: many's (see many.c), and "kill", which kills the daemon and
# starts it again at once. Each is answered by a line; the first one is "ready PID KEEP_DIRECTORY".
BENCHMARK=$(cd "$(dirname "$0")" && pwd)
BUILD=$1
SIZE_BYTES=$((256 << 20))
FILES_NEEDED=8000 # three descriptors a disk, and as many again for a while
KIB_NEEDED=3000   # of memory, for a disk's kept file

if [ "$2" != --lab ]; then
    case "${3-}" in
    '' | --quick) exec python3 "$BENCHMARK/scale.py" "$@" ;;
    *) echo "scale: what is $3? Only --quick is known" >&2; exit 100 ;;
    esac
fi
. "$BENCHMARK/../system/lab.sh"
DISKS=$3
exec 3>&1 >&2
# As /run is, the kept files' place is in memory.
KEPT=$(mktemp -d /dev/shm/bg.XXXXXX) || fail "/dev/shm has no room for kept files"
trap 'rm -rf "$KEPT"; lab_end' EXIT

[ "$(df --output=avail /dev/shm | tail -1)" -gt $((DISKS * KIB_NEEDED)) ] ||
    fail "/dev/shm has no $((DISKS * KIB_NEEDED)) KiB free"
[ -x "$BUILD/benchmark/many" ] || fail "there is no $BUILD/benchmark/many: build the preset release first"
[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge $FILES_NEEDED ] ||
    fail "$FILES_NEEDED descriptors are needed (ulimit -n)"
ulimit -n $FILES_NEEDED

# All disks' server: our own if it is built (one thread), else nbdkit (one for each connection).
server_start() {
    if [ -x "$BUILD/nbd/lean" ]; then
        "$BUILD/nbd/lean" --unix "$DIR/all.sock" --size $SIZE_BYTES >>"$DIR/all.log" 2>&1 &
    else
        nbdkit -f -t 1 -U "$DIR/all.sock" memory $SIZE_BYTES >>"$DIR/all.log" 2>&1 &
    fi
    nbd_started all $!
}

XENSTORED_TRACE=no lab_start
server_start
sed -i "s|^keep = .*|keep = $KEPT|; /log-level/d; /^workers/d" "$CONFIG"
for ((i = 0; i < DISKS; i++)); do disk "d$i" "nbd+unix:///d$i?socket=$DIR/all.sock"; done
daemon_start
coproc MANY { exec "$BUILD/benchmark/many" "$DISKS" 3>&-; }
echo "ready $DAEMON_PID $KEPT" >&3
while read -r command; do
    if [ "$command" = kill ]; then
        kill -KILL "$DAEMON_PID"
        wait "$DAEMON_PID" 2>/dev/null
        daemon_spawn
        reply="started $DAEMON_PID"
    else
        echo "$command" >&"${MANY[1]}" && read -r reply <&"${MANY[0]}" || fail "$command: no answer"
    fi
    echo "$reply" >&3
done
many_pid=$MANY_PID
exec {MANY[1]}>&-
wait "$many_pid"
daemon_stop
