#!/bin/bash
# Laws 5 to 9: what a guest sees of each way in which a server can go away, hang, lie, or come back
# as another. Each row is an outage under load, and after it everything is there.
. "$(dirname "$0")/lab.sh"
OUTAGE=${OUTAGE:-$(pick 5 20)}        # seconds
LONG_OUTAGE=${LONG_OUTAGE:-$(pick 20 300)}
NETNS=bg$$
HOST=10.213.$((RANDOM % 250 + 1))

network_end() { ip netns del "$NETNS" 2>/dev/null; } # and with it both ends of the cable
trap 'recovery_status=$?; guests_end; network_end; (exit $recovery_status); lab_end' EXIT
network_start() {
    ip netns add "$NETNS" && ip link add "$NETNS" type veth peer name eth0 netns "$NETNS" &&
        ip addr add "$HOST.1/24" dev "$NETNS" && ip link set "$NETNS" up &&
        ip -n "$NETNS" addr add "$HOST.2/24" dev eth0 && ip -n "$NETNS" link set eth0 up ||
        fail "no network namespace"
}
firewall() { ip netns exec "$NETNS" iptables -w "$@" || fail "iptables $*"; }

recovery_start 'connect-timeout = 2'
rows=(paused half-open tear half eof shutdown shutdown-path silent greets smaller readonly
    full-report full-retry cut several closes away)
SERVER_AT[half-open]=$HOST.2:10809
for name in "${rows[@]}"; do
    image $name $IMAGE_SIZE
    server_late $name $name
    lines=('command-timeout = 2s' 'fence-time = 1s')
    case $name in
    full-retry) lines+=('on-error = retry') ;;
    several)
        server_late several several --volatile --drop-ms 200-1500 --delay-ms 0-20
        lines+=('connections = 4')
        ;;
    closes) lines+=('on-loss = hold 3s') ;;
    shutdown-path)
        server_late shutdown-other shutdown-path
        lines=("export = $(server_uri shutdown-other)" 'coherent = yes' "${lines[@]}")
        ;;
    tear | half | eof) server_evil $name $name trim ;;
    half-open) SERVER_COMMAND[half-open]="ip netns exec $NETNS ${SERVER_COMMAND[half-open]}" ;;
    esac
    disk $name "$(server_uri $name)" "${lines[@]}"
done
daemon_start

domid=10
begin() { # NAME [OPTION of the guest...]
    domid=$((domid + 1))
    echo "-- $SECONDS s: $1"
    server_start "$1"
    guest_start "$1" "$1" $domid "${@:2}"
    guest_goes_on "$1"
}
end() { # NAME WHAT
    guest_goes_on "$1"
    guest_held "$1"
    row "$1" "$2"
    [ ! -s "$DIR/$1.image" ] || must_be_in_image "$1" "$1"
    server_crash "$1"
}
# another NAME SERVER-FUNCTION ARGUMENT...: in its place, for the length of the outage
another() {
    local name=$1
    server_crash "$name"
    "$2" "$name" "$name" "${@:3}"
    server_start "$name"
    sleep "$OUTAGE"
    guest_runs "$name"
    server_crash "$name"
}
says() { # NAME REGEX: of a server that is not taken
    log_has "\($1\): .*($2)" || fail "the log does not say of $1: $2"
}

begin paused
server_pause paused
sleep "$OUTAGE"
server_resume paused
end paused "server stopped (SIGSTOP) for $OUTAGE s"

network_start
begin half-open
firewall -A INPUT -p tcp -j DROP
firewall -A OUTPUT -p tcp -j DROP
sleep "$OUTAGE"
firewall -F
end half-open "network drops everything for $OUTAGE s"

# Each connection fails at its 400th command.
for fault in tear half eof; do
    case $fault in
    tear) what="stall in the middle of a reply" ;;
    half) what="EOF in the middle of a read's data" ;;
    eof) what="EOF in the middle of a reply's header" ;;
    esac
    begin $fault
    another $fault server_evil trim $fault=400
    server_evil $fault $fault trim
    server_start $fault
    end $fault "$what, again and again for $OUTAGE s"
done

begin shutdown
late_say shutdown all=ESHUTDOWN
sleep "$OUTAGE"
late_say shutdown
end shutdown "ESHUTDOWN to everything for $OUTAGE s"

server_start shutdown-other
begin shutdown-path
late_say shutdown-path all=ESHUTDOWN
end shutdown-path "ESHUTDOWN for ever, another path is there"
server_crash shutdown-other

for fault in silent greets; do
    begin $fault
    another $fault server_evil $fault
    server_late $fault $fault
    server_start $fault
    end $fault "accepts and $([ $fault = silent ] && echo says nothing || echo stalls the handshake), $OUTAGE s"
done

begin smaller
another smaller server_late --size $((16 << 20))
says smaller 'smaller|sectors|bytes'
server_late smaller smaller
server_start smaller
end smaller "comes back smaller for $OUTAGE s"

begin readonly
another readonly server_late --read-only
says readonly 'read-only'
server_late readonly readonly
server_start readonly
end readonly "comes back read-only for $OUTAGE s"

begin full-report --errors-allowed
late_say full-report write=ENOSPC
sleep 2
late_say full-report
end full-report "disk full for 2 s, on-error = report"
[ "$(field full-report errors)" -gt 0 ] || fail "a full disk was not reported"

begin full-retry
late_say full-retry write=ENOSPC
sleep "$OUTAGE"
late_say full-retry
end full-retry "disk full for $OUTAGE s, on-error = retry"

begin cut
for ((i = 0; i < 10; i++)); do
    random_ms 100 500
    server_signal USR1 cut
done
end cut "connection cut 10 times"

# Each connection ends by itself, now this one, now that, and then the server with its cache.
begin several
sleep "$OUTAGE"
server_restart several
end several "four connections, one or the other ends, for $OUTAGE s"

# The honest close: state 5, and not one flush that failed before it.
begin closes
server_crash closes
! guest_stop closes || fail "the guest did not notice that its disk was given up"
[ "$(field closes closed)" = true ] && [ "$(field closes failed_flushes)" = 0 ] ||
    guest_fail closes "not closed honestly"
row closes "gone for good, on-loss = hold 3s: closed"

PATIENCE_MS=$((LONG_OUTAGE * 1000 + 180000)) # the outage is longer than what is a hang elsewhere
begin away
server_crash away
sleep "$LONG_OUTAGE"
guest_runs away
server_start away
end away "away for $LONG_OUTAGE s"
daemon_stop
