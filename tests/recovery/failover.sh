#!/bin/bash
# Laws 5, 6 and 9 with two servers over the same storage: each is killed in turn, and no request
# fails. And a FLUSH that is at the server when it dies: answered, OKAY, after a replay.
. "$(dirname "$0")/lab.sh"
FAILOVER_SECONDS=${FAILOVER_SECONDS:-$(pick 15 120)}
ROUNDS=${ROUNDS:-$(pick 3 20)}
recovery_start
for kind in nbdkit late; do
    image $kind $IMAGE_SIZE
    disk $kind "$(server_uri $kind-a)" "export = $(server_uri $kind-b)" 'coherent = yes' \
        'fence-time = 1s'
done
server_file nbdkit-a nbdkit
server_file nbdkit-b nbdkit
server_late late-a late
server_late late-b late
image flush $IMAGE_SIZE
disk flush "$(server_uri flush)" 'fence-time = 1s'

domid=10
for kind in nbdkit late; do
    domid=$((domid + 1))
    server_start $kind-a $kind-b
    [ -n "$DAEMON_PID" ] || daemon_start
    guest_start $kind $kind $domid
    end=$((SECONDS + FAILOVER_SECONDS)) kills=0
    while [ $SECONDS -lt $end ]; do
        for one in a b; do
            random_ms 500 1000
            server_crash $kind-$one
            guest_goes_on $kind
            server_start $kind-$one
            kills=$((kills + 1))
        done
    done
    guest_held $kind
    row $kind "two servers ($kind), each killed in turn, $kills times"
    server_crash $kind-a $kind-b
    must_be_in_image $kind $kind
done

# -- a flush that is pending while the server dies ------------------------------------------------
# First life of the server: it has the write, answered, and the flush, not answered. Second life: its
# journal must show the write again, and after it a flush, before the guest has its answer.
server_late flush flush --volatile --delay-all --delay-ms 0-0
order_of() { # OP OFFSET: of its last, in the journal of this life
    sed -n "s/^order=\([0-9]*\) .*op=$1 .*offset=$2 .*error=0 .*/\1/p" "$DIR/flush.journal" | tail -1
}
server_start flush
play_start 30
play 'attach flush; connect; write 64 8; flush'
for ((i = 0; i < ROUNDS; i++)); do
    sector=$((128 + 64 * (i % 32)))
    play "write $sector 8"
    server_pause flush
    play 'push flush 0 0; quiet 500; pending 1' # it is in the stopped server's socket
    server_crash flush
    : >"$DIR/flush.journal"
    play 'quiet 300; pending 1'
    server_start flush
    play 'answers 1'
    write=$(order_of write $((sector * 512)))
    flush=$(order_of flush 0)
    [ -n "$write" ] && [ -n "$flush" ] && [ "$write" -lt "$flush" ] ||
        fail "the journal shows write '$write', flush '$flush': $(tail -5 "$DIR/flush.journal")"
    server_restart flush # and its cache is lost once more
    play "read $sector 8"
done
play detach
play_end
note "a flush at a dying server was answered after a replay, $ROUNDS times"
daemon_stop
