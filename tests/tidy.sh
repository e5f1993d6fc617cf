#!/bin/bash
# The rules that a compiler does not check: formatting, which room may include which, who may use
# which library, file and function sizes, the top level. With --clang-tidy: that, over build/default.
set -u
cd "$(dirname "$0")/.." || exit 111
failed=0
complain() { printf 'tidy: %s\n' "$*" >&2; failed=1; }

sources() { git ls-files -co --exclude-standard -- 'proto/*.[ch]' 'gateway/*.[ch]' 'tests/*.[ch]'; }

check_format() {
    sources | xargs clang-format --dry-run --Werror 2>&1 | head -20 >&2
    [ "${PIPESTATUS[1]}" = 0 ] || complain "run clang-format -i on the files above"
}

# A header may be included only from the files that the pattern names.
only() {
    local header=$1 allowed=$2 found
    found=$(grep -lE "^#include [<\"]$header[>\"]" proto/*.[ch] gateway/*.[ch] gateway/cli/*.[ch] \
        2>/dev/null | grep -vE "^($allowed)\$")
    [ -z "$found" ] || complain "$header is included outside its room: $(echo $found)"
}

check_directions() {
    local found
    found=$(grep -nE '^#include "gateway/' proto/*.[ch])
    [ -z "$found" ] || complain "proto/ includes from gateway/: $found"
    found=$(grep -nE '#include <(sys/|unistd|pthread|errno\.h.*libc)' proto/*.[ch] | grep -v errno.h)
    [ -z "$found" ] || complain "proto/ is pure: $found"
    only 'libnbd.h' 'gateway/(nbdconn|resolve|traits|target).c'
    only 'xengnttab.h' 'gateway/grants.c'
    only 'xenevtchn.h' 'gateway/evtchn.c'
    only 'xenstore.h' 'gateway/(xs|cli/nodes).c'
    only 'ini.h' 'gateway/config.c'
    only 'ev.h' 'gateway/((mailbox|evtchn|nbdconn|target|disk|worker|backend|vbd|vbd_act|xs).c|(disk|vbd)_private.h|parked.h)'
    only 'gateway/(queue|target|traits|parked|nbdconn|grants|evtchn|slab|keep|request|command).h' \
        'gateway/(queue|target|traits|parked|nbdconn|grants|evtchn|slab|keep|request|command|disk[a-z_]*|worker|main)\.[ch]'
    only 'gateway/program.h' 'gateway/(program|fence)\.[ch]'
    only 'gateway/(vbd|xs).h' 'gateway/(vbd[a-z_]*|xs|backend)\.[ch]'
    only 'gateway/backend.h' 'gateway/(backend|main)\.[ch]'
}

check_sizes() {
    local file
    for file in $(git ls-files -co --exclude-standard -- 'proto/*.[ch]' 'gateway/*.[ch]'); do
        [ "$(wc -l <"$file")" -le 900 ] || complain "$file is over 900 lines: split it"
    done
}

check_top_level() {
    local extra
    extra=$(git ls-files -co --exclude-standard | cut -d/ -f1 | sort -u |
        grep -vxE 'gateway|proto|tests|etc|CMakeLists.txt|CMakePresets.json|README.md|LICENSE|\..*')
    [ -z "$extra" ] || complain "at the top level beside what belongs there: $extra"
}

if [ "${1-}" = --clang-tidy ]; then
    git ls-files -co --exclude-standard -- 'proto/*.c' 'gateway/*.c' |
        xargs -P2 -n1 clang-tidy -p build/default --quiet 2>/dev/null || complain "clang-tidy: see above"
else
    check_format
    check_directions
    check_sizes
    check_top_level
fi
exit $failed
