#!/bin/bash
# Suite: blkgated and xen-blkback with nbd.ko in one guest of a real, but emulated Xen (15 min; quick: 3)
#
# xen.sh BUILD OUT [--quick]: boots the VM of tests/xen with its scenario bench, ten pairs a row (--quick: two,
# of three rows); writes OUT/xen.json, xen.svg and xen.samples, one line for each single run. README.md says
# what the figures are worth.
set -u -o pipefail
BUILD=$1 OUT=$2 long=1
case ${3-} in
'') ;;
--quick) long= ;;
*) echo "xen: what is $3? Only --quick is known" >&2; exit 100 ;;
esac
BENCHMARK=$(cd "$(dirname "$0")" && pwd)

exec 3>&1
logs=$(XEN_LONG=$long BLKGATED=$BUILD/blkgated "$BENCHMARK/../xen/run.sh" bench | tee /dev/fd/3 |
    sed -n 's/^xen: .* s; logs in //p') || { echo "xen: FAILED: the scenario bench" >&2; exit 1; }
mkdir -p "$OUT"
"$BENCHMARK/xen_report.py" --logs "$logs" --goals "$BENCHMARK/xen.goals" --samples "$OUT/xen.samples" \
    --json "$OUT/xen.json" --plot "$OUT/xen.svg"
