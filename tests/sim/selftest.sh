#!/bin/sh
# selftest.sh BUILD_DIR: the self-test of the simulation, with xenstored.
exec "$(dirname "$0")/room.sh" "$1" \
    sh -c 'LD_LIBRARY_PATH=$SIM_LIB exec "$1/sim/selftest"' sh "$1"
