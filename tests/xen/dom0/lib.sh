# shellcheck shell=sh
# What dom0's init and the scenarios share. Every wait has a bound.
# A scenario is a script run with this file sourced and set -u; it ends by itself (ok) or calls fail.

# The disks of the lab: one memory-backed NBD server each, named alike in blkgate.conf.
LAB_DISKS='fs fio hot kill'
# Disks whose servers scenarios start themselves.
LAB_OWN_DISKS='sparse boot pvhboot pyboot hvmboot kept bench'
LAB_DISK_SIZE=64M
LAB_SCRIPT=block-blkgate
SCENARIO_SECONDS=600
[ -z "$LONG" ] || SCENARIO_SECONDS=3000

say() { echo "BLKGATE-LOG $*" >/dev/console; }
now() { cut -d. -f1 /proc/uptime; }

fail() {
    echo "REASON $*"
    exit 1
}

# await SECONDS COMMAND...: until the command succeeds; fails when it never does.
await() {
    await_end=$(($(now) + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now)" -lt "$await_end" ] || return 1
        sleep 0.3
    done
}

# --- what the disks are made of -------------------------------------------------------------------

nbd_uri() { echo "nbd+unix:///?socket=/run/nbd/$1.sock"; }

servers_start() {
    for disk in $LAB_DISKS; do
        server_start "$disk" memory "$LAB_DISK_SIZE" || return 1
    done
}

# server_start DISK NBDKIT-ARGUMENT...
server_start() {
    server=$1; shift
    server_stop "$server"
    # One thread: nbdkit 1.32.5 aborts when a client leaves with several commands in flight.
    nbdkit --threads=1 -U "/run/nbd/$server.sock" -P "/run/nbd/$server.pid" "$@" || return 1
    await 20 test -s "/run/nbd/$server.pid" || { echo "no nbdkit for $server"; return 1; }
}

server_stop() {
    [ ! -s "/run/nbd/$1.pid" ] || kill "$(cat "/run/nbd/$1.pid")"
    rm -f "/run/nbd/$1.pid" "/run/nbd/$1.sock"
}

server_crash() {
    kill -KILL "$(cat "/run/nbd/$1.pid")" || fail "server $1 is gone"
    rm -f "/run/nbd/$1.pid" "/run/nbd/$1.sock"
}

blkgate_conf() {
    # By default one queue a CPU, and dom0 has one.
    printf '[gateway]\nqueues = 4\n'
    for disk in $LAB_DISKS $LAB_OWN_DISKS; do
        printf '\n[disk %s]\nexport = %s\n' "$disk" "$(nbd_uri "$disk")"
        [ "$disk" != kept ] || echo 'drains = yes' # nbdkit does
    done
}

backend_start() {
    # Stock dom0: the kernel's backend is there and looks at every vbd first.
    modprobe xen-blkback || return 1
    case $BACKEND in
    blkgated) daemon_start ;;
    blkback) kernel_start ;;
    *) echo "no such backend: $BACKEND"; return 1 ;;
    esac
}

daemon_start() {
    ldd /lab/bin/blkgated | grep 'not found' && return 1
    cp /lab/bin/blkgated /usr/sbin/ && chmod +x /usr/sbin/blkgated || return 1
    [ ! -f /lab/bin/blkgate ] || { cp /lab/bin/blkgate /usr/bin/ && chmod +x /usr/bin/blkgate; }
    cp /lab/etc/block-blkgate "/etc/xen/scripts/$LAB_SCRIPT" && chmod +x "/etc/xen/scripts/$LAB_SCRIPT" || return 1
    mkdir -p /etc/blkgate /run/blkgate
    mount -t tmpfs -o size=256M,mode=700 blkgate /run/blkgate || return 1
    blkgate_conf >/etc/blkgate/blkgate.conf
    daemon_run
}

daemon_run() {
    # $DAEMON_WRAP: for a look inside, e.g. strace -f -o /lab/out/strace
    # Its parent keeps its exit status for the scenario "stop".
    rm -f /run/lab/daemon.status
    # shellcheck disable=SC2016,SC2086
    { sh -c 'echo $$ >/run/lab/daemon.pid; exec "$@"' sh ${DAEMON_WRAP:-} /usr/sbin/blkgated \
        -c /etc/blkgate/blkgate.conf; echo $? >/run/lab/daemon.status; } >>/lab/out/daemon.log 2>&1 &
    sleep 2
    daemon_alive || { tail -n 3 /lab/out/daemon.log; return 1; }
}

# Each waits for its end, and fails if it was another than that.
daemon_end() { # SIGNAL STATUS
    kill "-$1" "$(cat /run/lab/daemon.pid)"
    await 30 test -s /run/lab/daemon.status && [ "$(cat /run/lab/daemon.status)" = "$2" ]
}
daemon_crash() { daemon_end KILL 137; }
daemon_stop() { daemon_end TERM 0; }

daemon_alive() { [ ! -e /run/lab/daemon.status ] && kill -0 "$(cat /run/lab/daemon.pid)" 2>/dev/null; }

# For developing the lab without a daemon: the kernel's NBD client and backend under the same names.
kernel_start() {
    n=0
    for disk in $LAB_DISKS; do
        kernel_disk "$disk" "$n" || return 1
        n=$((n + 1))
    done
    kernel_script "$LAB_SCRIPT"
}

# kernel_disk DISK NUMBER: the server's disk as a device of dom0, where block-blkback finds it.
kernel_disk() {
    modprobe nbd nbds_max=8 max_part=0 && mkdir -p /run/lab/dev &&
        timeout 20 nbd-client -u "/run/nbd/$1.sock" "/dev/nbd$2" && ln -s "/dev/nbd$2" "/run/lab/dev/$1"
}

# kernel_script NAME: block-blkback for xl, under that name.
kernel_script() { cp /lab/dom0/block-blkback "/etc/xen/scripts/$1" && chmod +x "/etc/xen/scripts/$1"; }

# server_sum NAME BYTES: the checksum of what the server really holds at its start.
server_sum() {
    nbdcopy "$(nbd_uri "$1")" - 2>/dev/null | head -c "$2" | sha256sum | cut -d' ' -f1
}

# boot_disk NAME TREE MIB: a disk with one partition of the files in TREE (which goes), and its server. What
# is asked of the server is in NAME.commands.
boot_disk() {
    truncate -s "$3M" "/run/lab/$1.img"
    echo 2048, | sfdisk -q "/run/lab/$1.img" &&
        mke2fs -q -t ext2 -d "$2" -E offset=1048576 "/run/lab/$1.img" "$(($3 - 1))M" || return 1
    rm -rf "$2"
    server_start "$1" --filter=log file "/run/lab/$1.img" "logfile=/lab/out/$1.commands"
}

# --- guests ---------------------------------------------------------------------------------------

# disk_spec DISK VDEV [SCRIPT]
disk_spec() { echo "vdev=$2,format=raw,script=${3:-$LAB_SCRIPT},target=$1"; }

guest_log() { echo "/var/log/xen/guest-$1.log"; }

# guest_conf NAME TEST [DISK:VDEV[:SCRIPT]]...: TEST is the file in tests/xen/guest that the guest's init runs.
guest_conf() {
    guest=$1 test=$2; shift 2
    type=pv bootloader='' kernel=/guest/vmlinuz ramdisk=/run/lab/plain.cpio memory=160 vcpus=1
    extra="console=hvc0 quiet mitigations=off panic=5 lab=$test"
    case $test in
    fio | recovery | bench) ramdisk=/run/lab/fio.cpio memory=512 ;;
    # They find everything on the disk, Linux' command line too.
    grub | pvhgrub)
        ramdisk='' memory=640 extra='(xen/xvda,msdos1)/boot/grub/grub.cfg'
        kernel=/usr/lib/grub-xen/grub-x86_64-xen.bin
        [ "$test" = grub ] || type=pvh kernel=/usr/lib/grub-xen/grub-i386-xen_pvh.bin
        ;;
    cycles) extra="$extra rounds=${cycles_rounds:?}" ;;
    pygrub) kernel='' ramdisk='' bootloader=pygrub extra='' ;;
    # Linux' own limits are lower than what is offered.
    features)
        memory=320 vcpus=2
        extra="$extra xen_blkfront.max_queues=2 xen_blkfront.max_ring_page_order=4"
        extra="$extra xen_blkfront.max_indirect_segments=256"
        ;;
    esac
    disks=
    for disk in "$@"; do
        # shellcheck disable=SC2046
        disks="$disks'$(disk_spec $(echo "$disk" | tr : ' '))', "
    done
    cat <<END
name = "$guest"
type = "$type"
${kernel:+kernel = \"$kernel\"}
${bootloader:+bootloader = \"$bootloader\"}
${ramdisk:+ramdisk = \"$ramdisk\"}
extra = "$extra"
memory = $memory
vcpus = $vcpus
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "preserve"
disk = [ ${disks%, } ]
END
}

guest_create() {
    guest_conf "$@" >"/run/lab/$1.cfg"
    timeout 90 xl create "/run/lab/$1.cfg" || fail "xl create $1: exit status $?"
}

guest_said() { tr -d '\r' <"$(guest_log "$1")" | grep -q "^GUEST: $2"; }
guest_ended() { guest_said "$1" "$2" || guest_said "$1" FAIL || guest_crashed "$1"; }
guest_crashed() { xl list "$1" 2>/dev/null | grep -q -- "$1 .*c-- "; }
guest_gone() { ! xl domid "$1"; }

# Sometimes, under load, the emulator goes on with a PVH or HVM guest where it left Xen: it dies with Xen's own
# code segment and address. Such an attempt says nothing about a disk, and is worth another one.
emulator_lost_guest() {
    xl dmesg | grep -A 4 'Triple fault' | grep -q 'RIP: *e008:\[<ffff82d0'
}

# in_three_attempts ATTEMPT: the function gets a number, and fails by itself for every other reason.
in_three_attempts() {
    for number in 1 2 3; do
        xl dmesg -c >/dev/null
        "$1" $number && return
        emulator_lost_guest || { xl dmesg | tail -n 25; fail "$1: the guest died"; }
        say "$1: the emulator lost the guest, attempt $number"
    done
    fail "$1: the emulator lost three guests"
}

# guest_await NAME SECONDS WORDS: until the guest's console says "GUEST: WORDS".
guest_await() {
    await "$2" guest_ended "$1" "$3"
    guest_said "$1" "$3" && return 0
    guest_said "$1" FAIL && fail "$1: $(grep -a '^GUEST: FAIL' "$(guest_log "$1")" | tr -d '\r' | tail -n 1)"
    tail -n 5 "$(guest_log "$1")"
    fail "$1 did not say '$3' within $2 s"
}

# guest_value NAME WORD: what the guest printed after "GUEST: WORD ".
guest_value() { tr -d '\r' <"$(guest_log "$1")" | sed -n "s/^GUEST: $2 //p" | tail -n 1; }

# assert_served_by_us GUEST VDEV: the scenarios would say nothing if the kernel's backend had the disk.
assert_served_by_us() {
    [ "$BACKEND" = blkgated ] || return 0
    case $2 in xvda) devid=51712 ;; xvdb) devid=51728 ;; *) fail "unknown vdev $2" ;; esac
    [ ! -e "/sys/bus/xen-backend/drivers/vbd/vbd-$(xl domid "$1")-$devid" ] ||
        fail "xen-blkback serves $1's $2"
}

# --- what must be left behind: nothing ------------------------------------------------------------

backend_nodes() { xenstore-ls backend/vbd 2>/dev/null | grep -c 'frontend-id'; }
no_backend_nodes() { [ "$(backend_nodes)" = 0 ]; }
# A guest whose memory is still mapped somewhere stays in the list, as (null) or dying.
only_dom0() { [ "$(xl list | wc -l)" = 2 ]; }

# Xen's own list of grants in use: entries of guests that somebody has mapped or pinned.
grants_in_use() {
    xl dmesg -c >/dev/null
    xl debug-keys g
    sleep 1
    xl dmesg >/run/lab/grants
    grep -cE '^\(XEN\) *\[0x[0-9a-f]+\]' /run/lab/grants
}

assert_nothing_left() {
    await 20 only_dom0 || { xl list; fail "$1 left a domain: $(xl list | tail -n 1)"; }
    await 20 no_backend_nodes || { xenstore-ls backend/vbd; fail "$1 left a backend node"; }
    left=$(grants_in_use)
    [ "$left" = 0 ] || { cat /run/lab/grants; fail "$1 left $left grants mapped"; }
}

# all_or A B: how often something is done: A times in a long run, else B times.
all_or() { if [ -n "$LONG" ]; then echo "$1"; else echo "$2"; fi; }

# What the daemon has and what Xen and xenstore have for it, a line each; the resident memory is apart.
daemon_holdings() {
    pid=$(cat /run/lab/daemon.pid)
    echo "descriptors $(find "/proc/$pid/fd" -mindepth 1 | wc -l)"
    echo "threads $(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l)"
    echo "gntdev-mappings $(grep -c gntdev "/proc/$pid/maps")"
    echo "grants $(grants_in_use)"
    echo "dom0-ports $(lsevtchn 0 | wc -l)"
    echo "xenstore-nodes $(xenstore-ls -f | wc -l)"
}
daemon_resident_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$(cat /run/lab/daemon.pid)/status"; }

# assert_not_grown KIB: at any time malloc may grow the heap by its step of 128 KiB; a leak does so often.
assert_not_grown() {
    grown=$(($(daemon_resident_kib) - $1))
    [ $grown -le 128 ] || fail "the daemon grew by $grown KiB"
}

# --- running a scenario ---------------------------------------------------------------------------

clear_guests() {
    for guest in $(timeout 20 xl list | awk 'NR > 2 && $1 != "(null)" { print $1 }'); do
        timeout 40 xl destroy "$guest"
    done
}

# Runs one scenario, bounded, and prints its marked line.
scenario() {
    log=/lab/out/$1.log
    begin=$(now)
    # shellcheck disable=SC2016
    timeout -k 10 "$SCENARIO_SECONDS" \
        sh -u -c '. /lab/settings; . /lab/dom0/lib.sh; . "$1"' sh "/lab/scenarios/$1" >"$log" 2>&1
    status=$?
    verdict=ok
    if [ $status != 0 ]; then
        reason=$(sed -n 's/^REASON //p' "$log" | tail -n 1)
        [ $status != 124 ] || reason="not done within $SCENARIO_SECONDS s"
        verdict="FAIL ${reason:-exit status $status: $(tail -n 1 "$log")}"
        tail -n 15 "$log" | sed 's/^/BLKGATE-LOG   | /' >/dev/console
    fi
    clear_guests >>"$log" 2>&1
    if [ "$BACKEND" = blkgated ] && [ "$1" != stop ] && ! daemon_alive; then
        verdict="FAIL the daemon is gone: $(tail -n 1 /lab/out/daemon.log) ($verdict)"
        tail -n 15 /lab/out/daemon.log | sed 's/^/BLKGATE-LOG   | /' >/dev/console
        backend_restart
    fi
    echo "BLKGATE-TEST $1: $verdict ($(($(now) - begin)) s)" >/dev/console
}

# So that one crash does not hide what the later scenarios have to say.
backend_restart() {
    umount /run/blkgate
    daemon_start >>/lab/out/boot.log 2>&1
}
