#!/bin/sh
# xenstored.sh BUILD_DIR DIR: starts the real C xenstored of Debian's xen-utils-4.17 on DIR, which
# a simxen serves, and prints its pid when it answers. The caller ends it by that pid.
# Its socket is DIR/run/socket: export XENSTORED_PATH=DIR/run/socket for every client.
# The packages are fetched once, into build/xenroot of the source tree, which all builds share.
set -eu

build=$1
dir=$2
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
xenroot=$source_dir/build/xenroot
xenstored=$xenroot/usr/lib/xen-4.17/bin/xenstored

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
    mv -T "$tmp/root" "$xenroot" 2>/dev/null || [ -x "$xenstored" ] # another run was first
    rm -rf "$tmp"
}

[ -x "$xenstored" ] || fetch
mkdir -p "$dir/run" "$dir/dom"
rm -f "$dir/run/socket"
XENSTORED_RUNDIR=$dir/run BLKGATE_SIM=$dir LD_LIBRARY_PATH= \
    LD_PRELOAD=$build/sim/lib/xenstored-shim.so \
    "$xenstored" -N -F "$dir/run/pid" -T "$dir/run/trace" >"$dir/run/log" 2>&1 </dev/null &
pid=$!

tries=0
until XENSTORED_PATH=$dir/run/socket "$xenroot/usr/bin/xenstore-exists" / 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "xenstored.sh: xenstored did not come up:" >&2
        cat "$dir/run/log" >&2
        kill "$pid" 2>/dev/null || true
        exit 1
    fi
    sleep 0.05
done
echo "$pid"
