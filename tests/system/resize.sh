#!/bin/bash
# An export that grows under a guest's load: SIGHUP, and the guest is told without seeing an error;
# one that shrinks is left as it is, and a SIGHUP with nothing new writes nothing.
. "$(dirname "$0")/lab.sh"
lab_start
truncate -s 16M "$DIR/file.img"
# In parallel and with slow reads, so that a flush overtakes some: it alone must not let the daemon
# leave the connection.
nbdkit -f -U "$DIR/file.sock" --filter=log --filter=delay file "$DIR/file.img" rdelay=20ms \
    logfile="$DIR/file.commands" >>"$DIR/file.log" 2>&1 &
nbd_started file $!
nbd_memory same 16M
disk file "$(unix_uri file)"
disk same "$(unix_uri same)"
disk slow "$(unix_uri slow)"
disk asked "$(unix_uri asked)"
disk fua "$(unix_uri fua)" 'accept-volatile = yes'
daemon_start
BACK=/local/domain/0/backend/qdisk/800/51712

# The guest goes on over the whole disk, as large as it is told to be, until it is told to end, and
# then compares every byte; it looks at the backend's state and sectors all the while.
grow_under_load() { # SECTORS ARGUMENTS...: the file is that large after it
    local sectors=$1 guest_pid seen
    shift
    rm -f "$DIR/enough"
    guest --disk file --domid 800 --until "$DIR/enough" --grown "$sectors" --model-sectors 1048576 \
        --features "$@" >"$DIR/guest.out" 2>&1 &
    guest_pid=$!
    wait_for 10 log_has '800/xvda .*: connected' || fail "not connected"
    sleep 3
    timeout 20 xenstore-watch $BACK >"$DIR/watch" 2>/dev/null &
    WATCH_PID=$!
    sleep 0.5
    hup_without_change
    truncate -s $((sectors * 512)) "$DIR/file.img"
    kill -HUP "$DAEMON_PID"
    wait_for 10 grown "$sectors" || fail "sectors is $(xs $BACK/sectors), not $sectors"
    # State 4 is written anew: it is what a frontend watches.
    wait_for 5 grep -qx "$BACK/state" "$DIR/watch" || fail "state 4 was not written again"
    sleep 2
    pid_end $WATCH_PID
    : >"$DIR/enough"
    seen=$(tail -n +2 "$DIR/watch" | sort | tr '\n' ' ')
    [ "$seen" = "$BACK/sectors $BACK/state " ] || fail "written were: $seen"
    wait $guest_pid || { cat "$DIR/guest.out"; fail "the guest of a disk that grew to $sectors"; }
    note "grown to $sectors sectors: $(grep held "$DIR/guest.out")"
}
grown() { [ "$(xs $BACK/sectors)" = "$1" ]; }
# The watch fires once when it is set.
hup_without_change() {
    local before
    before=$(wc -l <"$DIR/watch")
    [ "$before" = 1 ] || fail "watched before anything was written: $(cat "$DIR/watch")"
    kill -HUP "$DAEMON_PID"
    sleep 1
    [ "$(wc -l <"$DIR/watch")" = 1 ] || fail "written although nothing changed: $(cat "$DIR/watch")"
    ! log_has 'not resized|has grown' || fail "a SIGHUP without a change said something"
}
forget() { : >"$DAEMON_LOG"; }

# A flush need not cover what another connection wrote. So nothing that was answered may be on the old
# connection alone: what no flush there covers is written again on the new one (those between only
# asked for the size), before anything is read or flushed there.
nothing_left_behind() {
    awk '
        function hex(text, i, value) {
            for (i = 3; i <= length(text); i++)
                value = value * 16 + index("0123456789abcdef", substr(text, i, 1)) - 1
            return value
        }
        function field(name, i) {
            for (i = 4; i <= NF; i++)
                if (index($i, name "=") == 1) return substr($i, length(name) + 2)
        }
        function each_sector(at, length_bytes, line, i) {
            for (i = at / 512; i < (at + length_bytes) / 512; i++) answered[i] = line
        }
        function unflushed(i, count) {
            for (i = 0; i < 32768; i++) count += answered[i] > 0
            return count
        }
        /connection=1 (Write|Trim) / {
            at[field("id")] = hex(field("offset")); bytes[field("id")] = hex(field("count"))
        }
        /connection=1 \.\.\.(Write|Trim) / {each_sector(at[field("id")], bytes[field("id")], NR)}
        /connection=1 Flush / {sent[field("id")] = NR}
        /connection=1 \.\.\.Flush / {
            for (i = 0; i < 32768; i++) if (answered[i] < sent[field("id")]) answered[i] = 0
        }
        !/connection=1 / && $4 ~ /^(Write|Trim|Read|Flush)$/ && !over {
            if (!switched++) behind = unflushed()
            if ($4 == "Read" || $4 == "Flush") over = 1
            else each_sector(hex(field("offset")), hex(field("count")), 0)
            if (over) left = unflushed()
        }
        END {
            printf "%d sectors were not flushed, %d of them were not written again\n", behind, left
            exit left > 0 || !over
        }' "$DIR/file.commands" >"$DIR/behind" || fail "the old connection: $(cat "$DIR/behind")"
    note "$(cat "$DIR/behind")"
}

guest --disk same --domid 801 --until "$DIR/both" --flush-every 50 >"$DIR/same.out" 2>&1 &
neighbour=$!
grow_under_load 49152 # 24 MiB
nothing_left_behind
forget
grow_under_load 65536 --abi x86_32 --queues 1 --ring-order 0
: >"$DIR/both"
wait $neighbour || { cat "$DIR/same.out"; fail "the disk beside it, whose size stayed"; }
! log_has '801/xvda .*(resized|grown)' || fail "the disk beside it was touched"

# Smaller: it stays, and the log says so.
forget
truncate -s 32M "$DIR/file.img"
rm "$DIR/enough"
guest --disk file --domid 800 --until "$DIR/enough" --model-sectors 16384 --features >"$DIR/guest.out" 2>&1 &
guest_pid=$!
wait_for 10 log_has '800/xvda .*: connected: 65536' || fail "not connected"
sleep 1
truncate -s 16M "$DIR/file.img"
kill -HUP "$DAEMON_PID"
wait_for 10 log_has 'warning: 800/xvda .*not resized: the export has become smaller' ||
    fail "the shrinking is not in the log"
sleep 0.5
[ "$(xs $BACK/sectors) $(xs $BACK/state)" = "65536 4" ] || fail "shrunk to $(xs $BACK/sectors)"
: >"$DIR/enough"
wait $guest_pid || { cat "$DIR/guest.out"; fail "the guest of a disk that shrank"; }

# Grown while the daemon asks whether it has: the answer it gets is the old size, and a second SIGHUP
# is not lost. (The size is of the moment the connection opens; then the handshake takes a second.)
echo 16M >"$DIR/asked.size"
asked_start() {
    nbdkit -f -U "$DIR/asked.sock" eval open="cat $DIR/asked.size; echo open >>$DIR/asked.opens" \
        get_size='echo $2' can_write='sleep 1' can_flush='exit 0' pread='head -c $3 /dev/zero' \
        pwrite='cat >/dev/null' flush='exit 0' >>"$DIR/asked.log" 2>&1 &
    nbd_started asked $!
}
asked_start
guest --disk asked --domid 803 --seconds 60 --mix write4k --depth 1 --model-sectors 4096 \
    >"$DIR/guest.out" 2>&1 &
guest_pid=$!
wait_for 10 log_has '803/xvda .*: connected' || fail "not connected"
kill -HUP "$DAEMON_PID"
sleep 0.5
echo 32M >"$DIR/asked.size"
kill -HUP "$DAEMON_PID"
wait_for 5 log_has '803/xvda .*has grown to 65536 sectors' || fail "the second SIGHUP was lost"
# The same while it connects again: it is told when the handshake was before the growth.
rm "$DIR/asked.opens"
nbd_end
rm -f "$DIR/asked.sock"
asked_start
wait_for 10 test -e "$DIR/asked.opens" || fail "not connected again"
sleep 0.3
echo 48M >"$DIR/asked.size"
kill -HUP "$DAEMON_PID"
wait_for 10 log_has '803/xvda .*has grown to 98304 sectors' || fail "a SIGHUP while connecting was lost"
kill -KILL $guest_pid
wait $guest_pid 2>/dev/null

# Grown, and come back without FUA: what made each write durable, so that a flush had nothing to do.
echo 16M >"$DIR/fua.size"
echo native >"$DIR/fua.can"
nbdkit -f -U "$DIR/fua.sock" eval open="cat $DIR/fua.size" get_size='echo $2' \
    can_write='exit 0' can_flush='exit 3' can_fua="cat $DIR/fua.can" \
    pread='head -c $3 /dev/zero' pwrite="cat >/dev/null; echo \"\$5\" >>$DIR/fua.flags" \
    >>"$DIR/fua.log" 2>&1 &
nbd_started fua $!
guest --disk fua --domid 804 --seconds 5 --mix write4k --depth 1 --model-sectors 128 \
    >"$DIR/guest.out" 2>&1 &
guest_pid=$!
wait_for 10 log_has '804/xvda .*: connected' || fail "not connected"
echo 32M >"$DIR/fua.size"
echo none >"$DIR/fua.can"
kill -HUP "$DAEMON_PID"
wait_for 5 log_has '804/xvda .*(not resized: the server does not flush as|has grown)' || fail "not asked"
kill -KILL $guest_pid
wait $guest_pid 2>/dev/null
[ "$(sort -u "$DIR/fua.flags")" = fua ] || fail "a write without FUA on a disk that needs no flush"
log_has '804/xvda .*not resized' || fail "a server that lost FUA was switched to"

# Grown, but closed with requests waiting before the daemon knows (it takes 0.6 s to connect, each
# read 0.7 s, and 64 of 128 go at a time): those are served out, with the connection there is.
truncate -s 16M "$DIR/slow.img"
nbdkit -f -t 80 -U "$DIR/slow.sock" --filter=delay file "$DIR/slow.img" rdelay=700ms \
    delay-open=600ms >>"$DIR/slow.log" 2>&1 &
nbd_started slow $!
"$SIM/simguest" --disk slow --domid 802 --seconds 60 --mix read4k --depth 128 --ring-order 4 \
    >"$DIR/guest.out" 2>&1 &
guest_pid=$!
wait_for 10 log_has '802/xvda .*: connected' || fail "not connected"
sleep 2
truncate -s 32M "$DIR/slow.img"
kill -HUP "$DAEMON_PID"
sleep 0.3
kill -KILL $guest_pid
wait $guest_pid 2>/dev/null
wait_for 5 log_has '802/xvda .*: closed' || fail "a disk that grew while it was closed is not closed"
! log_has '802/xvda .*did not finish in time' || fail "its requests were not served out"
daemon_stop
