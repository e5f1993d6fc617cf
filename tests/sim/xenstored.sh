#!/bin/sh
# xenstored.sh BUILD_DIR DIR: starts the real xenstored of Debian's xen-utils-4.17 on DIR, which a
# simxen serves, and prints its pid when it answers: the C one, or with XENSTORED=oxenstored the
# OCaml one, which Debian runs unless it is told otherwise. The caller ends it by that pid.
# Its socket is DIR/run/socket: export XENSTORED_PATH=DIR/run/socket for every client.
# The C one writes each request to DIR/run/trace, and what each domain has left of its quota of
# writes: XENSTORED_TRACE=no for many domains, with which that takes nearly all of its time.
# The packages are fetched once, into build/xenroot of the source tree, which all builds share.
set -eu

build=$1
dir=$2
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
xenroot=$source_dir/build/xenroot
which=${XENSTORED:-xenstored}
program=$xenroot/usr/lib/xen-4.17/bin/$which

fetch() {
    mkdir -p "$source_dir/build"
    tmp=$(mktemp -d "$source_dir/build/xenroot.XXXXXX")
    # apt warns that its sandbox user cannot write here; it then downloads as this user.
    if ! (cd "$tmp" && apt-get -q download xen-utils-4.17 xen-utils-common xenstore-utils) \
        >"$tmp/log" 2>&1; then
        cat "$tmp/log" >&2
        rm -rf "$tmp"
        exit 1
    fi
    for package in "$tmp"/*.deb; do
        dpkg -x "$package" "$tmp/root"
    done
    mv -T "$tmp/root" "$xenroot" 2>/dev/null || [ -x "$program" ] # another run was first
    rm -rf "$tmp"
}

# Debian's own configuration, but for what lies in fixed places, and would be one host's only.
configure_oxenstored() {
    printf 2 >"$dir/run/xsd_port" # a newline would be none of the number
    truncate -s 4096 "$dir/run/xsd_kva"
    sed -E '/^ *(test-eagain|pid-file|xenstored-kva|xenstored-port|xenstored-log-file|access-log-file) *=/d' \
        "$xenroot/etc/xen/oxenstored.conf"
    cat <<X
pid-file = $dir/run/pid
xenstored-kva = $dir/run/xsd_kva
xenstored-port = $dir/run/xsd_port
test-eagain = true
xenstored-log-file = $dir/run/trace
access-log-file = $dir/run/access
X
}

case "$which" in
xenstored)
    set -- -N -F "$dir/run/pid"
    [ "${XENSTORED_TRACE-}" = no ] || set -- "$@" -T "$dir/run/trace"
    ;;
oxenstored) set -- --no-fork --config-file "$dir/run/oxenstored.conf" ;;
*) echo "xenstored.sh: XENSTORED is xenstored or oxenstored, not $which" >&2; exit 100 ;;
esac
[ -x "$program" ] || fetch
mkdir -p "$dir/run" "$dir/dom"
rm -f "$dir/run/socket"
configure_oxenstored >"$dir/run/oxenstored.conf"
XENSTORED_RUNDIR=$dir/run BLKGATE_SIM=$dir LD_LIBRARY_PATH= \
    LD_PRELOAD=$build/sim/lib/xenstored-shim.so \
    "$program" "$@" >"$dir/run/log" 2>&1 </dev/null &
pid=$!

tries=0
until XENSTORED_PATH=$dir/run/socket "$xenroot/usr/bin/xenstore-exists" / 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "xenstored.sh: $which did not come up:" >&2
        cat "$dir/run/log" >&2
        kill "$pid" 2>/dev/null || true
        exit 1
    fi
    sleep 0.05
done
echo "$pid"
