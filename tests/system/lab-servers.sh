# Sourced after lab.sh: servers that crash, hang and come back. A server has a name, and keeps its
# address (server_uri; $DIR/NAME.sock unless SERVER_AT[NAME]=ADDRESS:PORT was set before) and the
# image that it serves, which several may share. Its output is in $DIR/NAME.log.
#
#   image IMAGE SIZE                the file $DIR/IMAGE.img: what is in it is durable
#   server_cached NAME IMAGE [ARG...]    nbdkit; a crash loses what was not flushed
#   server_file NAME IMAGE [ARG...]      nbdkit; no cache of its own
#   server_qemu NAME IMAGE [ARG...]      qemu-nbd; no cache of its own
#   server_late NAME IMAGE [ARG...]      tests/nbd/late; late_say NAME WORD... is its control file,
#                                        $DIR/NAME.journal its journal
#   server_evil NAME IMAGE FAULT...      tests/nbd/evil
#       These start nothing. The same name again: the next start is of another kind.
#   server_start NAME...            starts it, and waits until it listens
#   server_crash NAME...            SIGKILLs all of them, then waits until they are gone
#   server_restart NAME...          crashes and starts
#   server_stop NAME...             a clean stop: SIGTERM
#   server_pause, server_resume NAME...  SIGSTOP, SIGCONT
#   server_flap NAME PID UP DOWN    crashes it after UP seconds, starts it after DOWN, while PID
#                                   lives; leaves it running; sets SERVER_CRASHES
# Call them in the test's own shell, not in a subshell: they keep pids, and servers end with it.

declare -A SERVER_AT=() SERVER_COMMAND=() SERVER_PID=()
SERVER_CRASHES=0

image() { truncate -s "$2" "$DIR/$1.img" || fail "no image $1"; }

server_at() { echo "${SERVER_AT[$1]-$DIR/$1.sock}"; }
server_uri() { # NAME [EXPORT]
    local at
    at=$(server_at "$1")
    case $at in
    /*) echo "nbd+unix:///${2-}?socket=$at" ;;
    *) echo "nbd://$at/${2-}" ;;
    esac
}
# server_by NAME UNIX_OPTION ADDRESS_OPTION PORT_OPTION: where it listens, in a program's own words.
server_by() {
    local at
    at=$(server_at "$1")
    case $at in
    /*) echo "$2 $at" ;;
    *) echo "$3 ${at%:*} $4 ${at##*:}" ;;
    esac
}
server_new() { # NAME COMMAND...: a command that stays in the foreground
    local name=$1
    shift
    SERVER_COMMAND[$name]=${*@Q}
}

# noparallel: nbdkit 1.32 aborts when a client leaves with several commands in flight. --filter=log
# among the ARGs is between the client and the cache.
server_cached() {
    server_new "$1" nbdkit -f $(server_by "$1" -U -i -p) --filter=noparallel "${@:3}" \
        --filter=cache file "$DIR/$2.img" cache=writeback
}
server_file() {
    server_new "$1" nbdkit -f $(server_by "$1" -U -i -p) --filter=noparallel "${@:3}" \
        file "$DIR/$2.img"
}
server_qemu() {
    server_new "$1" qemu-nbd -t -e 16 -f raw $(server_by "$1" -k -b -p) "${@:3}" "$DIR/$2.img"
}
server_late() {
    local at where=--unix
    at=$(server_at "$1")
    [ "${at#/}" != "$at" ] || where=--tcp
    server_new "$1" "$BUILD/nbd/late" $where "$at" --file "$DIR/$2.img" --log "$DIR/$1.journal" \
        --control "$DIR/$1.control" "${@:3}"
}
server_evil() {
    local fault arguments=()
    for fault in "${@:3}"; do arguments+=(--fault "$fault"); done
    server_new "$1" "$BUILD/nbd/evil" --unix "$DIR/$1.sock" --file "$DIR/$2.img" \
        --size "$(stat -c %s "$DIR/$2.img")" "${arguments[@]}"
}

late_say() { # NAME [WORD...]: in force for every command that arrives from now on
    echo "${*:2}" >"$DIR/$1.control.new" && mv "$DIR/$1.control.new" "$DIR/$1.control"
}

server_listens() {
    local at
    at=$(server_at "$1")
    kill -0 "${SERVER_PID[$1]}" || return 1
    case $at in
    /*) [ -S "$at" ] ;;
    *) (: <"/dev/tcp/${at%:*}/${at##*:}") ;;
    esac
}
server_start() {
    local name
    for name in "$@"; do
        [ -z "${SERVER_PID[$name]-}" ] || fail "server $name is running already"
        rm -f "$DIR/$name.sock"
        eval "${SERVER_COMMAND[$name]}" '>>"$DIR/$name.log" 2>&1 </dev/null &'
        SERVER_PID[$name]=$!
        NBD_PIDS+=($!) # lab.sh ends them
        disown $!
    done
    for name in "$@"; do
        wait_for 20 server_listens "$name" ||
            { tail "$DIR/$name.log"; fail "server $name does not start"; }
    done
}
server_signal() { # SIGNAL NAME...
    local name pids=()
    for name in "${@:2}"; do pids+=("${SERVER_PID[$name]-}"); done
    kill "-$1" "${pids[@]}" 2>/dev/null || fail "no SIG$1: of ${*:2} not all are running"
}
server_is_paused() { # the threads of a process stop one by one, after the signal was sent
    ! sed 's/.*) //' "/proc/${SERVER_PID[$1]}/task"/*/stat | grep -qv '^T'
}
server_pause() {
    local name
    server_signal STOP "$@"
    for name in "$@"; do wait_for 10 server_is_paused "$name" || fail "server $name does not stop"; done
}
server_resume() { server_signal CONT "$@"; }
server_gone() { # SIGNAL NAME...
    local name pid kept
    server_signal "$@"
    for name in "${@:2}"; do
        pid_end "${SERVER_PID[$name]}" "$1"
        kept=()
        for pid in "${NBD_PIDS[@]}"; do # its number may be another process's soon
            [ "$pid" = "${SERVER_PID[$name]}" ] || kept+=("$pid")
        done
        NBD_PIDS=("${kept[@]}")
        unset "SERVER_PID[$name]"
    done
}
server_crash() { server_gone KILL "$@"; }
server_stop() { server_gone TERM "$@"; }
server_restart() {
    server_crash "$@"
    server_start "$@"
}
server_flap() {
    SERVER_CRASHES=0
    while kill -0 "$2" 2>/dev/null; do
        sleep "$3"
        server_crash "$1"
        SERVER_CRASHES=$((SERVER_CRASHES + 1))
        sleep "$4"
        server_start "$1"
    done
}
