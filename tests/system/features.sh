#!/bin/bash
# Law 1 with all that is offered: every ABI, with one ring or four, of 1, 4 or 16 pages, requests of
# up to 11, 32 or 256 segments, discards and flushes with data among them. simguest checks that each
# node of the backend's is there and says what it may, and that every queue is used.
. "$(dirname "$0")/lab.sh"
lab_start
echo 'queues = 4' >>"$CONFIG"
nbd_memory memory 32M
nbd_qemu qemu 32M
disk memory "$(unix_uri memory)"
disk qemu "$(unix_uri qemu)" # discards nothing, and says it does
daemon_start
REQUESTS=${REQUESTS:-1000}

domid=500 servers=(memory qemu)
for abi in x86_64 x86_32 arm none; do
    for queues in 1 4; do
        for order in 0 2 4; do
            for indirect in 0 32 256; do
                domid=$((domid + 1))
                what="$abi, $queues queues of order $order, $indirect segments, domain $domid"
                guest --disk ${servers[domid % 2]} --domid $domid --abi $abi --queues $queues \
                    --ring-order $order --indirect $indirect --features --requests "$REQUESTS" \
                    --model-sectors 8192 --seed $domid >"$DIR/guest.out" 2>&1 ||
                    { cat "$DIR/guest.out"; fail "$what"; }
                log_has "$domid/xvda .*: connected: .*, $queues rings? of $((1 << order)) pages?" ||
                    fail "$what: the daemon served other rings"
            done
        done
    done
done
# Without --queues and the rest: as much as is offered.
guest --disk memory --domid 600 --features --requests "$REQUESTS" >"$DIR/guest.out" 2>&1 ||
    { cat "$DIR/guest.out"; fail "all features"; }
grep -q 'queues: 4  ring pages: 16' "$DIR/guest.out" ||
    { cat "$DIR/guest.out"; fail "all features are not all"; }
note "$((domid - 500 + 1)) guests, $REQUESTS requests each"
daemon_stop

# An operator may offer less, and then less is there.
printf 'ring-page-order = 1\nindirect-segments = 0\n' >"$DIR/less"
sed -i -e 's/^queues = .*/queues = 1/' -e "/^queues/r $DIR/less" "$CONFIG"
: >"$DAEMON_LOG"
daemon_start
guest --disk memory --domid 601 --features --requests "$REQUESTS" >"$DIR/guest.out" 2>&1 ||
    { cat "$DIR/guest.out"; fail "less features"; }
grep -q 'indirect: 0 .* queues: 1  ring pages: 2' "$DIR/guest.out" ||
    { cat "$DIR/guest.out"; fail "more features than the configuration offers"; }
daemon_stop
