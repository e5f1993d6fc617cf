#!/bin/bash
# play-blkgated.sh BUILD SERVER GUESTS [OPTION...]: benchguest, with its OPTIONs, before blkgated
# before the NBD server at SERVER (a socket's path, or ADDRESS:PORT), in a simulation of their own.
# A player: see player.h. It ends, and all with it, at the end of its input.
BUILD=$1 server=$2 guests=$3
shift 3
. "$(dirname "$0")/../system/lab.sh"

# As installed: workers, memory, log level by default, and what is kept on a tmpfs.
keep=$(mktemp -d /dev/shm/bg.XXXXXX) || fail "no tmpfs"
trap 'status=$?; rm -rf "$keep"; (exit $status); lab_end' EXIT
lab_start
sed -i "/^workers/d; /^log-level/d; s|^keep = .*|keep = $keep|" "$CONFIG"
for ((i = 0; i < guests; i++)); do
    case $server in
    /*) disk "d$i" "nbd+unix:///d$i?socket=$server" ;;
    *) disk "d$i" "nbd://$server/d$i" ;;
    esac
done
daemon_start
"$BUILD/benchmark/benchguest" --guests "$guests" --disk d --pid "$DAEMON_PID" "$@" ||
    fail "the guests failed"
daemon_stop
