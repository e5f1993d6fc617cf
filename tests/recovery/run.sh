#!/bin/bash
# tests/recovery/run.sh BUILD_DIR short|full [SCENARIO...]: plays the named scenarios, or all, and
# prints how long the guests' longest requests took.
set -u
BUILD=$(cd "${1-}" && pwd) || exit 100
RECOVERY=${2-}
case $RECOVERY in short | full) ;; *) echo "usage: run.sh BUILD_DIR short|full [SCENARIO...]" >&2; exit 100 ;; esac
shift 2
cd "$(dirname "$0")" || exit 111
mkdir -p "$BUILD/recovery"
RECOVERY_TABLE=$BUILD/recovery/table.$RECOVERY
export BUILD RECOVERY RECOVERY_TABLE
: >"$RECOVERY_TABLE"
[ $# -gt 0 ] || set -- cache-loss daemon-kill late table failover start-matrix stop corners
limit=1200
[ "$RECOVERY" = short ] || limit=7200

passed=0 failed=0
for name in "$@"; do
    start=$SECONDS
    printf '  %-14s ' "$name"
    if timeout -k 20 "${BLKGATE_TEST_TIMEOUT:-$limit}" "./$name.sh" \
        >"$BUILD/recovery/$name.log" 2>&1 </dev/null; then
        printf 'ok      %4d s\n' $((SECONDS - start))
        grep "^$name: " "$BUILD/recovery/$name.log" | sed 's/^/    /'
        passed=$((passed + 1))
    else
        printf 'FAILED  %4d s (log: %s)\n' $((SECONDS - start)) "$BUILD/recovery/$name.log"
        tail -40 "$BUILD/recovery/$name.log"
        failed=$((failed + 1))
    fi
done
if [ -s "$RECOVERY_TABLE" ]; then
    echo
    printf '%-46s %9s %7s %7s %29s\n' '' '' '' 'wrong' 'the longest of all, in ms'
    printf '%-46s %9s %7s %7s %9s %9s %9s\n' scenario requests errors bytes read write flush
    cat "$RECOVERY_TABLE"
fi
echo "recovery: $passed passed, $failed failed"
[ $failed = 0 ]
