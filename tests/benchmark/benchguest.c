/* benchguest: guests that put a load on their disks, whichever backend serves them. See --help. */
#include "benchdisk.h"
#include "simclient.h"
#include "window.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static const char usage[] =
    "usage: benchguest [--disk NAME | --adopt] [option...]\n"
    "Attaches a disk to each of some new domains and connects; then a player: see player.h for "
    "the\n"
    "commands that it reads from standard input. Needs BLKGATE_SIM and XENSTORED_PATH.\n"
    "  --guests N          1; one thread plays them all\n"
    "  --domid N           of the first (1)\n"
    "  --disk NAME         guest i gets the disk NAMEi, i from 0 on\n"
    "  --adopt             the backend itself makes the nodes, once the domains are there, as\n"
    "                      QEMU's -device xen-disk does\n"
    "  --bytes N           uses no more of a disk; the guests share it out (all of it)\n"
    "  --ring-order N      as large as the backend offers\n"
    "  --indirect N        up to N segments in a request, where offered (32, as Linux does)\n"
    "  --check-every N     looks into one of N reads (64; 0: none), if the disk was filled\n"
    "  --pid N             a process of the backend; as often as there are some\n"
    "  --server-pid N      the NBD server's\n";

#define GUESTS_MAX 64u
#define STALL_NS   UINT64_C(10000000000)
#define WAIT_MS    100

struct bench {
    unsigned nr_guests;
    uint64_t bytes_max;
    struct bench_wish wish;
    struct processes backend, server, own;
    int epoll;
    struct bench_disk *disks[GUESTS_MAX];
};

/* -- a run ------------------------------------------------------------------------------------ */
enum phase { WARMING, COUNTING, DRAINING };

struct course {
    enum phase phase;
    uint64_t turn_ns; /* when the next phase begins */
    uint64_t answer_ns;
    struct window backend, own, server;
};

static void counts_add(const struct bench *bench, struct outcome *out, uint64_t sign)
{
    struct sim_stats *stats = &bench->disks[0]->guest->conn->shared->stats;

    out->copy_calls += sign * atomic_load(&stats->grant_copy_calls);
    out->copy_batches += sign * atomic_load(&stats->grant_copy_batches);
    out->copy_ops += sign * atomic_load(&stats->grant_copy_ops);
    out->notifies += sign * atomic_load(&stats->notifies);
    out->guest_notifies += sign * atomic_load(&stats->guest_notifies);
}

static int counting_begin(struct bench *bench, struct course *course, const struct run *run,
                          struct outcome *out)
{
    memset(out, 0, sizeof(*out));
    course->phase = COUNTING;
    if (!window_open(&course->backend, &bench->backend, run->syscalls) ||
        !window_open(&course->own, &bench->own, false) ||
        !window_open(&course->server, &bench->server, false))
        return -ESRCH;
    counts_add(bench, out, (uint64_t)-1);
    out->wall_ns = clock_ns();
    course->turn_ns = out->wall_ns + (uint64_t)(run->seconds * 1e9);
    return 0;
}

static int counting_end(struct bench *bench, struct course *course, struct outcome *out)
{
    out->wall_ns = clock_ns() - out->wall_ns;
    course->phase = DRAINING;
    counts_add(bench, out, 1);
    if (!window_close(&course->backend) || !window_close(&course->own) ||
        !window_close(&course->server))
        return -ESRCH;
    out->cpu_ns = course->backend.cpu_ns;
    out->own_cpu_ns = course->own.cpu_ns;
    out->server_cpu_ns = course->server.cpu_ns;
    out->syscalls = course->backend.syscalls;
    out->guest = true;
    return 0;
}

static unsigned in_flight(const struct bench *bench)
{
    unsigned i, sum = 0;

    for (i = 0; i < bench->nr_guests; i++)
        sum += bench->disks[i]->in_flight;
    return sum;
}

/* One wait, and the turns of those whom it woke. */
static int guests_turn(struct bench *bench, struct course *course, struct outcome *out)
{
    struct epoll_event events[GUESTS_MAX];
    int count = epoll_wait(bench->epoll, events, GUESTS_MAX, WAIT_MS), i;
    uint64_t before = out->ios;

    for (i = 0; i < count; i++) {
        struct bench_disk *disk = events[i].data.ptr;

        guest_event_take(disk->guest);
        if (bench_disk_turn(disk, course->phase != DRAINING, out))
            return -EPROTO;
    }
    if (out->ios != before)
        course->answer_ns = clock_ns();
    else if (clock_ns() - course->answer_ns > STALL_NS)
        return -ETIMEDOUT;
    return 0;
}

static int run_course(struct bench *bench, const struct run *run, struct outcome *out,
                      struct outcome *rest)
{
    struct course course = {.answer_ns = clock_ns()};
    int err = 0;

    course.turn_ns = course.answer_ns + player_warmup_ns(run);
    while (!err && (course.phase != DRAINING || in_flight(bench) > 0)) {
        err = guests_turn(bench, &course, course.phase == COUNTING ? out : rest);
        if (err || course.phase == DRAINING || clock_ns() < course.turn_ns)
            continue;
        err = course.phase == WARMING ? counting_begin(bench, &course, run, out)
                                      : counting_end(bench, &course, out);
    }
    return err;
}

static int bench_run(void *arg, const struct run *run, struct outcome *out)
{
    static struct outcome rest; /* of what is answered outside of the seconds that count */
    struct bench *bench = arg;
    unsigned i;
    int err;

    memset(&rest, 0, sizeof(rest));
    for (i = 0; i < bench->nr_guests; i++)
        if (bench_disk_start(bench->disks[i], run))
            return -EINVAL;
    err = run_course(bench, run, out, &rest);
    out->errors += rest.errors;
    out->wrong += rest.wrong;
    return err;
}

/* -- guests ----------------------------------------------------------------------------------- */
/* All domains are there before the first disk must be: a backend that makes nodes needs them. */
static int guests_create(struct bench *bench)
{
    struct bench_wish wish = bench->wish;
    char params[64];
    unsigned i;

    for (i = 0; i < bench->nr_guests; i++) {
        bench->disks[i] = calloc(1, sizeof(*bench->disks[i]));
        snprintf(params, sizeof(params), "%s%u", wish.params ? wish.params : "", i);
        wish.domid = bench->wish.domid + i;
        if (wish.params)
            wish.params = params;
        if (!bench->disks[i] || bench_disk_create(bench->disks[i], &wish))
            return -1;
        wish.params = bench->wish.params;
    }
    return 0;
}

static int guest_join(struct bench *bench, unsigned i)
{
    struct bench_disk *disk = bench->disks[i];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = disk};
    uint64_t bytes;

    if (bench_disk_connect(disk))
        return -1;
    bytes = disk->front.sectors * GUEST_SECTOR;
    if (bench->bytes_max && bytes > bench->bytes_max)
        bytes = bench->bytes_max;
    disk->walk.bytes = bytes / bench->nr_guests / PATTERN_BYTES_MAX * PATTERN_BYTES_MAX;
    disk->walk.first_byte = i * disk->walk.bytes;
    if (disk->walk.bytes == 0) {
        fprintf(stderr, "benchguest: the disk is too small for %u guests\n", bench->nr_guests);
        return -1;
    }
    return epoll_ctl(bench->epoll, EPOLL_CTL_ADD, guest_event_fd(disk->guest), &event);
}

static int guests_leave(struct bench *bench, bool connected)
{
    int err = 0;
    unsigned i;

    for (i = 0; i < bench->nr_guests; i++) {
        if (connected && bench_disk_close(bench->disks[i]))
            err = -1;
        if (bench->disks[i])
            bench_disk_destroy(bench->disks[i]);
        free(bench->disks[i]);
    }
    return err;
}

/* -- arguments -------------------------------------------------------------------------------- */
enum {
    OPT_GUESTS = 256,
    OPT_DOMID,
    OPT_DISK,
    OPT_ADOPT,
    OPT_BYTES,
    OPT_ORDER,
    OPT_INDIRECT,
    OPT_CHECK,
    OPT_PID,
    OPT_SERVER,
};

static const struct option options[] = {
    {"guests", 1, NULL, OPT_GUESTS},
    {"domid", 1, NULL, OPT_DOMID},
    {"disk", 1, NULL, OPT_DISK},
    {"adopt", 0, NULL, OPT_ADOPT},
    {"bytes", 1, NULL, OPT_BYTES},
    {"ring-order", 1, NULL, OPT_ORDER},
    {"indirect", 1, NULL, OPT_INDIRECT},
    {"check-every", 1, NULL, OPT_CHECK},
    {"pid", 1, NULL, OPT_PID},
    {"server-pid", 1, NULL, OPT_SERVER},
    {NULL, 0, NULL, 0},
};

static int process_add(struct processes *processes, const char *text)
{
    if (processes->count == WINDOW_PROCESSES_MAX)
        return -1;
    processes->pids[processes->count++] = (pid_t)strtol(text, NULL, 10);
    return 0;
}

static int option(struct bench *bench, int opt, const char *arg)
{
    unsigned number = arg ? (unsigned)strtoul(arg, NULL, 10) : 0;

    switch (opt) {
    case OPT_GUESTS: bench->nr_guests = number; return 0;
    case OPT_DOMID: bench->wish.domid = number; return 0;
    case OPT_DISK: bench->wish.params = arg; return 0;
    case OPT_ADOPT: bench->wish.params = NULL; return 0;
    case OPT_BYTES: bench->bytes_max = strtoull(arg, NULL, 10); return 0;
    case OPT_ORDER: bench->wish.ring_order = (int)number; return 0;
    case OPT_INDIRECT: bench->wish.indirect = number; return 0;
    case OPT_CHECK: bench->wish.check_every = number; return 0;
    case OPT_PID: return process_add(&bench->backend, arg);
    case OPT_SERVER: return process_add(&bench->server, arg);
    default: return -1;
    }
}

int main(int argc, char **argv)
{
    static struct bench bench = {
        .nr_guests = 1,
        .wish = {.domid = 1, .kind = "qdisk", .ring_order = -1, .indirect = 32, .check_every = 64}};
    struct player player = {.arg = &bench, .run = bench_run};
    bool connected = true;
    int opt, failed;
    unsigned i;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (option(&bench, opt, optarg)) {
            fputs(usage, stderr);
            return 2;
        }
    if (optind < argc || bench.nr_guests == 0 || bench.nr_guests > GUESTS_MAX ||
        bench.wish.indirect > GUEST_INDIRECT_MAX || bench.wish.ring_order > 4) {
        fputs(usage, stderr);
        return 2;
    }
    bench.own = (struct processes){.count = 1, .pids = {getpid()}};
    bench.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (bench.epoll < 0 || guests_create(&bench))
        connected = false;
    for (i = 0; connected && i < bench.nr_guests; i++)
        connected = guest_join(&bench, i) == 0;
    failed = connected ? player_obey(&player) : 1;
    if (guests_leave(&bench, connected))
        failed = 1;
    return failed;
}
