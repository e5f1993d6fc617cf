#!/bin/bash
# Suite: blkgated, QEMU's xen-block, and NBD clients without Xen, in turn before the same servers (40 min)
#
# peers.sh BUILD OUT [--quick]: the rows of peers.rows; writes OUT/peers.json, peers.svg and
# peers.samples, one line for each single run. Ten rounds of half a second a row; --quick: three of 0.4.
# ROUNDS, SECONDS_EACH, ROWS: others, for a run by hand.
BUILD=$1 OUT=$2 quick=${3-}
case $quick in
'' | --quick) ;;
*) echo "peers: what is $quick? Only --quick is known" >&2; exit 100 ;;
esac
. "$(dirname "$0")/../system/lab.sh"
. "$(dirname "$0")/../system/lab-servers.sh"
BENCHMARK=$ROOT/tests/benchmark
ROWS=${ROWS:-$BENCHMARK/peers.rows}
if [ -n "$quick" ]; then
    rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-0.4}
else
    rounds=${ROUNDS:-10} seconds=${SECONDS_EACH:-0.5}
fi

# What a hypercall costs where costs are on (tests/sim/README.md): an order of magnitude.
COST_BATCH_NS=${COST_BATCH_NS:-1000}
COST_NOTIFY_NS=${COST_NOTIFY_NS:-500}

# The disk: the guests' half, whose reads are checked, and one for those without a guest.
HALF=$((256 << 20))

server_begin() { # SERVER VIA: sets AT, as the players take it, and URI
    local via=$2 where size=$((2 * HALF))
    unset "SERVER_AT[$1]"
    [ "$via" = unix ] || SERVER_AT[$1]=127.0.0.1:$((20000 + RANDOM % 20000))
    AT=$(server_at "$1")
    URI=$(server_uri "$1")
    where="--unix $AT"
    [ "$via" = unix ] || where="--tcp $AT"
    case $1 in
    lean) server_new "$1" "$BUILD/nbd/lean" $where --size $size ;;
    lean-null) server_new "$1" "$BUILD/nbd/lean" $where --size $size --null ;;
    nbdkit) server_new "$1" nbdkit -f $(server_by "$1" -U -i -p) memory $size ;;
    nbdkit-null) server_new "$1" nbdkit -f $(server_by "$1" -U -i -p) null $size ;;
    *) fail "$ROWS names a server $1" ;;
    esac
    server_start "$1"
}

scene_play() { # SERVER VIA COSTS GUESTS
    local guests=$4 options
    note "$1 ($2), costs of hypercalls $3, guests: $guests"
    server_begin "$1" "$2"
    unset BLKGATE_SIM_BATCH_NS BLKGATE_SIM_NOTIFY_NS
    [ "$3" = off ] || export BLKGATE_SIM_BATCH_NS=$COST_BATCH_NS BLKGATE_SIM_NOTIFY_NS=$COST_NOTIFY_NS
    options="--bytes $HALF --server-pid ${SERVER_PID[$1]}"
    [ "$1" = "${1%-null}" ] || options+=" --check-every 0" # there are no bytes
    "$BENCHMARK/conduct.py" --rows "$ROWS" --scene "$*" --rounds "$rounds" --seconds "$seconds" \
        --samples "$OUT/peers.samples" $quick \
        "libnbd=$BUILD/benchmark/floor --uri $URI --first-byte $HALF --server-pid ${SERVER_PID[$1]}" \
        "blkgated=$BENCHMARK/play-blkgated.sh $BUILD $AT $guests $options" \
        "qemu=$BENCHMARK/play-qemu.sh $BUILD $AT $guests $options" \
        "fio=$BENCHMARK/play-fio.py $URI $HALF $HALF" &
    conductor=$!
    wait $conductor || fail "the scene was not played to its end"
    conductor=
    server_stop "$1"
}

# The players end when the conductor does, and need the server for it.
conductor=
trap '[ -z "$conductor" ] || { kill $conductor; wait $conductor; }; exit 130' INT TERM

mkdir -p "$OUT"
: >"$OUT/peers.samples"
while read -r server via costs guests; do
    scene_play "$server" "$via" "$costs" "$guests" </dev/null
done < <(awk -v quick="$quick" '!/^#/ && NF && (quick == "" || $8 == "quick") {print $1, $2, $3, $4}' \
    "$ROWS" | uniq)
"$BENCHMARK/peers_report.py" --goals "$BENCHMARK/peers.goals" --samples "$OUT/peers.samples" \
    --json "$OUT/peers.json" --plot "$OUT/peers.svg" \
    --costs "$COST_BATCH_NS ns a batch of 16 copies, $COST_NOTIFY_NS ns a notification"
