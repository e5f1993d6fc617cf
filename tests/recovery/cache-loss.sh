#!/bin/bash
# Laws 5 and 6: a server that is killed every second loses its cache each time. No request fails, no
# answered write is lost, and what a flush covered is in the server's file. With replay switched off
# the same load loses data.
. "$(dirname "$0")/lab.sh"
CACHE_SECONDS=${CACHE_SECONDS:-$(pick 20 120)}
recovery_start 'memory = 8M'
for server in nbdkit late unflushed faulty; do
    image $server $IMAGE_SIZE
    disk $server "$(server_uri $server)" \
        "$([ $server = nbdkit ] && echo drains = yes || echo fence-time = 1s)"
done
server_cached nbdkit nbdkit
server_late late late --volatile
server_late unflushed unflushed --volatile
server_late faulty faulty --volatile

outages() { # SERVER SECONDS
    sleep "$2" &
    server_flap "$1" $! 0.9 0.1
    outages=$SERVER_CRASHES
}
domid=10
for server in nbdkit late unflushed; do
    domid=$((domid + 1))
    server_start $server
    [ -n "$DAEMON_PID" ] || daemon_start
    options=
    [ $server != unflushed ] || options='--flush-every 0 --discard-every 100' # but by the daemon
    guest_start $server $server $domid $options
    outages $server "$CACHE_SECONDS"
    guest_held $server
    row $server "$server loses its cache $outages times${options:+, $options}"
    server_crash $server
    must_be_in_image $server $server
done
daemon_stop

faulty no-replay
server_start faulty
daemon_start
guest_start faulty faulty 20
lost=0
while [ $lost -lt 8 ]; do # a busy machine has fewer in the same time
    outages faulty 10
    lost=$((lost + outages))
done
! guest_stop faulty || fail "without replay nothing is lost: the load proves nothing"
[ "$(field faulty wrong_bytes)" -gt 0 ] || fail "without replay nothing is wrong"
note "without replay: $(field faulty wrong_bytes) wrong bytes," \
    "$(field faulty lost_sectors) sectors lost in $lost outages"
