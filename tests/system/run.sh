#!/bin/bash
# tests/system/run.sh BUILD_DIR [TEST...]: runs the named tests, or all that are not long.
set -u
BUILD=$(cd "${1-}" && pwd) || exit 100
export BUILD
shift
cd "$(dirname "$0")" || exit 111
long=" soak "
passed=0 failed=0
if [ $# = 0 ]; then
    for test in [a-z]*.sh; do
        name=${test%.sh}
        case "$name" in lab* | run | test-*) continue ;; esac # daemon runs test-block-script
        [[ $long == *" $name "* ]] || set -- "$@" "$name"
    done
fi
mkdir -p "$BUILD/system"
for name in "$@"; do
    start=$SECONDS
    printf '  %-18s ' "$name"
    if timeout -k 20 "${BLKGATE_TEST_TIMEOUT:-900}" "./$name.sh" >"$BUILD/system/$name.log" 2>&1; then
        printf 'ok      %4d s\n' $((SECONDS - start))
        grep '^'"$name"': ' "$BUILD/system/$name.log" | sed 's/^/    /'
        passed=$((passed + 1))
    else
        printf 'FAILED  %4d s (log: %s)\n' $((SECONDS - start)) "$BUILD/system/$name.log"
        tail -40 "$BUILD/system/$name.log"
        failed=$((failed + 1))
    fi
done
echo "system: $passed passed, $failed failed"
[ $failed = 0 ]
