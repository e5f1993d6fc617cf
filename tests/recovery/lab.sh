# Sourced by every scenario of recovery, on top of tests/system/lab.sh and lab-servers.sh: a daemon
# that is killed, guests (steadyguest, play) that must not notice, and what is said of it.
#
# RECOVERY=full plays the full counts; each count is a variable of its own, for a run by hand.

. "$(dirname "${BASH_SOURCE[0]}")/../system/lab.sh"
. "$(dirname "${BASH_SOURCE[0]}")/../system/lab-servers.sh"

PATIENCE_MS=${PATIENCE_MS:-180000} # of a guest for one answer: what is longer is a hang
RECOVERY_TABLE=${RECOVERY_TABLE:-/dev/null}
IMAGE_SIZE=32M
declare -A GUEST_PID=()
PLAY_PID=
export TMPDIR=$DIR # for nbdkit's cache

pick() { [ "${RECOVERY-}" = full ] && echo "$2" || echo "$1"; } # SHORT FULL

# recovery_start [GATEWAY-LINE...]: a simulation whose daemon keeps what it must.
recovery_start() {
    lab_start
    sed -i 's/^log-level = .*/log-level = info/' "$CONFIG"
    printf '%s\n' 'queues = 4' "$@" >>"$CONFIG"
}
random_ms() { # MIN MAX: sleeps
    local ms=$(($1 + RANDOM % ($2 - $1 + 1)))
    sleep $((ms / 1000)).$(printf %03d $((ms % 1000)))
}

# -- the daemon -------------------------------------------------------------------------------------
# A status other than SIGKILL's is a crash of its own.
daemon_kill() {
    local status
    kill -KILL "$DAEMON_PID" 2>/dev/null
    wait "$DAEMON_PID" 2>/dev/null
    status=$?
    DAEMON_PID=
    [ $status = 137 ] || fail "the daemon ended by itself, with status $status"
}
daemon_rekill() { # COUNT: killed so often, at random moments, its start included; running after it
    local i
    for ((i = 0; i < $1; i++)); do
        daemon_kill
        daemon_spawn
        [ $((RANDOM % 4)) = 0 ] || wait_for 30 daemon_is_ready || fail "the daemon does not start"
        random_ms 0 500
    done
    wait_for 30 daemon_is_ready || fail "the daemon does not start"
}
# faulty FAULT: from the next start on the daemon is one without that protection; none: again whole.
faulty() {
    unset BLKGATED BLKGATE_FAULT
    [ $# = 0 ] || export BLKGATED=$BUILD/blkgated-faulty BLKGATE_FAULT=$1
}

# -- guests -----------------------------------------------------------------------------------------
guest_start() { # NAME DISK DOMID [OPTION...]: returns when its load runs
    local name=$1 image="--image $DIR/$1.image"
    # What failed, or was discarded, the disk may hold or not.
    case " ${*:4} " in *' --errors-allowed '* | *' --discard-every '*) image= ;; esac
    "$SIM/steadyguest" --disk "$2" --domid "$3" --json --patience-ms "$PATIENCE_MS" \
        --tell-ms 200 $image "${@:4}" >"$DIR/$name.out" 2>"$DIR/$name.err" &
    GUEST_PID[$name]=$!
    wait_for 60 grep -q '^filled' "$DIR/$name.out" || guest_fail "$name" "does not get going"
}
guest_fail() { # NAME WHAT
    head -20 "$DIR/$1.err" >&2
    tail -2 "$DIR/$1.out" >&2
    fail "guest $1: $2"
}
guest_runs() { kill -0 "${GUEST_PID[$1]}" 2>/dev/null || guest_fail "$1" "ended early"; }
guest_requests() { sed -n 's/^load.* s: \([0-9]*\) requests.*/\1/p' "$DIR/$1.out" | tail -1; }
guest_has_more() { [ "$(guest_requests "$1")" -gt "$2" ]; }
guest_goes_on() { # NAME: its requests are answered
    local now
    sleep 0.3 # what it tells next is about now
    now=$(guest_requests "$1")
    wait_for $((PATIENCE_MS / 1000)) guest_has_more "$1" $((${now:-0} + 100)) ||
        guest_fail "$1" "does not go on"
}
# Ends its load; returns when it has reread all and is gone: 0 if all held.
guest_stop() {
    local status
    kill -USR1 "${GUEST_PID[$1]}" 2>/dev/null
    wait "${GUEST_PID[$1]}"
    status=$?
    unset "GUEST_PID[$1]"
    return $status
}
guest_held() { guest_stop "$1" || guest_fail "$1" "something did not hold"; }
guests_end() {
    local pid
    for pid in "${GUEST_PID[@]}" $PLAY_PID; do kill -KILL "$pid" 2>/dev/null; done
}
trap 'recovery_status=$?; guests_end; (exit $recovery_status); lab_end' EXIT

field() { sed -n '$s/.*"'"$2"'": \([^,}]*\).*/\1/p' "$DIR/$1.out"; } # NAME KEY
longest() { # NAME OPERATION: in ms
    sed -n '$s/.*"'"$2"'": {"count": [0-9]*, "max_ms": \([0-9.]*\).*/\1/p' "$DIR/$1.out"
}
# row GUEST WHAT: into the table of run.sh, and with all counts into the log.
row() {
    printf '%-58s %9s %7s %7s %9s %9s %9s\n' "$TEST: $2" "$(field "$1" requests)" \
        "$(field "$1" errors)" "$(field "$1" wrong_bytes)" "$(longest "$1" read)" \
        "$(longest "$1" write)" "$(longest "$1" flush)" >>"$RECOVERY_TABLE"
    note "$2: $(field "$1" requests) requests, $(field "$1" indirect) indirect;" \
        "$(field "$1" errors) errors, $(field "$1" double_answers) double answers," \
        "$(field "$1" unanswered) lost requests, $(field "$1" wrong_bytes) wrong bytes," \
        "$(field "$1" lost_sectors) acknowledged sectors lost; longest: read" \
        "$(longest "$1" read) ms, write $(longest "$1" write) ms, flush $(longest "$1" flush) ms"
}
# The guest has flushed and closed, the server was killed: what is in its file by now?
is_in_image() { # GUEST IMAGE
    cmp -n "$(stat -c %s "$DIR/$1.image")" "$DIR/$1.image" "$DIR/$2.img" >"$DIR/cmp.out" 2>&1
}
must_be_in_image() {
    [ ! -e "$DIR/$1.image" ] || is_in_image "$1" "$2" || fail "guest $1: not what the server's file has: $(cat "$DIR/cmp.out")"
}

# -- play: a guest that does what it is told --------------------------------------------------------
play_start() { # DOMID
    coproc PLAY { exec "$BUILD/recovery/play" "$1" 2>>"$DIR/play.err"; }
    disown "$PLAY_PID"
}
play() { # COMMAND[; COMMAND...]
    local line reply
    while read -r line; do
        [ -n "$line" ] || continue
        echo "$line" >&"${PLAY[1]}" || fail "${PLAYING-}: the guest is gone"
        read -r -t 120 -u "${PLAY[0]}" reply || reply='wrong: no reply'
        [ "$reply" = ok ] || fail "${PLAYING+$PLAYING: }${reply#wrong: }"
    done < <(tr ';' '\n' <<<"$*")
}
play_is_gone() { ! kill -0 "$1"; }
play_end() {
    local pid=$PLAY_PID
    eval "exec ${PLAY[1]}>&-"
    wait_for 20 play_is_gone "$pid" || fail "${PLAYING-}: the guest does not end"
    PLAY_PID=
}
