#!/bin/bash
# A Ceph cluster of one monitor and a few OSDs on 127.0.0.1, as root, all of it in one directory: for
# NBD servers that share a storage, and for its failures. Up in about 15 s on 2 cores.
#
#   tests/ceph/cluster.sh COMMAND DIR [ARG...]
#       up DIR [OSDS]           makes it in DIR, which is not there yet or empty (2 OSDs)
#       down DIR                ends all of its processes and removes DIR
#       image DIR NAME SIZE [FEATURES]   an RBD image: exclusive-lock, or e.g. layering (no lock)
#       server DIR IMAGE        the command line of an NBD server over it, without its address
#       osd-kill, osd-start, osd-pause, osd-resume, mon-kill, mon-start   DIR [N]
#       watchers DIR IMAGE      addresses of the clients that have it open, one a line
#       holder DIR IMAGE        address of the one that has its lock
#       fence DIR ADDRESS       blocklists a client: none of its writes is executed from here on
#       ceph, rbd DIR ARG...
# Sourced it is a library: cluster_up DIR and so on. Debian's packages: CEPH_PACKAGES in lib.sh.
#
# Not for data: no authentication, short timeouts, and what survives a SIGKILL would not all survive
# a power cut.

cluster_conf() { # DIR PORT
    cat <<X
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = v2:127.0.0.1:$2
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $1/run
admin_socket = $1/run/\$name.\$pid.asok
pid_file = $1/run/\$name.pid
log_file = $1/log/\$name.log
crash_dir = $1/crash
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 2
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
# A dead OSD is noticed in seconds, by the word of one other.
osd_heartbeat_interval = 1
osd_heartbeat_grace = 2
mon_osd_adjust_heartbeat_grace = false
mon_osd_min_down_reporters = 1
mon_osd_reporter_subtree_level = osd
mon_osd_down_out_interval = 3600
# A dead client's lock can be broken after 5 s, not 30.
osd_client_watch_timeout = 5
[client]
objecter_tick_interval = 1
[mon]
mon_data = $1/mon.a
mon_initial_members = a
mon_data_avail_warn = 2
mon_data_avail_crit = 1
[osd]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_data = $1/osd.\$id
bluestore_block_size = 4294967296
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_op_num_shards = 1
osd_class_update_on_start = false
X
}

cluster_die() {
    echo "cluster: $*" >&2
    exit 1
}
cluster_ceph() { timeout 60 ceph -c "$1/ceph.conf" "${@:2}" 2>>"$1/log/ceph.err"; }
cluster_rbd() { timeout 60 rbd -c "$1/ceph.conf" "${@:2}" 2>>"$1/log/rbd.err"; }

cluster_mon_start() { ceph-mon -c "$1/ceph.conf" -i a >>"$1/log/mon.err" 2>&1; }
cluster_osd_start() { ceph-osd -c "$1/ceph.conf" -i "$2" >>"$1/log/osd.err" 2>&1; }
cluster_signal() { # DIR SIGNAL DAEMON
    kill "-$2" "$(cat "$1/run/$3.pid")" || cluster_die "$3 is not running"
}
cluster_kill() { # DIR DAEMON: SIGKILL, and waits until it is gone
    local pid i
    pid=$(cat "$1/run/$2.pid") || cluster_die "$2 is not running"
    for ((i = 0; i < 300; i++)); do
        # A name too: the number of one that died by itself may be anybody's.
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) == ceph-* ]] && kill -KILL "$pid" 2>/dev/null || {
            rm -f "$1/run/$2.pid"
            return 0
        }
        sleep 0.1
    done
    cluster_die "$2 does not go"
}
cluster_mon_kill() { cluster_kill "$1" mon.a; }
cluster_osd_kill() { cluster_kill "$1" "osd.$2"; }
cluster_osd_pause() { cluster_signal "$1" STOP "osd.$2"; }
cluster_osd_resume() { cluster_signal "$1" CONT "osd.$2"; }

cluster_osd_new() { # DIR N
    local uuid
    uuid=$(cat /proc/sys/kernel/random/uuid)
    mkdir "$1/osd.$2" && cluster_ceph "$1" osd new "$uuid" >/dev/null &&
        ceph-osd -c "$1/ceph.conf" -i "$2" --mkfs --osd-uuid "$uuid" >>"$1/log/osd.err" 2>&1 &&
        cluster_osd_start "$1" "$2" || cluster_die "OSD $2 does not start: $1/log/osd.err"
}

cluster_port() { # one that nobody listens at
    local port
    while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo $port
}

cluster_up() {
    local dir=$1 i
    mkdir -p "$dir" && [ -z "$(ls -A "$dir")" ] || cluster_die "$dir is not empty"
    mkdir "$dir"/{run,log,crash,mon.a}
    cluster_conf "$dir" "$(cluster_port)" >"$dir/ceph.conf"
    ceph-mon -c "$dir/ceph.conf" -i a --mkfs >>"$dir/log/mon.err" 2>&1 &&
        cluster_mon_start "$dir" && cluster_ceph "$dir" -s >/dev/null ||
        cluster_die "the monitor does not start: $dir/log/mon.err"
    for ((i = 0; i < ${2-2}; i++)); do cluster_osd_new "$dir" $i; done
    cluster_ceph "$dir" osd pool create rbd 16 16 replicated && cluster_rbd "$dir" pool init rbd ||
        cluster_die "no pool: $dir/log/ceph.err"
}

cluster_down() {
    local file
    [ -f "$1/ceph.conf" ] || return 0
    for file in "$1"/run/*.pid; do
        [ -f "$file" ] || continue
        file=${file##*/}
        cluster_kill "$1" "${file%.pid}"
    done
    rm -rf "$1"
}

cluster_image() { # DIR NAME SIZE [FEATURES]
    cluster_rbd "$1" create "rbd/$2" --size "$3" --image-feature "${4-exclusive-lock}" ||
        cluster_die "no image $2: $1/log/rbd.err"
}
# cache=none: librbd keeps no cache, so that what one server has acknowledged, the other one reads.
# shared=0: any number of clients, who may use several connections.
cluster_server() {
    echo "qemu-nbd -t --shared=0 -f raw --cache=none --aio=threads --discard=unmap" \
        "rbd:rbd/$2:conf=$1/ceph.conf"
}

cluster_watchers() {
    cluster_rbd "$1" status "rbd/$2" --format json | jq -r '.watchers[].address'
}
cluster_holder() { cluster_rbd "$1" lock ls "rbd/$2" --format json | jq -r '.[].address'; }
cluster_fence() { cluster_ceph "$1" osd blocklist add "$2" >/dev/null; }

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    command=${1-}
    if [ $# -lt 2 ] || ! declare -F "cluster_${command//-/_}" >/dev/null; then
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
        exit 100
    fi
    dir=$(realpath -m "$2")
    "cluster_${command//-/_}" "$dir" "${@:3}"
fi
