#!/bin/bash
# Law 9: a server executes writes up to 3 s after their connection is gone, uncancelled, while hot
# sectors are rewritten, through lost connections and kills of the daemon; and a hung server goes on
# with what it had when the disk has long moved on. Not a byte is wrong. With ghosts switched off the
# same load corrupts.
. "$(dirname "$0")/lab.sh"
LATE_SECONDS=${LATE_SECONDS:-$(pick 25 300)}
FAULTY_SECONDS=${FAULTY_SECONDS:-30}
MOVES=${MOVES:-$(pick 3 20)}
MAX_LATE_MS=3000
recovery_start
for server in late faulty; do
    image $server $IMAGE_SIZE
    disk $server "$(server_uri $server)" 'fence-time = 4s'
    server_late $server $server --delay-ms 0-$MAX_LATE_MS --late-percent 5 \
        --max-late-after-close $MAX_LATE_MS
done

# Connections end and the daemon is killed, in turn, for so long.
trouble() { # SERVER SECONDS
    local end=$((SECONDS + $2)) turn=0
    while [ $SECONDS -lt $end ]; do
        random_ms 500 2500
        guest_runs "$1"
        if [ $((turn++ % 2)) = 0 ]; then
            server_signal USR1 "$1"
        else
            daemon_kill
            daemon_start
        fi
    done
}
landed_late() { grep -c 'op=write .*after_close=[0-9]' "$DIR/$1.journal"; }

server_start late
daemon_start
guest_start late late 11
trouble late "$LATE_SECONDS"
guest_held late
sleep $((MAX_LATE_MS / 1000 + 1)) # nothing may land behind the last flush either
must_be_in_image late late
[ "$(landed_late late)" -gt 0 ] || fail "no write was late: this proves nothing"
row late "$(landed_late late) writes after their connection was gone"
server_crash late
daemon_stop

faulty no-ghosts
server_start faulty
daemon_start
guest_start faulty faulty 12
trouble faulty "$FAULTY_SECONDS"
if guest_stop faulty; then
    sleep $((MAX_LATE_MS / 1000 + 1))
    ! is_in_image faulty faulty || fail "without ghosts nothing is wrong: the load proves nothing"
fi
note "without ghosts: $(field faulty wrong_bytes) wrong bytes by" \
    "$(landed_late faulty) writes after their connection was gone"
server_crash faulty
daemon_stop
faulty

# Two servers over one image. The one that serves is stopped, and goes on when the other has served.
image common $IMAGE_SIZE
server_late a common
server_late b common
disk common "$(server_uri a)" "export = $(server_uri b)" 'coherent = yes' 'command-timeout = 2s' \
    'fence-time = 2s'
server_start a b
daemon_start
guest_start common common 13
for ((i = 0; i < MOVES; i++)); do
    random_ms 500 1500
    server_pause a
    guest_goes_on common
    random_ms 500 1500
    server_resume a
    random_ms 500 1500
    server_pause b
    guest_goes_on common
    server_resume b
done
guest_held common
must_be_in_image common common
moves=$(grep -c '(common): has a server again' "$DAEMON_LOG")
[ "$moves" -ge "$MOVES" ] || fail "moved $moves times only"
row common "moved between two servers $moves times, one stopped"
daemon_stop
