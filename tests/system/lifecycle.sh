#!/bin/bash
# Laws 2, 4, 5 and 8: disks come and go many times and under load, domains die, the daemon stops and
# crashes; nothing leaks, nobody else's nodes are touched. (The ways of frontends one by one: lives.)
. "$(dirname "$0")/lab.sh"
. ./lab-servers.sh
LIFE=$BUILD/system/life
FAULT=$BUILD/system/fault
lab_start
nbd_memory one 64M
nbd_memory two 64M
disk one "$(unix_uri one)"
disk two "$(unix_uri two)"
disk common "$(unix_uri two)" 'shared = yes'
disk brief "$(unix_uri brief)"
disk cached "$(unix_uri cached)"
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
# Freed memory stays in AddressSanitizer's hands, and what a disk allocates for its kept file is much:
# of that it may hold back 1 MiB here, and as much as it likes in all other tests.
daemon_stop
ASAN_OPTIONS=${ASAN_OPTIONS-}:quarantine_size_mb=1:thread_local_quarantine_size_kb=64 daemon_again
life many one
sleep 0.3
fds=$(daemon_fds)
rss=$(daemon_rss_kib)
life many one
sleep 0.3
[ "$(daemon_fds)" -le "$fds" ] ||
    { ls -l "/proc/$DAEMON_PID/fd"; fail "$(daemon_fds) descriptors, $fds before 60 attaches"; }
[ "$(daemon_rss_kib)" -lt $((rss + 8192)) ] ||
    fail "$(daemon_rss_kib) KiB, $rss before 60 attaches"
[ -z "$(ls -A "$DIR/keep")" ] || fail "kept files of nobody: $(ls "$DIR/keep")"
daemon_stop
daemon_again

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

# -- stops and crashes under load, several times: nobody notices -------------------------------------
daemon_kill() {
    kill -KILL $DAEMON_PID
    wait $DAEMON_PID 2>/dev/null
    DAEMON_PID=
}
steps stop, crash and start
guest --disk one --domid 401 --until "$DIR/restarted" --flush-every 40 --kind vbd >"$DIR/guest1.out" 2>&1 &
guest1=$!
guest --disk two --domid 402 --until "$DIR/restarted" --abi x86_32 --mix rw70 >"$DIR/guest2.out" 2>&1 &
guest2=$!
wait_for 10 b_state_is vbd 401 4 || fail "guest 401 does not connect"
wait_for 10 b_state_is qdisk 402 4 || fail "guest 402 does not connect"
for way in stop kill stop stop kill kill; do
    sleep 0.7
    daemon_$way
    b_state_is vbd 401 4 || fail "a $way changed the state to $(b_state vbd 401)"
    [ -s "$DIR/keep/vbd-401-51712" ] || fail "nothing is kept of guest 401's disk after a $way"
    daemon_again
    wait_for 5 log_has '401/xvda \(one\): taken up again' || fail "guest 401: not after a $way"
    wait_for 5 log_has '402/xvda \(two\): taken up again' || fail "guest 402: not after a $way"
done
: >"$DIR/restarted"
wait $guest1 || { cat "$DIR/guest1.out"; fail "guest 401 noticed a restart"; }
wait $guest2 || { cat "$DIR/guest2.out"; fail "guest 402 noticed a restart"; }
grep -h 'requests:' "$DIR/guest1.out" "$DIR/guest2.out" |
    sed 's/^/lifecycle: stopped 3 times, killed 3 times: /'

# -- what is kept of it is damaged: held, untouched, said loudly; usable once it was closed ---------
waiter_start held one
daemon_kill
truncate -s 12288 "$DIR/keep/qdisk-$waiter_domid-51712"
daemon_again
wait_for 5 log_has "error: $waiter_domid/xvda \(one\): held: .*kept file" ||
    fail "not said that it is held"
waiter_end

# -- the server goes while the daemon is stopped: the guest waits for it, and no more ----------------
server_new brief nbdkit -f -U "$DIR/brief.sock" --filter=noparallel memory 16M
server_start brief
waiter_start bereft brief
daemon_stop
server_crash brief
rm "$DIR/brief.sock"
daemon_again
wait_for 5 log_has "$waiter_domid/xvda \(brief\): taken up again" || fail "it was not opened"
echo >&9
wait_for 10 grep -q alone "$DIR/waiter.out" || { cat "$DIR/waiter.out"; fail "the bereft"; }
server_start brief
waiter_end

# -- closed while there is no daemon, and the server's cache is lost: what was answered, and never
# flushed, is at the server before state 6 ----------------------------------------------------------
image cached 1M
server_cached cached cached
server_start cached
abandoned() { # COMMAND...: while nobody serves
    waiter_start abandoned cached
    daemon_kill
    echo >&9
    wait_for 10 grep -q closed "$DIR/waiter.out" || { cat "$DIR/waiter.out"; fail "not closed"; }
    "$@"
    daemon_again
    waiter_end
}
abandoned server_restart cached
for page in 0 1 2 3; do
    printf '\%o' $((page + 4))
done | xargs -0 printf >"$DIR/expected" # the first byte of each page that probe.c writes
for page in 0 1 2 3; do
    dd if="$DIR/cached.img" bs=1 count=1 skip=$((page * 4096)) 2>/dev/null
done | cmp - "$DIR/expected" || fail "what was answered is not at the server, and the disk is closed"
# Without a server it is closed all the same, in the time of a close, and honestly.
gone_for_good() {
    server_crash cached
    rm "$DIR/cached.sock"
}
abandoned gone_for_good
wait_for 5 log_has "warning: $waiter_domid/xvda \(cached\): closed with 16384 bytes" ||
    fail "nothing is said of what was lost"
[ -z "$(ls -A "$DIR/keep")" ] || fail "kept files of nobody: $(ls "$DIR/keep")"

# -- allow-uri = yes --------------------------------------------------------------------------------
daemon_stop
sed -i 's/^workers = .*/&\nallow-uri = yes/' "$CONFIG"
daemon_again
loaded --disk "$uri" --kind qdisk
loaded --disk "$uri" --kind vbd3 --script /etc/xen/scripts/block-blkgate
loaded --disk one --kind vbd
note "$count steps"
daemon_stop
