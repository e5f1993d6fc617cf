# Sourced by tests/system/run.sh and tests/recovery/run.sh: plays test scripts of this directory, two
# at a time: each has a simulation of its own, and most of its time is waiting.

# play_all LOG_DIR LIMIT_S NAME...: NAME.sh each, reported as it ends with the lines it notes. 0: all
# passed.
play_all() {
    local log_dir=$1 limit_s=${BLKGATE_TEST_TIMEOUT:-$2} jobs=${BLKGATE_JOBS:-2} pid
    shift 2
    declare -A play_name=() play_start=()
    play_passed=0 play_failed=0
    mkdir -p "$log_dir"
    while [ $# -gt 0 ] || [ ${#play_name[@]} -gt 0 ]; do
        if [ $# -gt 0 ] && [ ${#play_name[@]} -lt "$jobs" ]; then
            timeout -k 20 "$limit_s" "./$1.sh" >"$log_dir/$1.log" 2>&1 </dev/null &
            play_name[$!]=$1 play_start[$!]=$SECONDS
            shift
        else
            wait -n -p pid
            play_report $? "${play_name[$pid]}" $((SECONDS - play_start[$pid])) "$log_dir"
            unset "play_name[$pid]"
        fi
    done
    echo "$(basename "$PWD"): $play_passed passed, $play_failed failed"
    [ $play_failed = 0 ]
}

play_report() { # STATUS NAME SECONDS LOG_DIR
    if [ "$1" = 0 ]; then
        printf '  %-18s ok      %4d s\n' "$2" "$3"
        grep "^$2: " "$4/$2.log" | sed 's/^/    /'
        play_passed=$((play_passed + 1))
    else
        printf '  %-18s FAILED  %4d s (log: %s)\n' "$2" "$3" "$4/$2.log"
        tail -40 "$4/$2.log"
        [ -z "${FAILURES-}" ] || { # tests/run's, which says it again at its end
            echo "$(basename "$PWD")/$2: status $1 after $3 s:"
            tail -40 "$4/$2.log"
        } >>"$FAILURES"
        play_failed=$((play_failed + 1))
    fi
}
