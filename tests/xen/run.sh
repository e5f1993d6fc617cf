#!/bin/sh
# Boots a real Xen with dom0 and guests in QEMU, runs the scenarios and says how they went.
#   run.sh [SCENARIO...]      all of tests/xen/scenarios without names; exit status 0: every one said ok
#   run.sh --shell            an interactive dom0 with toolstack, NBD servers and daemon up (Ctrl-A X: leave)
# Environment: XENSTORED=xenstored|oxenstored, BLKGATED=the daemon (default: a release build made here),
#   BLKGATED_NEXT=what scenario recovery upgrades it to (default: a copy of it),
#   BACKEND=blkgated|blkback (blkback: the kernel's own backend, for developing the lab), XEN_SECONDS=the time
#   limit, XEN_LONG=1 (cycles, twenty and bench in full), XEN_QEMU=other QEMU options for the CPU, DAEMON_WRAP=a command before the daemon in dom0.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${XEN_CACHE:-$top/build/xen}
BACKEND=${BACKEND:-blkgated}
XENSTORED=${XENSTORED:-xenstored}
long=${XEN_LONG:-}
limit=${XEN_SECONDS:-$([ -n "$long" ] && echo 7200 || echo 1500)}
# Without smap: emulated SMAP stops dom0 at Xen's first access to its memory.
XEN_QEMU=${XEN_QEMU:--accel tcg,thread=multi,tb-size=512 -cpu max,-smap}
all_scenarios='fs fio features grub pvhgrub pygrub hvm hotplug destroy badname recovery stop'
[ -z "$long" ] || all_scenarios="cycles twenty $all_scenarios"

say() { echo "xen: $*"; }
die() { echo "xen: $*" >&2; exit 1; }

need_host_packages() {
    want=
    for pair in qemu-system-x86_64:qemu-system-x86 cpio:cpio; do
        command -v "${pair%%:*}" >/dev/null || want="$want ${pair#*:}"
    done
    [ -n "$want" ] || return 0
    say "installing on this machine:$want"
    # shellcheck disable=SC2086
    { apt-get update -q && apt-get install -qy --no-install-recommends $want; } >&2 ||
        die "could not install:$want"
}

# Without sanitizers: their shadow memory and speed are not for an emulated dom0 of 1 GiB. In a directory of
# its own, so that nobody else's build of the same tree is disturbed.
daemon_binary() {
    [ -z "${BLKGATED:-}" ] || { echo "$BLKGATED"; return; }
    build=$cache/release
    (
        exec 9>"$cache/build.lock"
        flock -w 600 9 || die "another build does not end"
        cd "$top" && cmake --preset release -B "$build" -DBLKGATE_TESTS=OFF && cmake --build "$build"
    ) >"$log/build.log" 2>&1 || { tail -n 20 "$log/build.log" >&2; die "the release build failed"; }
    echo "$build/blkgated"
}

# What dom0 sees as /lab: everything that is of this run, so that the image never is.
make_share() {
    mkdir -p "$share/out" "$share/bin" "$share/etc"
    cp -r "$here/dom0" "$here/scenarios" "$share/"
    if [ "$BACKEND" = blkgated ]; then
        daemon=$(daemon_binary)
        [ -x "$daemon" ] || die "no daemon at '$daemon'"
        [ -f "$top/etc/block-blkgate" ] || die "no etc/block-blkgate"
        cp "$daemon" "$share/bin/blkgated"
        [ ! -x "${daemon%/*}/blkgate" ] || cp "${daemon%/*}/blkgate" "$share/bin/"
        [ -z "${BLKGATED_NEXT:-}" ] || cp "$BLKGATED_NEXT" "$share/bin/blkgated.next"
        cp -r "$top/etc/." "$share/etc/"
    fi
    mkdir -p "$log/guest/lab"
    cp "$here"/guest/* "$log/guest/lab/"
    mv "$log/guest/lab/init" "$log/guest/init"
    chmod +x "$log/guest/init"
    (cd "$log/guest" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$share/guest.cpio"
    rm -r "$log/guest"
    cat >"$share/settings" <<END
BACKEND='$BACKEND' XENSTORED='$XENSTORED' SCENARIOS='$scenarios' INTERACTIVE='$interactive' LONG='$long'
DAEMON_WRAP='${DAEMON_WRAP:-}'
END
}

# qemu SERIAL: in the image's directory, because QEMU splits these arguments at spaces and commas.
qemu() {
    cd "$image"
    # shellcheck disable=SC2086
    exec qemu-system-x86_64 -machine q35 $XEN_QEMU -smp 2 -m 3584 -nodefaults -display none -no-reboot \
        -kernel xen -append "console=com1 com1=115200,8n1 dom0_mem=1280M dom0_max_vcpus=1 loglvl=warning sched=credit" \
        -initrd "vmlinuz console=hvc0 quiet mitigations=off,dom0.initrd" \
        -drive file=dom0.img,format=raw,if=virtio,snapshot=on,cache=unsafe \
        -fsdev "local,id=lab,path=$share,security_model=none,multidevs=remap" \
        -device virtio-9p-pci,fsdev=lab,mount_tag=lab "$@"
}

# Ends what is running, by its number. (Called by the trap.)
# shellcheck disable=SC2317
stop_all() {
    [ -n "$machine" ] || return 0
    kill "$machine" 2>/dev/null || :
    wait "$machine" 2>/dev/null || :
    wait "$progress" 2>/dev/null || :   # tail ends with the machine, sed with tail
    machine='' progress=''
}

# The share is only a way in and out; its results stay beside the console. (Called by the trap.)
# shellcheck disable=SC2317
keep_logs() {
    [ -d "$share/out" ] || return 0
    cp -r "$share/out/." "$log/" && rm -rf "$share"
    ln -sfn "${log##*/}" "$cache/log-latest"
    # The last ten runs are enough to look back at.
    find "$cache" -maxdepth 1 -name 'log-2*' | sort -r | tail -n +11 | xargs -r rm -rf
}

said() { tr -d '\r' <"$log/console" | grep -aq "$1"; }

wait_for_end() {
    end=$(($(date +%s) + limit))
    while kill -0 "$machine" 2>/dev/null; do
        [ "$(date +%s)" -lt "$end" ] || { say "not done within $limit s"; return; }
        # A machine that said its last word but does not switch itself off is not waited for.
        said '^BLKGATE-DONE' && { sleep 5; return; }
        sleep 1
    done
}

verdict() {
    failed=0
    said '^BLKGATE-DONE' || { say "the machine did not get to its end: $log/console"; tail -n 15 "$log/console"; failed=1; }
    for name in $scenarios; do
        said "^BLKGATE-TEST $name: ok" && continue
        failed=1
        said "^BLKGATE-TEST $name: FAIL" || say "$name: no result"
    done
    return $failed
}

interactive=
scenarios=
for word in "$@"; do
    case $word in
    --shell) interactive=yes ;;
    -*) die "usage: run.sh [--shell] [SCENARIO...]" ;;
    *) [ -f "$here/scenarios/$word" ] || die "no scenario '$word'"; scenarios="$scenarios $word" ;;
    esac
done
scenarios=${scenarios:-$all_scenarios}

begin=$(date +%s)
need_host_packages
image=$("$here/image.sh") || die "no image"
log=$(mktemp -d "$cache/log-$(date +%Y%m%d-%H%M%S)-XXXX")
share=$log/share
machine='' progress=''
trap 'stop_all; keep_logs' EXIT
trap 'exit 130' INT TERM HUP
make_share

if [ -n "$interactive" ]; then
    (qemu -chardev stdio,id=console,mux=on,signal=off,logfile="$log/console" -serial chardev:console -mon chardev=console)
    exit
fi

: >"$log/console"
qemu -serial "file:$log/console" </dev/null >"$log/qemu.log" 2>&1 &
machine=$!
tail -n +1 -f --pid="$machine" "$log/console" | sed -un \
    's/\r//; s/^BLKGATE-LOG /xen:   /p; s/^BLKGATE-TEST /xen: /p; s/^BLKGATE-BOOT: /xen: boot failed: /p' &
progress=$!
wait_for_end
stop_all
status=0
verdict || status=1
say "$(($(date +%s) - begin)) s; logs in $log"
exit $status
