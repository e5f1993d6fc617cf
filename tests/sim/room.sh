#!/bin/sh
# room.sh BUILD_DIR COMMAND [ARG...]: runs COMMAND in a fresh simulation (simxen, xenstored) and
# ends it afterwards. COMMAND finds BLKGATE_SIM and XENSTORED_PATH set. The stand-ins are for the
# daemon only: it needs LD_LIBRARY_PATH=$SIM_LIB besides, which COMMAND sets for it alone.
set -eu
build=$(cd "$1" && pwd)
shift
BLKGATE_SIM=$(mktemp -d /tmp/sim.XXXXXX)
XENSTORED_PATH=$BLKGATE_SIM/run/socket
SIM_LIB=$build/sim/lib
export BLKGATE_SIM XENSTORED_PATH SIM_LIB
simxen=$("$build/sim/simxen" -d "$BLKGATE_SIM")
xenstored=
trap 'kill $simxen $xenstored; rm -rf "$BLKGATE_SIM"' EXIT
xenstored=$("$(dirname "$0")/xenstored.sh" "$build" "$BLKGATE_SIM")
"$@"
