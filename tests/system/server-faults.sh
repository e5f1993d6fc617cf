#!/bin/bash
# Laws 4, 5 and 6: whatever a server does, its guest sees nothing of it if there is a server again in
# time; otherwise its disk is closed honestly (state 5 and the reason first, then errors, a flush
# never), and it can be opened again afterwards. Other disks are served on all the while. The order of
# what the guest sees is fault.c's to check. Also what a server must be able to do.
. "$(dirname "$0")/lab.sh"
FAULT=$BUILD/system/fault
lab_start
echo 'connect-timeout = 2' >>"$CONFIG"
nbd_memory good 64M
disk good "$(unix_uri good)" 'worker = 0' # all on one: who fails is close to who must not notice

evil_rows=(close eof half magic cookie shutdown stall hang twice flush-eio read-eio write-eio \
    write-enospc hang-force silent-stop tiny large-blocks readonly volatile volatile-accepted fua-only silent no-export)
for name in "${evil_rows[@]}" absent refuses killed-nbdkit killed-qemu; do
    line=
    [ $name != volatile-accepted ] || line='accept-volatile = yes'
    disk $name "$(unix_uri $name)" 'worker = 0' 'on-loss = hold 1s' 'fence-time = 1s' "$line"
done
# Held, as it is without a word. Of a command that is not answered, the patience is short.
rides=(close eof half magic cookie shutdown twice flush-eio tear stall nbdkit qemu)
for name in "${rides[@]/#/ride-}" once; do
    disk $name "$(unix_uri $name)" 'worker = 0' 'fence-time = 1s' 'command-timeout = 1s'
done
disk wrong-name "$(unix_uri wrong-name nobody-has-this)" 'worker = 0'
daemon_start

cat >"$DIR/back" <<'X'
#!/bin/sh
# back NAME [IMAGE]: a server is there again.
cd "$(dirname "$0")" && rm -f "$1.sock" || exit 111
[ $# = 2 ] && set -- "$1" file "$2" || set -- "$1" memory 16M
exec nbdkit -P "$PWD/$1.back" -U "$PWD/$1.sock" --filter=noparallel "$2" "$3" \
    >/dev/null 2>&1 </dev/null
X
chmod +x "$DIR/back"

domid=100
GONE='closed|disconnect|end of file|EOF|reset|Broken pipe' # the connection is
rows=0
# row DISK EXPECTATION REASON [ARGUMENTS of fault...]
row() {
    local name=$1 expectation=$2 reason=$3 told
    shift 3
    domid=$((domid + 1))
    rows=$((rows + 1))
    timeout -k 5 60 "$FAULT" "$expectation" --disk "$name" --domid $domid "$@" \
        >"$DIR/row.out" 2>&1
    local status=$?
    [ ! -s "$DIR/$name.back" ] || NBD_PIDS+=("$(cat "$DIR/$name.back")")
    [ $status = 0 ] || { cat "$DIR/row.out"; fail "$name: $expectation"; }
    [ -z "$reason" ] || grep -qE "^reason: .*($reason)" "$DIR/row.out" ||
        { cat "$DIR/row.out"; fail "$name: the reason is not about \"$reason\""; }
    # The log says it, once (a life).
    if [ "$expectation" = lose ] || [ "$expectation" = refuse ]; then
        told=$(grep -cE "error: $domid/xvda \($name\): .*($reason)" "$DAEMON_LOG")
        [ "$told" = 1 ] || fail "$name: the log says why $told times, not once"
    fi
    if [ -s "$DIR/$name.back" ] && [ "$expectation" != ride ]; then # detached, and attached again
        guest --disk "$name" --domid $domid --requests 200 --model-sectors 4096 \
            >"$DIR/row.out" 2>&1 || { cat "$DIR/row.out"; fail "$name: of no use after it"; }
    fi
    daemon_alive
}
back() { echo "$DIR/back $1"; }
neighbour_start() {
    guest --disk good --domid 9 --seconds "$1" --flush-every 50 --seed 9 >"$DIR/good.out" 2>&1 &
    neighbour=$!
}
neighbour_held() {
    wait "$neighbour" || { cat "$DIR/good.out"; fail "the neighbour on a good server"; }
    sed 's/^/server-faults: neighbour: /' "$DIR/good.out" | tail -1
}

# -- the connection ends while requests are in flight, 8 commands are answered before it, and there
# is no server for longer than the disk is held ----------------------------------------------------
neighbour_start 32
lost() { # NAME REASON FAULT [ARGUMENTS...]
    local name=$1 reason=$2 fault=$3
    shift 3
    nbd_evil "$name" 1048576 "$fault"
    row "$name" lose "no server for 1 s .*($reason)" --xenstored "$XENSTORED_PID" \
        --gone "$DIR/$name.sock" --again "$(back "$name")" "$@"
}
lost close "$GONE" close=9 --flushes-lost
lost eof "$GONE" eof=11
lost half "$GONE" half=9
lost magic 'magic' magic=9 --flushes-lost
lost cookie 'cookie|handle|reply' cookie=9 --flushes-lost
lost shutdown 'shutting down|shutdown|failed a flush' shutdown=9 --flushes-lost
lost twice 'cookie|handle|reply' twice=9
lost flush-eio 'failed a flush: Input/output error' flush-eio --flushes-lost
nbd_evil stall 1048576 stall=9
row stall lose "$GONE" --xenstored "$XENSTORED_PID" --gone "$DIR/stall.sock" \
    --kill "$NBD_PID" --flushes-lost --again "$(back stall)"
nbd_memory killed-nbdkit 1M
row killed-nbdkit lose "$GONE" --xenstored "$XENSTORED_PID" --gone "$DIR/killed-nbdkit.sock" \
    --stop "$NBD_PID" --kill "$NBD_PID" --flushes-lost --again "$(back killed-nbdkit)"
nbd_qemu killed-qemu 1M
row killed-qemu lose "$GONE" --xenstored "$XENSTORED_PID" --gone "$DIR/killed-qemu.sock" \
    --stop "$NBD_PID" --kill "$NBD_PID" --flushes-lost --again "$(back killed-qemu)"
# The server is there all the time, takes every write, and fails every flush.
nbd_evil flush-eio 1048576 flush-eio
row flush-eio lose 'no server for 1 s .*failed a flush: Input/output error' \
    --xenstored "$XENSTORED_PID" --flushes-lost
neighbour_held

# -- the same, and there is a server again in time --------------------------------------------------
neighbour_start 30
rides() { # NAME [ARGUMENTS...]: goes, and is back over the same image
    row "ride-$1" ride '' --gone "$DIR/ride-$1.sock" \
        --again "$DIR/back ride-$1 $DIR/ride-$1.img" "${@:2}"
    log_has "$domid/xvda \(ride-$1\): has a server again" || fail "$1: it was never lost"
    ! log_has "error: $domid/xvda" || fail "$1: an error that the guest did not see"
}
for fault in close=9 eof=11 half=9 magic=9 cookie=9 shutdown=9 twice=9 flush-eio tear=9 stall=9; do
    name=${fault%=*}
    truncate -s 1M "$DIR/ride-$name.img"
    "$BUILD/nbd/evil" --unix "$DIR/ride-$name.sock" --size 1048576 --file "$DIR/ride-$name.img" \
        --fault trim --fault "$fault" >>"$DIR/ride-$name.log" 2>&1 &
    nbd_started "ride-$name" $!
    rides "$name"
done
truncate -s 1M "$DIR/ride-nbdkit.img"
nbdkit -f -U "$DIR/ride-nbdkit.sock" --filter=noparallel file "$DIR/ride-nbdkit.img" \
    >>"$DIR/ride-nbdkit.log" 2>&1 &
nbd_started ride-nbdkit $!
rides nbdkit --stop "$NBD_PID" --kill "$NBD_PID"
nbd_qemu ride-qemu 1M
rides qemu --stop "$NBD_PID" --kill "$NBD_PID"
# A flush that fails once: Linux, and servers on it, report lost data once, and the next one is good.
# It is worth nothing: all is written again before it. Reads take their time, and are not lost.
nbd_eval() { # NAME KEY=SCRIPT...: over a file; reads take 0.3 s
    local name=$1
    shift
    truncate -s 1M "$DIR/$name.img"
    nbdkit -f -U "$DIR/$name.sock" eval get_size='echo 1M' thread_model='echo parallel' \
        pread="sleep 0.3
            dd if=$DIR/$name.img iflag=skip_bytes,count_bytes skip=\$4 count=\$3 2>>$DIR/dd.log" \
        pwrite="echo \"\$5\" >>$DIR/$name.flags
            dd of=$DIR/$name.img oflag=seek_bytes conv=notrunc seek=\$4 2>>$DIR/dd.log" \
        "$@" >"$DIR/$name.log" 2>&1 &
    nbd_started "$name" $!
}
fail_once="if mkdir $DIR/failed; then echo EIO lost >&2; exit 1; fi; true"
nbd_eval once flush="sleep 0.2; $fail_once; echo flush >>$DIR/once.flags"
row once ride ''
log_has "$domid/xvda \(once\): lost its server \(it failed a flush" || fail "no flush failed"
awk '/flush/ {exit} {writes++} END {exit writes < 8 + 4}' "$DIR/once.flags" ||
    fail "a flush was good, and its writes were not written again: $(tr '\n' ' ' <"$DIR/once.flags")"
neighbour_held

# -- the server hangs: the guest is let go in time -------------------------------------------------
neighbour_start 18
nbd_evil hang 1048576 stall=9
row hang hang '' --flushes-lost --again "$(back hang)"
nbd_evil hang-force 1048576 stall=10
domid=$((domid + 1))
timeout -k 5 60 "$BUILD/system/life" force hang-force $domid >"$DIR/row.out" 2>&1 ||
    { cat "$DIR/row.out"; fail "destroyed while its server hangs"; }
log_has "$domid/xvda \(hang-force\): the server did not finish in time" ||
    fail "the log does not say that the server hung"

# -- single commands fail: only they do ------------------------------------------------------------
nbd_evil read-eio 1048576 read-eio
row read-eio fail '' --fails read
nbd_evil write-eio 1048576 write-eio
row write-eio fail '' --fails write
nbd_evil write-enospc 1048576 write-enospc
row write-enospc fail '' --fails write
log_has "write-enospc\): the server failed a write .*No space left" || fail "ENOSPC is not logged"

# -- servers that cannot be used, and those that can after all -------------------------------------
row absent refuse 'No such file' --again "$(back absent)"
nbd_evil refuses 1048576
nbd_end
row refuses refuse 'refused' --again "$(back refuses)"
nbd_evil no-export 1048576 no-export
row no-export refuse 'export'
nbd_qemu wrong-name 1M # serves the name "" only
row wrong-name refuse 'export'
nbd_evil tiny 511
row tiny refuse 'smaller than one sector' --again "$(back tiny)"
nbd_evil large-blocks 1048576 min-block=4096
row large-blocks refuse '4096 bytes.*blocksize'
nbd_evil silent 1048576 silent
row silent refuse 'does not answer'
nbd_evil volatile 1048576 no-flush no-fua
row volatile refuse 'neither flush nor write through'
nbd_evil volatile-accepted 1048576 no-flush no-fua
row volatile-accepted serve ''
nbd_evil readonly 1048576 readonly
row readonly readonly ''
neighbour_held

# -- no flush but FUA: every write carries it ------------------------------------------------------
nbd_eval fua-only can_fua='echo native'
row fua-only serve ''
[ "$(sort "$DIR/fua-only.flags" | uniq -c | tr -s ' ')" = ' 4 fua' ] ||
    fail "writes without FUA: $(tr '\n' ' ' <"$DIR/fua-only.flags")"

# -- a stop does not wait for a server that does not even shake hands ------------------------------
nbd_evil silent-stop 1048576 silent
back=/local/domain/0/backend/qdisk/99/51712 front=/local/domain/99/device/vbd/51712
xenstore-write $front/state 1 $back/frontend $front $back/frontend-id 99 $back/online 1 \
    $back/params silent-stop $back/mode w $back/state 1
wait_for 5 log_has 'silent-stop\): data: CLOSED -> OPENING' || fail "silent-stop is not opened"
note "$rows rows"
start=$SECONDS
daemon_stop
[ $((SECONDS - start)) -le 5 ] || fail "a silent server held up the stop for $((SECONDS - start)) s"
