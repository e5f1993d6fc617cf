#!/bin/bash
# Laws 1, 4 and 10 over time: eight guests, one of them hostile, for ten minutes; no wrong byte,
# memory and descriptors flat. SOAK_SECONDS shortens it.
. "$(dirname "$0")/lab.sh"
lab_start
SOAK_SECONDS=${SOAK_SECONDS:-600}
for ((i = 1; i <= 8; i++)); do
    nbd_memory "d$i" 64M
    disk "d$i" "$(unix_uri "d$i")"
done
sed -i '/log-level/d' "$CONFIG"
daemon_start

mixes=(random seq rw70 scatter random scatter rw70)
pids=()
for ((i = 1; i <= 7; i++)); do
    guest --disk "d$i" --domid $((30 + i)) --seconds "$SOAK_SECONDS" --mix "${mixes[i - 1]}" \
        --seed "$i" --flush-every 64 >"$DIR/guest$i.out" 2>&1 &
    pids+=($!)
done
guest --disk d8 --domid 66 --hostile --seconds "$SOAK_SECONDS" --seed 8 >"$DIR/guest8.out" 2>&1 &
pids+=($!)

figures() { echo "$(daemon_rss_kib) KiB resident, $(daemon_fds) descriptors"; }
sleep $((SOAK_SECONDS / 10))
daemon_alive
start_rss=$(daemon_rss_kib) start_fds=$(daemon_fds)
note "after a tenth: $(figures)"
sleep $((SOAK_SECONDS * 4 / 10))
note "half way:      $(figures)"
sleep $((SOAK_SECONDS * 4 / 10))
daemon_alive
end_rss=$(daemon_rss_kib) end_fds=$(daemon_fds)
note "at nine tenths: $(figures)"

for ((i = 0; i < 8; i++)); do
    wait "${pids[i]}" || { cat "$DIR/guest$((i + 1)).out"; fail "guest $((i + 1))"; }
    note "guest $((i + 1)): $(tail -1 "$DIR/guest$((i + 1)).out")"
done
note "$(grep -c . "$DAEMON_LOG") lines in the log"
# Slack for the allocator's arenas; a leak of one request a second would be past it.
[ "$end_rss" -le $((start_rss + start_rss / 20 + 512)) ] || fail "memory grew: $start_rss to $end_rss KiB"
# The hostile guest's disk is connected or not, and its server's socket with it.
[ "$end_fds" -le $((start_fds + 2)) ] || fail "descriptors grew: $start_fds to $end_fds"
daemon_stop
