#!/bin/bash
# What a server or NBD cannot take in one command goes in several: 1 MiB requests to servers whose
# largest block is small, to one that fails long commands without having said so (learned once, and
# then heeded), and discards beyond NBD's 32 bits.
. "$(dirname "$0")/lab.sh"
lab_start
MIB=1048576
nbd_evil page $((16 * MIB)) max-block=4096 trim
nbdkit -f -U "$DIR/policy.sock" --filter=noparallel --filter=blocksize-policy --filter=log memory 16M \
    blocksize-maximum=64K blocksize-error-policy=error logfile="$DIR/policy.commands" \
    >>"$DIR/policy.log" 2>&1 &
nbd_started policy $!
nbd_evil unsaid $((16 * MIB)) too-long=65536 trim
nbd_evil tight $((16 * MIB)) too-long=4096 trim
BIG=$((9 * 1024 * MIB + 3 * 512)) # a discard of all of it is more than twice NBD's 4 GiB
nbdkit -f -U "$DIR/big.sock" --filter=noparallel --filter=log memory $BIG \
    logfile="$DIR/big.commands" >>"$DIR/big.log" 2>&1 &
nbd_started big $!
# By chance alone (nbdkit's error filter, 3 %) a request may fail all the way down to a page: once in a
# hundred runs it did. Here none of up to 64 KiB fails.
nbd_evil short $((16 * MIB)) scarce=30 tell
for name in page policy unsaid tight big short; do disk $name "$(unix_uri $name)"; done
daemon_start

domid=700
loaded() { # DISK ARGUMENTS...
    local name=$1
    shift
    domid=$((domid + 1))
    guest --disk "$name" --domid $domid --seed $domid --indirect 256 "$@" >"$DIR/guest.out" 2>&1 ||
        { cat "$DIR/guest.out"; fail "$name: $*"; }
    ! log_has "$domid/xvda .*the server failed" || fail "$name: the guest was told of an error"
}
longest() { sed -nE 's/.*(Read|Write) .*count=(0x[0-9a-f]+).*/\2/p' "$1" | sort -u |
    while read -r n; do echo $((n)); done | sort -n | tail -1; }

# -- it said so ------------------------------------------------------------------------------------
for name in page policy; do
    loaded $name --mix seq --requests 300 --depth 8
    loaded $name --features --requests 1500
done
! grep -q 'too long' "$DIR/page.log" || fail "commands of more than 4096 bytes were sent"
[ "$(longest "$DIR/policy.commands")" = 65536 ] ||
    fail "the longest command was of $(longest "$DIR/policy.commands") bytes, not 65536"

# -- it did not --------------------------------------------------------------------------------------
failed() { grep -c 'too long' "$DIR/unsaid.log"; }
# One at a time: a request is halved until it passes, four times from 1 MiB, and the next one is
# sent in such pieces at once. Reads and writes are learned together; discards alone, and from the
# 16 MiB of the whole disk that takes eight.
loaded unsaid --mix seq --requests 400 --depth 1 --discard-all
count=$(failed)
note "a server with an unsaid limit failed $count commands, none of them the guest's"
[ "$count" -ge 12 ] && [ "$count" -le 14 ] || fail "$count commands were too long"
# What was learned is the connection's: a new one learns again, with many requests in flight.
loaded unsaid --features --requests 3000
note "... and $(($(failed) - count)) with 32 requests in flight"
[ "$(failed)" -le $((count + 300)) ] || fail "$(($(failed) - count)) commands were too long"
loaded tight --features --requests 1500 # down to a page

# -- for want of memory ----------------------------------------------------------------------------
# Which a server has again: the pieces are for that request alone. Were they for all that follow, each
# such failure would halve them for good, down to pages, and a page's failure is the guest's.
loaded short --mix seq --requests 600 --depth 8
[ "$(grep -c '^no memory: 1048576 ' "$DIR/short.log")" -ge 4 ] || fail "no command failed"
[ "$(grep -cE '^(read|write) [0-9]+ 1024$' "$DIR/short.log")" -ge 4 ] || fail "none went in halves"
tail -40 "$DIR/short.log" | grep -qE '^(read|write) [0-9]+ 2048$' ||
    fail "the server got pieces to the end"

# -- beyond 32 bits --------------------------------------------------------------------------------
loaded big --discard-all --requests 300
# Trims that begin where the one before ended, the last one at the end.
sed -nE 's/.* Trim id=[0-9]+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+).*/\1 \2/p' \
    "$DIR/big.commands" >"$DIR/big.trims"
at=0 trims=0
while read -r offset count; do
    [ $((offset)) = $at ] || fail "a trim at $((offset)) where $at was due"
    at=$((at + count)) trims=$((trims + 1))
done <"$DIR/big.trims"
[ $at = $BIG ] || fail "$at of $BIG bytes were trimmed"
note "a discard of $BIG bytes: $trims trims"
[ $trims -ge 3 ] || fail "$trims trims cannot have been enough"
daemon_stop
