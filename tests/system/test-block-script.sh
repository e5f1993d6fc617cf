#!/bin/sh
# The hotplug script etc/block-blkgate against a xenstore and a sysfs made of plain files: what it
# waits for, what it unbinds, and what it leaves for xl to read. Needs no Xen and no root.
#
# Usage: test-block-script.sh [case...], from the source directory (or with BLKGATE_SOURCE_DIR).
set -u

script=${BLKGATE_SOURCE_DIR:-.}/etc/block-blkgate
[ -x "$script" ] || {
    echo "$0: $script is not there: run me from the source directory" >&2
    exit 100
}
work=$(mktemp -d) || exit 111
trap 'rm -rf "$work"' EXIT

# -- stand-ins: xenstore is a directory, an unwritable node one whose name ends in .locked --------
mkdir "$work/bin"
cat >"$work/bin/xenstore-read" <<'FAKE'
#!/bin/sh
cat "$STORE/$1" 2>/dev/null || { echo "xenstore-read: couldn't read path $1" >&2; exit 1; }
FAKE
cat >"$work/bin/xenstore-write" <<'FAKE'
#!/bin/sh
while [ $# -gt 1 ]; do
    [ ! -e "$STORE/$1.locked" ] || exit 1
    mkdir -p "$(dirname "$STORE/$1")" && printf %s "$2" >"$STORE/$1" || exit 1
    shift 2
done
FAKE
cat >"$work/bin/xenstore-rm" <<'FAKE'
#!/bin/sh
rm "$STORE/$1" 2>/dev/null
FAKE
cat >"$work/bin/xenstore-chmod" <<'FAKE'
#!/bin/sh
# The permissions of a node in a file beside it, and what it was when it got them.
[ ! -e "$STORE/$1.locked" ] || exit 1
echo "$2 when it was \"$(cat "$STORE/$1")\"" >"$STORE/$1.permissions"
FAKE
chmod +x "$work"/bin/*

base=backend/vbd/5/51712
device=vbd-5-51712

# A new world: a disk in state 2, xen-blkback not loaded.
fresh()
{
    rm -rf "$work/store" "$work/sys"
    mkdir -p "$work/store/$base" "$work/sys/bus/xen-backend/drivers"
    set_node state 2
}

set_node()
{
    printf %s "$2" >"$work/store/$base/$1"
}

load_blkback()
{
    driver=$work/sys/bus/xen-backend/drivers/vbd
    mkdir -p "$driver"
    : >"$driver/unbind"
}

bind()
{
    ln -s ../../../../devices/$device "$driver/$device"
}

# The kernel's part: takes the device from the driver once its name is written to unbind.
kernel()
{
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if [ "$(cat "$driver/unbind")" = $device ]; then
            rm "$driver/$device"
            return
        fi
        sleep 0.1
    done
}

# run ADD|REMOVE [VARIABLE=VALUE...]: sets $code and leaves the output in $work/out.
run()
{
    action=$1
    shift
    code=0
    env PATH="$work/bin:$PATH" STORE="$work/store" BLKGATE_SYSFS="$work/sys" BLKGATE_WAIT=2 \
        XENBUS_PATH=$base XENBUS_TYPE=vbd "$@" "$script" "$action" >"$work/out" 2>&1 || code=$?
}

wrong=0
complain()
{
    echo "FAILED $case: $1" >&2
    [ ! -s "$work/out" ] || sed 's/^/    /' "$work/out" >&2
    wrong=$((wrong + 1))
}

expect_code()
{
    [ "$code" -eq "$1" ] || complain "exit status $code instead of $1"
}

expect_node()
{
    found=$(cat "$work/store/$base/$1" 2>/dev/null) || found='(absent)'
    # shellcheck disable=SC2254 # the expectation is a pattern
    case $found in
    $2) ;;
    *) complain "$1 is \"$found\", not \"$2\"" ;;
    esac
}

expect_success()
{
    expect_code 0
    expect_node hotplug-status connected
    expect_node hotplug-error '(absent)'
    expect_node physical-device '(absent)'
}

expect_failure()
{
    expect_code 1
    expect_node hotplug-status error
    expect_node hotplug-error "$1"
}

expect_untouched()
{
    [ ! -s "$driver/unbind" ] || complain "it unbound the device"
}

# -- cases -----------------------------------------------------------------------------------------
ready_without_blkback()
{
    set_node blkgate-status ready
    run add
    expect_success
    expect_node physical-device-path '(absent)'
}

absolute_path()
{
    base=local/domain/0/backend/vbd/5/51712
    mkdir -p "$work/store/$base"
    set_node state 2
    set_node blkgate-status ready
    run add XENBUS_PATH=/$base
    expect_success
    base=backend/vbd/5/51712
}

opening_then_ready()
{
    set_node blkgate-status opening
    (sleep 0.5 && set_node blkgate-status ready) &
    run add
    wait
    expect_success
}

daemon_appears_late()
{
    (sleep 0.5 && set_node blkgate-status ready) &
    run add
    wait
    expect_success
}

boot_disk()
{
    set_node blkgate-status ready
    set_node blkgate-uri 'nbd+unix:///%20?socket=/run/a.sock'
    run add
    expect_success
    expect_node physical-device-path 'nbd+unix:///%20[?]socket=/run/a.sock'
    expect_node physical-device-path.permissions 'n0 when it was ""'
}

boot_disk_in_a_driver_domain()
{
    set_node blkgate-status ready
    set_node blkgate-uri nbd://h/x
    echo 3 >"$work/store/domid"
    run add
    expect_success
    expect_node physical-device-path nbd://h/x
    expect_node physical-device-path.permissions 'n3 when it was ""'
}

# libxl 4.19 makes nbd+unix:///?socket= and the path of it.
boot_disk_of_kind_vbd3()
{
    set_node blkgate-status ready
    set_node blkgate-uri 'nbd+unix:///?socket=/run/a%2Cb.sock'
    run add XENBUS_TYPE=vbd3
    expect_success
    expect_node physical-device-path /run/a%2Cb.sock
    for uri in 'nbd+unix:///x?socket=/run/a.sock' nbd://h/; do
        fresh
        set_node blkgate-status ready
        set_node blkgate-uri "$uri"
        run add XENBUS_TYPE=vbd3
        expect_success
        expect_node physical-device-path '(absent)'
    done
}

boot_disk_that_nobody_may_see()
{
    set_node blkgate-status ready
    set_node blkgate-uri nbd://h/x
    : >"$work/store/$base/physical-device-path.locked"
    run add
    expect_failure '*physical-device-path cannot be written*'
}

failed()
{
    load_blkback && bind
    set_node blkgate-status 'failed: nbd://h/x: connection refused'
    run add
    expect_failure 'nbd://h/x: connection refused'
    expect_untouched
}

no_daemon()
{
    load_blkback && bind
    run add BLKGATE_WAIT=1
    expect_failure 'blkgated does not answer: is it running?*systemctl status blkgated*'
    expect_untouched
}

server_too_slow()
{
    load_blkback && bind
    set_node blkgate-status opening
    run add BLKGATE_WAIT=1
    expect_failure 'blkgated has not reached*within 1 s*'
    expect_untouched
}

unknown_status()
{
    set_node blkgate-status perhaps
    run add BLKGATE_WAIT=1
    expect_failure '*perhaps*'
}

unbinds()
{
    load_blkback && bind
    set_node blkgate-status ready
    kernel &
    run add
    wait
    expect_success
    [ "$(cat "$driver/unbind")" = $device ] || complain "unbind got $(cat "$driver/unbind")"
}

waits_for_the_claim()
{
    load_blkback
    set_node state 1
    set_node blkgate-status ready
    (sleep 0.5 && bind && set_node state 2 && kernel) &
    run add
    wait
    expect_success
    [ ! -L "$driver/$device" ] || complain "the device is still bound"
}

nobody_claims()
{
    load_blkback
    set_node blkgate-status ready
    run add
    expect_success
    expect_untouched
}

claim_never_comes()
{
    load_blkback
    set_node state 1
    set_node blkgate-status ready
    run add BLKGATE_WAIT=1
    expect_failure '*has not claimed vbd-5-51712*'
}

unbind_is_refused()
{
    load_blkback && bind
    rm "$driver/unbind" && mkdir "$driver/unbind"
    set_node blkgate-status ready
    run add
    expect_failure '*does not let go of vbd-5-51712*'
}

unbind_does_nothing()
{
    load_blkback && bind
    set_node blkgate-status ready
    run add BLKGATE_WAIT=1
    expect_failure '*does not let go*still bound*'
}

write_to_unbind_fails()
{
    load_blkback && bind
    ln -sf /dev/full "$driver/unbind"
    set_node blkgate-status ready
    run add
    expect_failure '*does not let go*'
}

old_kernel()
{
    load_blkback && bind
    set_node blkgate-status ready
    kernel &
    set_node state 6 # such a kernel writes it before the link goes
    run add
    wait
    expect_failure '*Linux 5.6*'
}

disk_vanishes()
{
    load_blkback
    rm "$work/store/$base/state"
    set_node blkgate-status ready
    run add
    expect_failure '*vanished*'
}

other_kinds_are_not_unbound()
{
    load_blkback && bind
    set_node blkgate-status ready
    run add XENBUS_TYPE=vbd3
    expect_success
    expect_untouched
}

xenstore_refuses()
{
    set_node blkgate-status ready
    : >"$work/store/$base/hotplug-status.locked"
    run add
    expect_code 1
    grep -q 'hotplug-status cannot be written' "$work/out" || complain "no reason given"
}

remove()
{
    load_blkback && bind
    set_node hotplug-status connected
    run remove
    expect_code 0
    expect_node hotplug-status '(absent)'
    expect_node hotplug-error '(absent)'
    expect_untouched
    run remove
    expect_code 0
}

wrong_use()
{
    run online
    expect_failure '*neither add nor remove*'
    run add XENBUS_PATH=
    expect_code 1
    grep -q 'XENBUS_PATH is not set' "$work/out" || complain "no reason given"
    run add XENBUS_PATH=51712
    expect_code 1
    grep -q 'KIND/DOMID/DEVID' "$work/out" || complain "no reason given"
}

[ $# -gt 0 ] || set -- ready_without_blkback absolute_path opening_then_ready daemon_appears_late \
    boot_disk boot_disk_in_a_driver_domain boot_disk_of_kind_vbd3 boot_disk_that_nobody_may_see \
    failed no_daemon server_too_slow unknown_status unbinds \
    waits_for_the_claim nobody_claims claim_never_comes unbind_is_refused \
    unbind_does_nothing write_to_unbind_fails old_kernel disk_vanishes \
    other_kinds_are_not_unbound xenstore_refuses remove wrong_use

count=0
for case in "$@"; do
    fresh
    : >"$work/out"
    "$case"
    count=$((count + 1))
done
if [ $wrong -gt 0 ]; then
    echo "block-blkgate: $wrong wrong in $count cases" >&2
    exit 1
fi
echo "block-blkgate: $count cases passed"
