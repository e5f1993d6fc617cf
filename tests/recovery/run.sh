#!/bin/bash
# tests/recovery/run.sh BUILD_DIR short|full [SCENARIO...]: plays the named scenarios, or all, and
# prints how long the guests' longest requests took.
set -u
BUILD=$(cd "${1-}" && pwd) || exit 100
RECOVERY=${2-}
case $RECOVERY in short | full) ;; *) echo "usage: run.sh BUILD_DIR short|full [SCENARIO...]" >&2; exit 100 ;; esac
shift 2
cd "$(dirname "$0")" || exit 111
. ../play.sh
mkdir -p "$BUILD/recovery"
RECOVERY_TABLE=$BUILD/recovery/table.$RECOVERY
export BUILD RECOVERY RECOVERY_TABLE
: >"$RECOVERY_TABLE"
[ $# -gt 0 ] || set -- table late daemon-kill cache-loss start-matrix failover stop corners
limit=1200
[ "$RECOVERY" = short ] || limit=7200

play_all "$BUILD/recovery" $limit "$@"
status=$?
if [ -s "$RECOVERY_TABLE" ]; then
    echo
    printf '%-46s %9s %7s %7s %29s\n' '' '' '' 'wrong' 'the longest of all, in ms'
    printf '%-46s %9s %7s %7s %9s %9s %9s\n' scenario requests errors bytes read write flush
    sort "$RECOVERY_TABLE"
fi
exit $status
