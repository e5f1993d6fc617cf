#!/bin/bash
# Every way a frontend, a domain and a toolstack go through a disk's life (lives-rows.c), on both
# xenstoreds: the C one and Debian's default, oxenstored. Guests write their nodes through xenstore
# rings of their own, with a guest's rights; a second daemon runs in a driver domain, with its.
# XENSTORED: only that one. LIVES: only rows whose names contain this.
if [ -z "${XENSTORED-}" ]; then
    failed=0
    out=$(mktemp -d /tmp/lives.XXXXXX)
    XENSTORED=xenstored "$0" >"$out/xenstored" 2>&1 &
    XENSTORED=oxenstored "$0" >"$out/oxenstored" 2>&1 || failed=1
    wait $! || failed=1
    cat "$out"/*
    rm -rf "$out"
    [ $failed = 0 ] && echo "lives: $("$BUILD/system/lives" --list | wc -l) rows hold on both xenstoreds"
    exit $failed
fi

. "$(dirname "$0")/lab.sh"
LIVES_PROGRAM=$BUILD/system/lives
lab_start
echo 'queues = 4' >>"$CONFIG"
sed -e "s,^lock = .*,lock = $DIR/driver.lock," -e "s,^keep = .*,keep = $DIR/driver.keep," "$CONFIG" >"$DIR/driver.conf"

export_file() { # NAME: a file that may grow
    truncate -s 16M "$DIR/$1.img"
    nbdkit -f -U "$DIR/$1.sock" --filter=noparallel file "$DIR/$1.img" >>"$DIR/$1.log" 2>&1 &
    nbd_started "$1" $!
}
export_file dom0
export_file driver
disk root "$(unix_uri dom0)"
CONFIG=$DIR/driver.conf disk root "$(unix_uri driver)"

mkfifo "$DIR/driver.in"
"$LIVES_PROGRAM" --driver 3 <"$DIR/driver.in" >"$DIR/driver.out" 2>&1 &
driver_domain=$!
NBD_PIDS+=($driver_domain) # to be ended if something fails
exec 8>"$DIR/driver.in"
wait_for 10 grep -q ready "$DIR/driver.out" || { cat "$DIR/driver.out"; fail "no driver domain"; }

# -- a daemon and the plays against it: one in dom0, one in the driver domain ------------------------
there() { # COMMAND: with what a daemon there finds
    if [ "$side" = driver ]; then
        XENSTORED_PATH=$DIR/xs.3 BLKGATE_SIM_DOMID=3 "$@"
    else
        "$@"
    fi
}
again() { # the log is begun anew: "serves" is in it from before
    daemon_stop
    mv "$DAEMON_LOG" "$DAEMON_LOG.$SECONDS"
    there daemon_start
}
grow() {
    truncate -s "+$1M" "$DIR/$side.img"
    kill -HUP "$DAEMON_PID"
}
side_end() {
    [ -z "$DAEMON_PID" ] || pid_end "$DAEMON_PID"
    [ -z "$player" ] || pid_end "$player"
}
play() { # in a shell of its own
    side=$1 player=
    trap side_end EXIT
    DAEMON_LOG=$DIR/$side.blkgated.log
    [ "$side" = dom0 ] || CONFIG=$DIR/$side.conf
    there daemon_start
    mkfifo "$DIR/$side.answers" "$DIR/$side.asks"
    "$LIVES_PROGRAM" "$side" ${LIVES:+"$LIVES"} <"$DIR/$side.answers" >"$DIR/$side.asks" 2>&1 8>&- &
    player=$!
    exec 9>"$DIR/$side.answers"
    while read -r ask value; do
        case "$ask" in
        restart) again && echo done >&9 ;;
        grow) grow "$value" && echo done >&9 ;;
        '#') note "$XENSTORED, $side: $value" ;;
        *) echo "$ask $value" ;;
        esac
    done <"$DIR/$side.asks"
    wait $player || fail "$XENSTORED, $side: not as the table says"
    player=
    daemon_stop
}
(play dom0) &
dom0_plays=$!
(play driver) || fail "the driver domain's"
wait $dom0_plays || fail "dom0's"
exec 8>&-
wait $driver_domain || fail "the driver domain"
