#!/bin/bash
# Law 8: the daemon is stopped and started, restarted, upgraded and rolled back under load: it is
# latency to the guest. What is in flight at a server that does not answer is answered once, by the
# next start.
. "$(dirname "$0")/lab.sh"
ROUNDS=${ROUNDS:-$(pick 4 30)}
OTHER_BUILD=${OTHER_BUILD:-$ROOT/build/$([ "$(basename "$BUILD")" = release ] && echo default || echo release)}
[ -x "$OTHER_BUILD/blkgated" ] || fail "no other build to upgrade to: $OTHER_BUILD/blkgated"
recovery_start
for server in restart upgrade hung; do
    image $server $IMAGE_SIZE
    disk $server "$(server_uri $server)" 'fence-time = 1s'
done
server_file restart restart
server_late upgrade upgrade --volatile --delay-ms 0-20
server_late hung hung --volatile

# A stop: nothing of the disk changes in xenstore, and it does not take for ever.
stop_now() { # DOMID
    local back=/local/domain/0/backend/qdisk/$1/51712 before
    before=$(xs $back/state)
    daemon_stop
    [ "$before$(xs $back/state)" = 44 ] || fail "the stop changed the state to $(xs $back/state)"
}

server_start restart
daemon_start
guest_start restart restart 11
for ((i = 0; i < ROUNDS; i++)); do
    random_ms 200 700
    stop_now 11
    [ $((i % 2)) = 0 ] || random_ms 100 1500
    daemon_start
    guest_goes_on restart
done
guest_held restart
row restart "stopped and started $ROUNDS times"
must_be_in_image restart restart

# -- another build, and back; by a stop, and by a crash ---------------------------------------------
server_start upgrade
guest_start upgrade upgrade 12
for ((i = 0; i < ROUNDS; i++)); do
    random_ms 200 700
    if [ $((i % 4)) -lt 2 ]; then stop_now 12; else daemon_kill; fi
    if [ $((i % 2)) = 0 ]; then BLKGATED=$OTHER_BUILD/blkgated; else unset BLKGATED; fi
    daemon_start
    guest_goes_on upgrade
done
guest_held upgrade
row upgrade "upgraded and rolled back $ROUNDS times"
unset BLKGATED

# -- in flight at a hung server ---------------------------------------------------------------------
server_start hung
play_start 20
play 'attach hung; connect; write 0 8; flush'
for ((i = 0; i < ROUNDS; i++)); do
    play "write 8 8; write $((16 + 8 * i)) 8"
    server_pause hung
    play "push write 8 8; push write $((1024 + 8 * i)) 8; push read 0 8; push flush 0 0; quiet 300; pending 4"
    case $((i % 3)) in
    0) daemon_stop ;;
    1) daemon_kill ;;
    2)
        daemon_kill
        server_crash hung
        server_start hung
        ;;
    esac
    daemon_start
    [ $((i % 3)) = 2 ] || server_resume hung
    play "answers 4; quiet 100; pending 0; read 8 8; read $((16 + 8 * i)) 8; read $((1024 + 8 * i)) 8"
    server_restart hung # what the flush covered
    play "read 8 8; read $((16 + 8 * i)) 8"
done
play detach
play_end
note "in flight at a hung server while the daemon was stopped or killed: answered once, $ROUNDS times"
daemon_stop
