#!/bin/sh
# conform.sh BUILD_DIR: the conformance test against the stand-ins. On a Xen host run conform
# itself, as root and without LD_LIBRARY_PATH.
set -eu
build=$1
dir=$(mktemp -d /tmp/conform.XXXXXX)
simxen=$("$build/sim/simxen" -d "$dir")
trap 'kill "$simxen"; rm -rf "$dir"' EXIT
BLKGATE_SIM=$dir LD_LIBRARY_PATH=$build/sim/lib "$build/sim/conform"
