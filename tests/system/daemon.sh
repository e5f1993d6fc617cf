#!/bin/bash
# The daemon as an administrator meets it: options and exit statuses (0 done, 1 configuration, 100
# wrong use, 111 system), a configuration's mistakes by file and line, one daemon only, what it says
# without xenstored or Xen, signals; and etc/block-blkgate, which xl meets.
. "$(dirname "$0")/lab.sh"
lab_start
nbd_memory one 16M
disk one "$(unix_uri one)"
DAEMON=$BUILD/blkgated
cases=0

# run STATUS REGEX [ARGUMENT...]: the daemon ends by itself, with that status, and says that.
run() {
    local expected=$1 regex=$2 status
    shift 2
    cases=$((cases + 1))
    LD_LIBRARY_PATH=$SIM/lib timeout -k 5 20 "$DAEMON" "$@" >"$DIR/run.out" 2>&1
    status=$?
    [ $status = "$expected" ] ||
        { cat "$DIR/run.out"; fail "blkgated $*: status $status, not $expected"; }
    grep -qE -- "$regex" "$DIR/run.out" || { cat "$DIR/run.out"; fail "blkgated $*: not \"$regex\""; }
}

# -- options ----------------------------------------------------------------------------------------
run 0 '^Usage: blkgated' --help
run 0 '^Usage: blkgated' -h
run 0 '^blkgated [0-9]+\.[0-9]+' --version
run 100 'unknown option --chek' --chek
run 100 'unknown option -x' -x
run 100 '-c needs a file' -c
run 100 'did you mean -c blkgate.conf' blkgate.conf
"$DAEMON" --version >/dev/full 2>"$DIR/run.out"
[ $? = 111 ] || fail "--version into a full disk is no success"
grep -q 'No space left' "$DIR/run.out" || fail "--version into a full disk says nothing"

# -- configurations, with --check and without --------------------------------------------------------
run 0 '^\[disk one\]' --check -c "$CONFIG"
grep -q "^export = $(unix_uri one)" "$DIR/run.out" || fail "--check does not print what is in effect"
run 0 'nothing can be attached' --check -c /dev/null
wrong() { # 'REGEX of LINE: TEXT' LINE...: what a file of these lines is said to be wrong in
    local regex=$1
    shift
    printf '%s\n' "$@" >"$DIR/wrong.conf"
    run 1 "^$DIR/wrong\.conf:$regex" --check -c "$DIR/wrong.conf"
    run 1 "error: $DIR/wrong\.conf:$regex" -c "$DIR/wrong.conf"
}
run 1 "/nonexistent: cannot be read: No such file" --check -c /nonexistent
run 1 "cannot be read: Is a directory" -c "$DIR"
wrong '2: export = http://h/a: not an NBD URI: write nbd://' '[disk a]' 'export = http://h/a'
wrong '1: \[disk a\] has no export' '[disk a]'
wrong '3: a second export for \[disk a\]: add paths = same-server .* or coherent = yes' '[disk a]' \
    'export=nbd://h/a' 'export=nbd://h/b'
wrong '3: on-loss is given again, first in line 2' '[disk a]' 'on-loss = hold' 'on-loss = hold 1s' \
    'export=nbd://h/a'
wrong '3: \[disk a\] again, first in line 1' '[disk a]' 'export=nbd://h/a' '[disk a]'
wrong '2: workers = 0: write a number from 1 to 64' '[gateway]' 'workers = 0'
wrong '2: worker does not belong here: .*\[disk NAME\]' '[gateway]' 'worker = 1'
wrong '3: workers does not belong here: .*\[gateway\]' '[disk a]' 'export=nbd://h/a' 'workers = 1'
wrong '3: unknown key "exprot": did you mean export' '[disk a]' '# a comment' 'exprot = nbd://h/a'
wrong '2: log-level = loud: write error, warning' '[gateway]' 'log-level = loud'
wrong '1: \[disk a b\]: a name is made of' '[disk a b]' 'export=nbd://h/a'
wrong '1: workers stands before the first section' 'workers = 1'
wrong '1: unknown section \[gatway\]' '[gatway]'
wrong '3: shared = maybe: write yes or no' '[disk a]' 'export=nbd://h/a' 'shared = maybe'
wrong '3: tls-psk-file = rel: write an absolute path' '[disk a]' 'export=nbds://h/a' \
    'tls-psk-file = rel'
wrong '3: tls-psk-file, but the export in line 2 is not encrypted' '[disk a]' 'export=nbd://h/a' \
    'tls-psk-file = /etc/keys'
wrong '3: "garbage" is not understood: write KEY = VALUE' '[disk a]' 'export=nbd://h/a' garbage
wrong '2: export = nbd\+unix:///a: the socket is missing' '[disk a]' 'export = nbd+unix:///a'
wrong '3: worker = 3, but line 5 says workers = 2' '[disk a]' 'export=nbd://h/a' 'worker = 3' \
    '[gateway]' 'workers = 2'
wrong '2: .*' '[gateway]' 'connect-timeout = 99' 'allow-uri = perhaps' # both, in one run
grep -q "wrong.conf:3: allow-uri = perhaps" "$DIR/run.out" || fail "only the first mistake is told"

# -- what it cannot start without ------------------------------------------------------------------
sed "s|^lock = .*|lock = /proc/none/lock|" "$CONFIG" >"$DIR/lock.conf"
run 111 'not started: .*/proc/none/lock' -c "$DIR/lock.conf"
XENSTORED_PATH=$DIR/nobody run 111 'not started: xenstore cannot be used: .*is xenstored running' \
    -c "$CONFIG"
BLKGATE_SIM=$DIR/nobody run 111 'not started: worker 0: .*are Xen.s .* there' -c "$CONFIG"

# -- one daemon only; signals ----------------------------------------------------------------------
daemon_start
run 111 "process $DAEMON_PID holds $DIR/lock and only one blkgated may run" -c "$CONFIG"
guest --disk one --domid 5 --seconds 2 --model-sectors 4096 >"$DIR/guest.out" 2>&1 &
guest=$!
sleep 0.5
kill -HUP $DAEMON_PID
wait_for 5 log_has 'SIGHUP: asking every server' || fail "SIGHUP: no word"
wait $guest || { cat "$DIR/guest.out"; fail "SIGHUP disturbed a guest"; }
daemon_alive
daemon_stop
log_has 'stopping by SIGTERM' && log_has 'info: stopped' || fail "a stop is not logged"
DAEMON_LOG=$DIR/blkgated.1.log
daemon_start # the lock is free again
kill -INT $DAEMON_PID
wait $DAEMON_PID || fail "SIGINT is no clean stop"
DAEMON_PID=

# -- the hotplug script ----------------------------------------------------------------------------
timeout -k 5 120 env BLKGATE_SOURCE_DIR="$ROOT" "$ROOT/tests/system/test-block-script.sh" \
    >"$DIR/script.out" 2>&1 || { cat "$DIR/script.out"; fail "etc/block-blkgate"; }
note "$cases runs, $(tail -1 "$DIR/script.out")"
