#!/bin/bash
# Laws 2, 4 and 8: disks come and go many times and under load, domains die, the daemon stops and
# crashes; nothing leaks, nobody else's nodes are touched. (The ways of frontends one by one: lives.)
. "$(dirname "$0")/lab.sh"
LIFE=$BUILD/system/life
FAULT=$BUILD/system/fault
lab_start
nbd_memory one 64M
nbd_memory two 64M
disk one "$(unix_uri one)"
disk two "$(unix_uri two)"
disk common "$(unix_uri two)" 'shared = yes'
disk brief "$(unix_uri brief)"
disk absent "$(unix_uri absent)"
daemon_start

domid=200
count=0
steps() { # what was done, with $domid as the next domain
    count=$((count + 1))
    domid=$((domid + 1))
    echo "-- $SECONDS s: $*"
}
life() { # SCENARIO DISK [KIND [SCRIPT]]
    steps life "$@"
    timeout -k 5 60 "$LIFE" "$1" "$2" $domid "${@:3}" >"$DIR/life.out" 2>&1 ||
        { cat "$DIR/life.out"; fail "$*"; }
    gone $domid "${3-qdisk}"
}
loaded() { # NAME of a simguest's run, its arguments
    steps guest "$@"
    timeout -k 5 60 "$SIM/simguest" --domid $domid --requests 300 --flush-every 30 \
        --model-sectors 4096 "$@" >"$DIR/guest.out" 2>&1 || { cat "$DIR/guest.out"; fail "$*"; }
}
restarts=0
daemon_again() { # starts it, with a log of its own
    restarts=$((restarts + 1))
    DAEMON_LOG=$DIR/blkgated.$restarts.log
    daemon_start
}
b_state() { xs "/local/domain/0/backend/$1/$2/51712/state"; }
b_state_is() { [ "$(b_state "$1" "$2")" = "$3" ]; }

# -- kinds, and ways to connect ---------------------------------------------------------------------
for kind in vbd qdisk vbd3; do
    loaded --disk one --kind $kind --reconnect 3
    loaded --disk one --kind $kind --direct
done
for kind in vbd vbd3; do # a vbd is xen-blkback's to offer for 3 s
    loaded --disk one --kind $kind --script /etc/xen/scripts/block-blkgate
done
life gate-fails absent vbd /etc/xen/scripts/block-blkgate
grep -q '^failed: .*No such file' "$DIR/life.out" || fail "status: $(cat "$DIR/life.out")"
life gate-fails nobodys vbd3 /etc/xen/scripts/block-blkgate
grep -q '^failed: no disk "nobodys" in the configuration' "$DIR/life.out" ||
    fail "status: $(cat "$DIR/life.out")"

# -- 60 times: no descriptor, no memory ------------------------------------------------------------
life many one
sleep 0.3
fds=$(daemon_fds)
rss=$(daemon_rss_kib)
life many one
sleep 0.3
[ "$(daemon_fds)" -le "$fds" ] ||
    { ls -l "/proc/$DAEMON_PID/fd"; fail "$(daemon_fds) descriptors, $fds before 60 attaches"; }
[ "$(daemon_rss_kib)" -lt $((rss + 8192)) ] || # freed memory stays in AddressSanitizer's hands
    fail "$(daemon_rss_kib) KiB, $rss before 60 attaches"

# -- domain death under load ------------------------------------------------------------------------
steps death
"$SIM/simguest" --disk one --domid $domid --kind vbd --seconds 60 >"$DIR/guest.out" 2>&1 &
victim=$!
disown $victim
wait_for 10 b_state_is vbd $domid 4 || fail "the victim does not connect"
sleep 1
kill -KILL $victim
wait_for 9 b_state_is vbd $domid 6 || fail "a dead domain's disk is in state $(b_state vbd $domid)"
wait_for 2 no_grants_mapped $domid || fail "a dead domain's pages are mapped"
xenstore-rm "/local/domain/0/backend/vbd/$domid" "/local/domain/$domid"
domid=$((domid - 1)) # the next domain of the same number
loaded --disk one --kind vbd

# -- whose node is it? ------------------------------------------------------------------------------
node() { # KIND DOMID PARAMS [KEY VALUE]: a device as a toolstack makes it
    local back=/local/domain/0/backend/$1/$2/51712
    xenstore-write "$back/frontend" "/local/domain/$2/device/vbd/51712" "$back/frontend-id" "$2" \
        "$back/params" "$3" "$back/online" 1 "$back/dev" xvda "$back/mode" w "$back/state" 1
    [ $# -lt 5 ] || xenstore-write "$back/$4" "$5"
}
steps foreign
uri=$(unix_uri one)
node vbd 301 /dev/vg/root
node vbd 302 one script /etc/xen/scripts/block
node vbd 303 unknown-name
node qdisk 304 aio:/srv/disk.img
node qdisk 305 "aio:$uri" # allow-uri = no
node vbd3 306 unknown-name
xenstore-ls -p /local/domain/0/backend >"$DIR/foreign.before"
sleep 4 # longer than xen-blkback is waited for
xenstore-ls -p /local/domain/0/backend >"$DIR/foreign.after"
diff "$DIR/foreign.before" "$DIR/foreign.after" || fail "nodes that are not ours were touched"
for pair in vbd/301 vbd/302 vbd/303 qdisk/304 qdisk/305 vbd3/306; do
    xenstore-rm "/local/domain/0/backend/$pair"
done
life gate-fails "$uri" vbd /etc/xen/scripts/block-blkgate
grep -q '^failed: .*allow-uri = no' "$DIR/life.out" || fail "status: $(cat "$DIR/life.out")"

# -- mode r; the same export twice ------------------------------------------------------------------
fault() { # EXPECTATION DISK [ARGUMENTS...]
    steps fault "$@"
    timeout -k 5 60 "$FAULT" "$1" --disk "$2" --domid $domid "${@:3}" >"$DIR/fault.out" 2>&1 ||
        { cat "$DIR/fault.out"; fail "$*"; }
}
mkfifo "$DIR/line"
exec 9<>"$DIR/line"
waiter_start() { # SCENARIO DISK
    steps life "$@"
    waiter_domid=$domid
    rm -f "$DIR/waiter.out" # the one before said "ready" too
    "$LIFE" "$1" "$2" $domid <"$DIR/line" >"$DIR/waiter.out" 2>&1 9>&- &
    waiter=$!
    wait_for 10 grep -q ready "$DIR/waiter.out" || { cat "$DIR/waiter.out"; fail "$* is not ready"; }
}
waiter_end() {
    echo >&9
    wait $waiter || { cat "$DIR/waiter.out"; fail "the one that waited"; }
}
fault readonly one --mode-r
waiter_start wait two
fault refuse two
grep -q "attached writable already, as $waiter_domid/xvda (two)" "$DIR/fault.out" ||
    fail "refused for another reason: $(cat "$DIR/fault.out")"
fault refuse common # shared, but the other is not
fault readonly two --mode-r
waiter_end
fault serve two
waiter_start wait common
fault serve common
waiter_end

# -- a clean stop under load, several times: nobody notices ------------------------------------------
steps stop and start
guest --disk one --domid 401 --seconds 12 --flush-every 40 --kind vbd >"$DIR/guest1.out" 2>&1 &
guest1=$!
guest --disk two --domid 402 --seconds 12 --abi x86_32 --mix rw70 >"$DIR/guest2.out" 2>&1 &
guest2=$!
wait_for 10 b_state_is vbd 401 4 || fail "guest 401 does not connect"
wait_for 10 b_state_is qdisk 402 4 || fail "guest 402 does not connect"
for _ in 1 2 3 4; do
    sleep 0.7
    daemon_stop
    b_state_is vbd 401 4 || fail "a stop changed the state to $(b_state vbd 401)"
    [ "$(xs /local/domain/0/backend/vbd/401/51712/blkgate-released)" = 1 ] || fail "not released"
    daemon_again
done
wait $guest1 || { cat "$DIR/guest1.out"; fail "guest 401 noticed a restart"; }
wait $guest2 || { cat "$DIR/guest2.out"; fail "guest 402 noticed a restart"; }
log_has '401/xvda \(one\): connected again' || fail "guest 401 was not taken up again"
grep -h 'requests:' "$DIR/guest1.out" "$DIR/guest2.out" | sed 's/^/lifecycle: restarted 4 times: /'

# -- SIGKILL: held, untouched, said loudly; usable once it was closed ------------------------------
waiter_start held one
kill -KILL $DAEMON_PID
wait $DAEMON_PID 2>/dev/null
daemon_again
wait_for 5 log_has "error: $waiter_domid/xvda \(one\): held: " || fail "not said that it is held"
waiter_end

# -- the server goes while the daemon is stopped ---------------------------------------------------
nbd_memory brief 16M
waiter_start bereft brief
daemon_stop
nbd_end
rm "$DIR/brief.sock"
daemon_again
wait_for 5 log_has "error: $waiter_domid/xvda \(brief\): cannot be opened" || fail "it was opened"
nbd_memory brief 16M
waiter_end

# -- allow-uri = yes --------------------------------------------------------------------------------
daemon_stop
sed -i 's/^workers = .*/&\nallow-uri = yes/' "$CONFIG"
daemon_again
loaded --disk "$uri" --kind qdisk
loaded --disk "$uri" --kind vbd3 --script /etc/xen/scripts/block-blkgate
loaded --disk one --kind vbd
note "$count steps"
daemon_stop
