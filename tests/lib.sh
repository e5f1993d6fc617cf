# Sourced by tests/run, tests/bench and tests/demo: packages, builds, and messages.
# After sourcing: ROOT is the checkout, and it is the working directory.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 111

BUILD_PACKAGES="gcc libc6-dev cmake ninja-build pkg-config libnbd-dev libxen-dev libev-dev
    libinih-dev libsystemd-dev libcmocka-dev"
LAB_PACKAGES="nbdkit qemu-utils nbd-server xenstore-utils procps"
CEPH_PACKAGES="ceph-mon ceph-osd ceph-common qemu-block-extra jq"
BENCH_PACKAGES="fio qemu-system-xen python3 strace valgrind"
CHECK_PACKAGES="clang libclang-rt-14-dev clang-format clang-tidy git"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'tests: %s\n' "$*" >&2; exit 1; }

# Installs those of the named Debian packages that are missing, and says so.
packages_need() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing Debian packages: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "run as root, or install them yourself: apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Services that packages start (nbd-server) would outlive us: forbid it while installing.
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=1
    fi
    local log=${TMPDIR:-/tmp}/blkgate-apt.log failed=
    { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 || failed=1
    [ -z "$made_policy" ] || rm -f "$policy"
    [ -z "$failed" ] || { tail -20 "$log" >&2; die "apt-get failed, see $log"; }
}

# Configures and builds a preset of CMakePresets.json; prints only what went wrong.
build() {
    local preset=$1 log=$ROOT/build/$1.log
    mkdir -p "$ROOT/build"
    say "Building preset $preset (log: build/$preset.log)"
    if ! { cmake --preset "$preset" && cmake --build --preset "$preset"; } >"$log" 2>&1; then
        grep -E 'error|warning|FAILED|CMake Error' -A3 "$log" | head -60 >&2
        printf 'tests: the build failed, see %s\n' "$log" >&2
        return 1
    fi
}
