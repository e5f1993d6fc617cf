#!/bin/bash
# Laws 2, 5 and 8: the daemon is SIGKILLed at random moments under load on 4 queues, alone, together
# with a server that loses its cache, and while the server is away: every request is answered once,
# and not a byte is wrong.
. "$(dirname "$0")/lab.sh"
KILLS=${KILLS:-$(pick 25 500)}
BOTH_KILLS=${BOTH_KILLS:-$(pick 8 100)}
AWAY_ROUNDS=${AWAY_ROUNDS:-$(pick 3 20)}
recovery_start
for server in nbdkit fast slow both away faulty; do
    image $server $IMAGE_SIZE
    disk $server "$(server_uri $server)" 'fence-time = 1s'
done
server_file nbdkit nbdkit
server_late fast fast
server_late slow slow --delay-all --delay-ms 0-60 --max-late-after-close 1000
server_late both both --volatile
server_late away away --volatile
server_late faulty faulty --delay-all --delay-ms 0-60

start() { # SERVER DOMID [OPTION...]
    server_start "$1"
    [ -n "$DAEMON_PID" ] || daemon_start
    guest_start "$1" "$1" "$2" --queues 4 --indirect 32 "${@:3}"
}
end() { # SERVER WHAT
    guest_held "$1"
    row "$1" "$2"
    server_crash "$1"
    must_be_in_image "$1" "$1"
}

domid=10
for server in nbdkit fast slow; do
    domid=$((domid + 1))
    start $server $domid $([ $server = nbdkit ] || echo --discard-every 60)
    daemon_rekill "$KILLS"
    end $server "daemon killed $KILLS times, server $server"
done

# The two die within a moment, in either order, and come back in either order.
start both 21 --discard-every 60
for ((i = 0; i < BOTH_KILLS; i++)); do
    random_ms 100 900
    [ $((RANDOM % 2)) = 0 ] || kill -KILL "$DAEMON_PID"
    server_crash both
    daemon_kill
    [ $((RANDOM % 2)) = 0 ] && server_start both
    daemon_spawn
    [ -n "${SERVER_PID[both]-}" ] || { random_ms 0 500; server_start both; }
    wait_for 30 daemon_is_ready || fail "the daemon does not start"
    guest_goes_on both
done
end both "daemon and server killed at once $BOTH_KILLS times"

# Server down, the daemon restarted or killed meanwhile, server back with its cache lost.
start away 22
for ((i = 0; i < AWAY_ROUNDS; i++)); do
    random_ms 300 900
    server_crash away
    random_ms 0 300
    if [ $((i % 2)) = 0 ]; then daemon_stop; else daemon_kill; fi
    daemon_start
    random_ms 300 700
    server_start away
    guest_goes_on away
done
end away "server away, daemon restarted, cache lost, $AWAY_ROUNDS times"
daemon_stop

# Without the journal the next daemon can but guess what was in flight.
faulty no-journal
server_start faulty
daemon_start
PATIENCE_MS=5000 guest_start faulty faulty 30
for ((i = 0; i < 10; i++)); do
    daemon_kill
    daemon_start
    random_ms 0 300
done
! guest_stop faulty || fail "without the journal nothing is lost: the load proves nothing"
note "without journal: $(field faulty unknown_ids) unknown ids, $(field faulty double_answers)" \
    "double answers, $(field faulty unanswered) lost requests, $(field faulty errors) errors"
