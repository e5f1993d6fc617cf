#!/bin/bash
# play-qemu.sh BUILD SERVER GUESTS [OPTION...]: as play-blkgated.sh, with QEMU's own xen-block
# backend and NBD driver in the place of blkgated: one process a guest, as xl starts them, with an
# iothread for its disk, as QEMU gives it one there.
BUILD=$1 server=$2 guests=$3
shift 3
. "$(dirname "$0")/../system/lab.sh"
QEMU=/usr/libexec/xen-qemu-system-i386

case $server in
/*) address=server.type=unix,server.path=$server ;;
*) address=server.type=inet,server.host=${server%:*},server.port=${server##*:} ;;
esac
# QEMU makes the disk's nodes itself, and the domain must be there then: benchguest makes that.
qemu_start() { # DOMID EXPORT
    until xenstore-exists "/local/domain/$1/domid"; do sleep 0.05; done
    LD_LIBRARY_PATH=$SIM/lib LD_PRELOAD=$BUILD/benchmark/qemu-shim.so exec "$QEMU" -M xenpv \
        -xen-domid "$1" -xen-attach -nodefaults -display none -name "sim$1" -object iothread,id=t0 \
        -blockdev "driver=nbd,$address,export=$2,node-name=d0" \
        -device xen-disk,vdev=xvda,drive=d0,iothread=t0
}

lab_start
pids=()
for ((i = 0; i < guests; i++)); do
    qemu_start $((i + 1)) "d$i" >>"$DIR/qemu.log" 2>&1 </dev/null &
    NBD_PIDS+=($!) # lab.sh ends them
    disown $!
    pids+=(--pid $!)
done
"$BUILD/benchmark/benchguest" --guests "$guests" --adopt "${pids[@]}" "$@" ||
    { cat "$DIR/qemu.log" >&2; fail "the guests failed"; }
