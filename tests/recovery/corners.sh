#!/bin/bash
# Laws 5, 6, 8 and 9 in the corners: small, exact histories, each of which went wrong once, or nearly
# did. Each has a server, a disk and a guest of its own.
. "$(dirname "$0")/lab.sh"
recovery_start
count=0

# corner WHAT [CONFIG-LINE...]: begins one: its disk is $disk, its server runs, its guest is attached.
corner() {
    corner_new "$1"
    server_late $disk $disk --volatile
    server_start $disk
    disk $disk "$(server_uri $disk)" "${@:2}"
    corner_attach
    play 'write 0 8; flush; write 8 8'
}
corner_new() { # WHAT: without server and disk yet
    corner_end
    PLAYING=$1
    count=$((count + 1))
    disk=corner$count
    echo "-- $SECONDS s: $PLAYING"
    image $disk $IMAGE_SIZE
}
corner_attach() {
    daemon_start
    play_start $((500 + count))
    play "attach $disk; connect"
}
corner_end() {
    [ $count != 0 ] || return 0
    play detach
    play_end
    daemon_stop
    server_crash "${!SERVER_PID[@]}"
}
commands_seen() { wc -l <"$DIR/$disk.journal"; }

# -- flushes that fail ------------------------------------------------------------------------------
corner 'a flush that failed is forgiven by one that does not' 'fence-time = 1s' 'on-loss = hold 2s'
late_say $disk flush=EIO
play 'push flush 0 0; quiet 300'
late_say $disk
play 'answers 1; be-stays 4 3000; write 16 8; read 8 8'

# Connects are not for nothing: each is a thread, a handshake and all that is kept, written again.
for words in flush=EIO all=ESHUTDOWN; do
    corner "a server that says $words to everybody is not asked without a pause" 'drains = yes'
    late_say $disk $words
    play 'push flush 0 0; quiet 1000'
    before=$(commands_seen)
    play 'quiet 4000'
    after=$(commands_seen)
    note "$PLAYING: $((after - before)) commands in 4 s"
    [ $((after - before)) -lt 100 ] || fail "$PLAYING: $((after - before)) commands"
    late_say $disk
    play 'answers 1; read 8 8'
done

corner 'what was answered to a guest that then broke its ring is flushed'
play 'break; be-is 5; close; be-is 6'
server_restart $disk
play 'reopen; connect; read 8 8'

# Bug: of a ring whose event was not looked at yet nothing was taken any more (law 2).
corner 'what was pushed before the close is answered, though its event is on its way yet'
play 'slip write 16 8; fe 5; be-is 5; fe 6; answers 1; be-is 6; reopen; connect; read 16 8'

corner 'also of a disk that has failed' 'on-loss = hold 1s'
server_crash $disk
play 'push write 16 8; answers 1 -1; be-is 5; slip write 16 8; fe 5; fe 6; answers 1 -1; be-is 6'
server_start $disk
play 'reopen; connect; write 16 8; read 16 8'

# Bug: the session counted as one when the last piece was back, though it had failed.
corner 'a server that fails what it had done is none, for on-loss' 'on-loss = hold 4s'
late_say $disk write=EIO
server_restart $disk
play 'be-is 5'
grep -q 'op=write .*error=5' "$DIR/$disk.journal" || fail "$PLAYING: nothing was written again"
late_say $disk
play 'close; reopen; connect; read 0 8; write 8 8'

# -- in several commands ----------------------------------------------------------------------------
corner_evil() { # WHAT FAULT...
    corner_new "$1"
    server_evil $disk $disk trim "${@:2}"
    server_start $disk
    disk $disk "$(server_uri $disk)"
    corner_attach
}

# What a server takes at once is learned anew in each session. Bug: what was written again was not halved, so
# that there was no session any more.
corner_evil 'what was written in pieces is written again in pieces' too-long=32768
play 'write 0 128; push discard 1000 1000; answers 1'
server_restart $disk
play 'read 0 128'

# Bug: what is not done of the request was taken for its last record's, and the daemon aborted, again at each
# start, for all its guests.
corner_evil 'a discard whose later chunk fails is answered ERROR' too-long=65536 bad-sector=1000
play 'write 1500 8; push discard 0 2048; answers 1 -1; write 0 8; push discard 0 512; answers 1; write 0 8; read 0 8'
# Bug: it counted as done, all of it, once its first chunk was, and was then done again elsewhere.
server_evil $disk $disk trim
server_restart $disk
play 'read 0 8; write 0 8'
cmp -s -n 4096 -i $((1500 * 512)):0 "$DIR/$disk.img" /dev/zero && fail "$PLAYING: and was done after a restart of the server"

# The eighth: trims of 1 MiB, 512, 256 and 128 KiB fail, three of 64 KiB do not.
corner_evil 'a discard that the server leaves unanswered is, when the guest closes' too-long=65536 stall=8
play 'push discard 0 2048; quiet 300; close; reopen; be-is 2; close; be-is 6'

# -- room in the kept file --------------------------------------------------------------------------
# With `memory = 1M` a disk has its own 2 MiB, and no more. Bug: a write that waited for its neighbour and now for memory was
# tried before those that had all of it, since their session was lost, so that nothing was sent any more.
sed -i 's/^queues = 4/&\nmemory = 1M/' "$CONFIG"
corner 'who waits for room does not hold up those who have it' 'fence-time = 1s' 'connections = 2'
play flush
late_say $disk hold
play 'push write 0 1' # eight fill the pipeline, and the next one's neighbour is under way
for ((i = 0; i < 7; i++)); do play "push write $((20000 + 100 * i)) 1"; done
play 'push write 1 119'
for ((i = 0; i < 118; i++)); do play "push write $((1000 + 100 * i)) 56"; done # 7 pages of 512
play 'quiet 500'
server_crash $disk
late_say $disk
server_start $disk
play 'answers 127; read 0 120; read 1000 56; read 12700 56'

corner 'reads pass writes that wait for room' 'fence-time = 1s' 'on-error = retry'
late_say $disk write=ENOSPC
play 'pushes 80 write 1000 88; quiet 2500; push read 8 8; answers 1; push discard 20000 8'
wait_for 20 grep -q op=trim "$DIR/$disk.journal" || fail "$PLAYING: but discards, which need none, do not"
late_say $disk
play 'answers 81; read 1000 88; read 7952 88'
sed -i '/^memory = 1M$/d' "$CONFIG"

# Descriptors are of use until the data is copied. Bug: 128 such writes, and no other indirect request was
# read, nor any that came after it.
corner 'writes that rest hold up no indirect request' 'fence-time = 1s' 'on-error = retry'
late_say $disk write=ENOSPC
play 'pushes 140 write 1000 104; quiet 1500; push read 0 104; push read 8 8; answers 2'
late_say $disk
play 'answers 140; read 1000 104; read 15456 104'

# -- law 9 ------------------------------------------------------------------------------------------
# Two servers over one storage. The daemon dies while the second one has a write that it does much
# later; the program would fence the first one. play judges the bytes.
corner_new 'which of two paths is to be fenced after a crash is not known'
server_late one $disk
server_late two $disk
server_start one two
printf '#!/bin/sh\nexit 0\n' >"$DIR/fence" && chmod +x "$DIR/fence"
disk $disk "$(server_uri one)" "export = $(server_uri two)" 'coherent = yes' \
    "fence = $DIR/fence" 'fence-time = 4s'
corner_attach
server_crash one
play 'write 0 8'
late_say two hold
play 'push write 8 8; quiet 300'
daemon_kill
server_start one
daemon_start
play 'answers 1; push write 8 8; quiet 1000'
late_say two release
play 'answers 1; read 8 8; read 0 8'

# Bug: it was run at every restart, while the next life was connecting to that very server.
corner_new 'of a disk that owes nothing nobody is fenced when the daemon starts again'
server_late $disk $disk
server_start $disk
printf '#!/bin/sh\ntouch %s/fenced\n' "$DIR" >"$DIR/fence" && chmod +x "$DIR/fence"
disk $disk "$(server_uri $disk)" "fence = $DIR/fence" 'fence-time = 4s'
corner_attach
play 'write 0 8; flush; write 8 8'
daemon_kill
daemon_start
play 'read 8 8; quiet 1000'
[ ! -e "$DIR/fenced" ] || fail "$PLAYING: fenced"

# Two writes that are one command at a server that dies; the next one fails that for one of them. Each
# is then sent alone: its own bytes are all that the first server may still write there.
corner_new 'of two that were sent together, and then fail, none waits for their own ghost'
server_evil stalls $disk stall
server_evil bad $disk bad-sector=20
server_start stalls bad
disk $disk "$(server_uri stalls)" "export = $(server_uri bad)" 'coherent = yes' 'fence-time = 20s'
corner_attach
kill -STOP "$DAEMON_PID"
play 'push write 8 8; push write 16 8'
kill -CONT "$DAEMON_PID"
play 'quiet 500'
since=$SECONDS
server_crash stalls
play 'answers 1; answers 1 -1; read 8 8'
[ $((SECONDS - since)) -lt 10 ] || fail "$PLAYING: answered after $((SECONDS - since)) s"

# The guest boots another kernel while there is no daemon, and gives the disk up while there is no server.
# Bug: another guest could then use the export, and the first one's return wrote over what that had flushed.
corner 'from state 6 on nothing that was kept is written' 'fence-time = 1s'
daemon_kill
server_crash $disk
play 'reset; fe 1'
daemon_start
play 'be-is 5; fe 6; be-is 6'
wait_for 5 log_has "warning: $((500 + count))/xvda .*closed; its kept file" || fail "$PLAYING: not said"
[ -z "$(ls "$DIR/keep" | grep -- "-$((500 + count))-")" ] || fail "$PLAYING: $(ls "$DIR/keep")"
server_start $disk
before=$(commands_seen)
play 'fe 1; be-is 2; quiet 500'
! tail -n +$((before + 1)) "$DIR/$disk.journal" | grep 'op=write' || fail "$PLAYING: written"

# More is offered than before, and what is kept has no room for it: it goes to the server first.
corner 'a guest that boots another kernel is offered more, and finds what it wrote' 'fence-time = 1s'
daemon_kill
server_restart $disk
sed -i 's/^queues = 4/queues = 8/' "$CONFIG"
play 'reset; fe 1'
daemon_start
play 'be-is 2; publish; connected; read 0 8; read 8 8; write 16 8'
server_restart $disk
play 'read 8 8; read 16 8'
sed -i 's/^queues = 8/queues = 4/' "$CONFIG"

# The daemon dies; the toolstack makes the disk anew, for the same export, before the next one runs.
corner 'a device made anew does not pass the ghosts of the one before' 'fence-time = 4s'
late_say $disk hold
play 'push write 8 8; quiet 300'
late_say $disk
daemon_kill
play "reset; attach $disk"
(sleep 2; late_say $disk release) &
released=$!
daemon_start
play 'be-is 2; publish; connected; write 8 8'
wait $released
play 'quiet 500; read 8 8'

corner_end
note "$count corners"
