#!/bin/bash
# Laws 2, 6 and 8: what a start of the daemon does, for each pair of backend state (B) and frontend
# state (F) that it can find, with a kept file that can be used and without, with a configuration or
# a server that changed meanwhile, and with a file of a newer format. Where it cannot be sure it
# leaves the disk alone and says so.
. "$(dirname "$0")/lab.sh"
SECOND_PID=
trap 'recovery_status=$?; guests_end; pid_end "$SECOND_PID" KILL; (exit $recovery_status); lab_end' EXIT
recovery_start
image rows $IMAGE_SIZE
server_late rows rows --volatile

# A step is a command of play, or after a ! one of this shell. BEFORE: with the daemon; then END
# (kill, stop or nothing); DOWN: without it; then it is started; AFTER.
# IDLE and BUSY are what BEFORE mostly is: connected, with a write that no flush covered; and four
# requests at a server that does not answer.
IDLE='attach $disk; connect; write 0 8; flush; write 8 8'
BUSY="$IDLE; !server_pause rows; push write 16 8; push read 0 8; push write 64 8; push flush 0 0; quiet 200"
SERVED='be-stays 4 200; write 24 8; flush; read 0 16; read 24 8'
ANSWERED="answers 4; pending 0; read 16 8; read 64 8; $SERVED"
HELD='status held: ; !is_said held; quiet 300; pending 4; be-stays 4 200'
AGAIN='close; reopen; connect; write 24 8; read 24 8'
CLOSED='close; be-is 6; mapped 0'

table() {
    cat <<'X'
kill | B4 F4, requests in flight          | BUSY |                          | ANSWERED
kill | B4 F4, idle                        | IDLE |                          | SERVED
kill | B4 F3 (GRUB stays there)           | BUSY | fe 3                     | ANSWERED
kill | B4 F4, killed again in its start   | BUSY |                          | !daemon_kill; !daemon_spawn; !random_ms 0 60; !daemon_kill; !daemon_start; ANSWERED
stop | B4 F4, stopped, idle               | IDLE |                          | SERVED
stop | B4 F4, stopped, the server hung    | BUSY |                          | ANSWERED
kill | B5 F4, asked by the toolstack      | BUSY | online 0; be 5           | answers 4; CLOSED; FLUSHED; !no_file
kill | B5 F5, asked by the toolstack      | BUSY | online 0; be 5; fe 5     | answers 4; be-is 5; CLOSED; FLUSHED; !no_file
stop | B5 F4, stopped                     | IDLE | online 0; be 5           | be-is 5; CLOSED; FLUSHED; !no_file
kill | B4 F5, the guest closes            | BUSY | fe 5                     | answers 4; be-is 5; CLOSED; FLUSHED; AGAIN
kill | B4 F6, the guest closed            | BUSY | fe 6                     | be-is 6; mapped 0; FLUSHED; AGAIN
kill | B5 F6                              | BUSY | be 5; fe 6               | be-is 6; mapped 0; FLUSHED; AGAIN
kill | B5, F gone: destroyed              | BUSY | no-fe; online 0; be 5    | be-is 6; mapped 0; FLUSHED; !no_file
kill | B4 F1: another kernel              | BUSY | reset; fe 1              | be-is 2; publish; connected; quiet 200; untouched; SERVED
kill | B5 F1                              | BUSY | reset; be 5; fe 1        | be-is 2; publish; connected; quiet 200; untouched; SERVED
kill | B4 F4, but the rings are new       | BUSY | reset; push write 24 8; push flush 0 0 | answers 2; untouched; SERVED
stop | B4 F4, stopped, the rings are new  | IDLE | reset; push write 24 8; push flush 0 0 | answers 2; SERVED
kill | B6 F6                              | IDLE; close |                   | be-stays 6 300; reopen; connect; SERVED
kill | B6 F1                              | IDLE; close | fe 1              | be-is 2; connect; SERVED
kill | B2 F3: connects meanwhile          | attach $disk; be-is 2 | publish | connected; write 0 16; SERVED
kill | B1: attached meanwhile             |      | attach $disk             | connect; write 0 16; SERVED
kill | B gone                             | BUSY | no-be                    | !no_file; mapped 0; !nothing_left
kill | B made anew                        | BUSY | reset; attach $disk      | be-is 2; publish; connected; quiet 200; untouched; SERVED
kill | no file, idle                      | IDLE; flush | !rm $file         | SERVED
kill | no file, requests in flight        | BUSY | !rm $file                | HELD; AGAIN
kill | a damaged file                     | BUSY | !truncate -s 100 $file   | HELD; AGAIN
kill | a file of random bytes             | BUSY | !file_random; !file_keep | HELD; !file_is_kept; AGAIN
kill | a file of a newer format           | BUSY | !file_version 99; !file_keep | HELD; !file_is_kept; !daemon_kill; !file_version 1; !daemon_start; ANSWERED
kill | another export configured          | BUSY | !config_edit s/$disk?/elsewhere?/ | HELD; !daemon_kill; !config_back; !daemon_start; ANSWERED
stop | stopped, another export configured | IDLE | !config_edit s/$disk?/elsewhere?/ | status held: ; be-stays 4 200; !daemon_kill; !config_back; !daemon_start; SERVED
kill | not configured any more            | BUSY | !config_edit 's/^.disk.$disk.$/[disk else]/' | HELD; !daemon_kill; !config_back; !daemon_start; ANSWERED
kill | the server is away                 | BUSY | !server_crash rows       | be-stays 4 800; quiet 200; pending 4; !server_start rows; ANSWERED
kill | the server lost its cache          | BUSY | !server_restart rows     | ANSWERED
kill | the export is smaller              | BUSY | !server_restart_small    | be-stays 4 1500; pending 4; !server_restart rows; ANSWERED
none | a second daemon, then the first is killed | IDLE; !second_start; !sleep 1; be-stays 4 1000; write 24 8; read 24 8; !server_pause rows; push write 16 8; push read 0 8; push write 64 8; push flush 0 0; quiet 200; !daemon_kill; !server_resume rows; !second_takes_over | | ANSWERED
X
}

# -- steps of this shell ----------------------------------------------------------------------------
is_said() { wait_for 10 log_has "error: $domid/xvda.*: $1" || fail "$PLAYING: the log does not say: $1"; }
nothing_left() { left=; } # to detach
file_is_gone() { [ ! -e "$file" ]; }
no_file() { wait_for 10 file_is_gone || fail "$PLAYING: the kept file is still there"; }
file_keep() { cp "$file" "$DIR/kept"; }
file_is_kept() { cmp "$file" "$DIR/kept" || fail "$PLAYING: the kept file was changed"; }
file_random() { dd if=/dev/urandom of="$file" bs=64k count=4 conv=notrunc status=none; }
file_version() { # NUMBER: proto/journal's header has it behind its magic
    printf "\\x$(printf %02x "$1")" | dd of="$file" bs=1 seek=8 conv=notrunc status=none
}
config_edit() {
    cp "$CONFIG" "$DIR/config.kept"
    sed -i "$1" "$CONFIG"
    ! cmp -s "$CONFIG" "$DIR/config.kept" || fail "$PLAYING: the configuration did not change"
}
config_back() { cp "$DIR/config.kept" "$CONFIG"; }
server_restart_small() {
    server_late rows rows --volatile --size $((1 << 20))
    server_restart rows
    server_late rows rows --volatile
}
second_start() { # with a lock of its own: nothing but the event channels tells it of the first
    sed "s/^lock = .*/&2/" "$CONFIG" >"$DIR/second.conf"
    LD_LIBRARY_PATH=$SIM/lib "${BLKGATED:-$BUILD/blkgated}" -c "$DIR/second.conf" \
        >>"$DIR/second.log" 2>&1 &
    SECOND_PID=$!
}
second_takes_over() { DAEMON_PID=$SECOND_PID SECOND_PID=; }

# Words in capitals stand for steps.
FLUSHED='!server_restart rows' # its cache is lost: what was flushed is there, and nothing else
steps() { # STEP; STEP...
    local text=$1 word step
    for word in ANSWERED SERVED HELD AGAIN CLOSED FLUSHED BUSY IDLE; do
        text=${text//$word/${!word}}
    done
    while read -r step; do
        case $step in
        '') ;;
        '!'*) eval "${step#!}" ;;
        *) play "$step" ;;
        esac
    done < <(tr ';' '\n' <<<"${text//\$disk/$disk}")
}
play_row() { # END BEFORE DOWN AFTER
    left=yes
    play_start $domid
    steps "$2"
    case $1 in
    kill) daemon_kill ;;
    stop) daemon_stop ;;
    esac
    kill -CONT "${SERVER_PID[rows]}"
    steps "$3"
    [ -n "$DAEMON_PID" ] || daemon_start
    steps "$4"
    [ -z "$left" ] || play detach
    play_end
}

mapfile -t rows < <(table)
for ((i = 0; i < ${#rows[@]}; i++)); do
    printf '\n[disk row%d]\nexport = nbd+unix:///row%d?socket=%s/rows.sock\nfence-time = 1s\n' \
        $i $i "$DIR" >>"$CONFIG"
done
server_start rows
count=0
for ((i = 0; i < ${#rows[@]}; i++)); do
    IFS='|' read -r end PLAYING before down after <<<"${rows[i]}"
    end=${end// /} PLAYING=$(echo $PLAYING) disk=row$i domid=$((100 + i))
    [ -z "${ROWS-}" ] || [[ $PLAYING =~ $ROWS ]] || continue
    echo "-- $SECONDS s: $PLAYING"
    file=$DIR/keep/qdisk-$domid-51712
    [ -n "$DAEMON_PID" ] || daemon_start
    play_row "$end" "$before" "$down" "$after"
    daemon_alive
    count=$((count + 1))
done
note "$count rows"
daemon_stop
