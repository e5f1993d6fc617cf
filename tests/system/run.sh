#!/bin/bash
# tests/system/run.sh BUILD_DIR [TEST...]: runs the named tests, or all that are not long.
set -u
BUILD=$(cd "${1-}" && pwd) || exit 100
export BUILD
shift
cd "$(dirname "$0")" || exit 111
. ../play.sh
long=" soak "
if [ $# = 0 ]; then
    for test in [a-z]*.sh; do
        name=${test%.sh}
        case "$name" in lab* | run | test-*) continue ;; esac # daemon runs test-block-script
        [[ $long == *" $name "* ]] || set -- "$@" "$name"
    done
fi
play_all "$BUILD/system" 900 "$@"
