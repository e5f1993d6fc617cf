/* floor: what the NBD library itself costs, with no Xen before it: one libnbd connection, one
 * thread, as few system calls as it knows how to make.
 *
 *      floor --uri URI [--first-byte N] [--bytes N] [--server-pid N]
 *
 * A player (player.h). Simple replies; no buffer is cleared; all replies that are there are taken
 * before the next wait; all commands of a turn are sent together. `merged`, for sequential
 * patterns: the same I/Os, but neighbours go in commands of 128 KiB, as by a perfect coalescer.
 * `fill` gives each block of the whole export its stamp.
 */
#include "player.h"
#include "window.h"

#include <errno.h>
#include <getopt.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MERGED_BYTES 131072u
#define STALL_MS     10000

struct command {
    struct floor *floor;
    uint64_t start_ns;
    uint8_t *data; /* PATTERN_BYTES_MAX */
};

struct floor {
    struct nbd_handle *nbd;
    struct walk walk;
    struct processes own, server;
    struct command commands[PLAYER_DEPTH_MAX];
    /* Of the run: */
    struct pattern pattern; /* bytes: of a command */
    unsigned ios_each, nr_free, nr_commands;
    struct command *free[PLAYER_DEPTH_MAX];
    uint64_t nr_done, now_ns;
    struct outcome *out;
};

static int complain(const char *what)
{
    fprintf(stderr, "floor: unable to %s: %s\n", what, nbd_get_error());
    return -EIO;
}

/* -- commands --------------------------------------------------------------------------------- */
static int finished(void *arg, int *error)
{
    struct command *command = arg;
    struct floor *floor = command->floor;

    floor->out->errors += *error != 0;
    floor->out->ios += floor->ios_each;
    histogram_add(&floor->out->latency, floor->now_ns - command->start_ns, floor->ios_each);
    floor->free[floor->nr_free++] = command;
    floor->nr_done++;
    return 1;
}

static int command_send(struct floor *floor, struct command *command)
{
    nbd_completion_callback done = {.callback = finished, .user_data = command};
    bool reads = walk_reads(&floor->walk, &floor->pattern);
    uint64_t at = walk_next(&floor->walk, &floor->pattern);
    int64_t cookie;

    command->start_ns = floor->now_ns;
    if (reads)
        cookie = nbd_aio_pread(floor->nbd, command->data, floor->pattern.bytes, at, done, 0);
    else
        cookie = nbd_aio_pwrite(floor->nbd, command->data, floor->pattern.bytes, at, done, 0);
    return cookie < 0 ? complain("send") : 0;
}

/* On TCP as few packets as they fit into; a unix socket knows no such thing. */
static void cork(struct floor *floor, int on)
{
    setsockopt(nbd_aio_get_fd(floor->nbd), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
}

static int commands_send(struct floor *floor)
{
    bool many = floor->nr_free > 1;
    int err = 0;

    if (many)
        cork(floor, 1);
    while (!err && floor->nr_free > 0)
        err = command_send(floor, floor->free[--floor->nr_free]);
    if (many)
        cork(floor, 0);
    return err;
}

/* A handle that was told to read and found nothing is in the middle of a reply for itself, and
 * would send nothing: the second notification leads it out. */
static bool stuck(const struct floor *floor)
{
    return nbd_aio_is_processing(floor->nbd) == 1 &&
           nbd_aio_get_direction(floor->nbd) == LIBNBD_AIO_DIRECTION_READ;
}

/* Waits, then takes all replies that are there. */
static int replies_take(struct floor *floor)
{
    unsigned wants = nbd_aio_get_direction(floor->nbd);
    struct pollfd fd = {.fd = nbd_aio_get_fd(floor->nbd)};
    uint64_t before;
    int err = 0;

    fd.events = (short)((wants & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                        (wants & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    if (poll(&fd, 1, STALL_MS) <= 0)
        return -ETIMEDOUT;
    floor->now_ns = clock_ns();
    if (!(fd.revents & (POLLIN | POLLHUP)))
        return nbd_aio_notify_write(floor->nbd) < 0 ? complain("send") : 0;
    do {
        before = floor->nr_done;
        err = nbd_aio_notify_read(floor->nbd);
    } while (!err && floor->nr_done > before && floor->nr_free < floor->nr_commands);
    if (!err && stuck(floor))
        err = nbd_aio_notify_read(floor->nbd);
    if (err || nbd_aio_is_closed(floor->nbd) || nbd_aio_is_dead(floor->nbd))
        return complain("receive");
    return 0;
}

/* -- a run ------------------------------------------------------------------------------------ */
static int load(struct floor *floor, uint64_t until_ns)
{
    int err = 0;

    while (!err && floor->now_ns < until_ns) {
        err = commands_send(floor);
        if (!err)
            err = replies_take(floor);
    }
    return err;
}

static int drain(struct floor *floor)
{
    int err = 0;

    while (!err && floor->nr_free < floor->nr_commands)
        err = replies_take(floor);
    return err;
}

static int count(struct floor *floor, const struct run *run, struct outcome *out)
{
    struct window own, server;
    int err;

    floor->out = out;
    if (!window_open(&own, &floor->own, run->syscalls) ||
        !window_open(&server, &floor->server, false))
        return -ESRCH;
    out->wall_ns = clock_ns();
    err = load(floor, out->wall_ns + (uint64_t)(run->seconds * 1e9));
    out->wall_ns = clock_ns() - out->wall_ns;
    if (!window_close(&own) || !window_close(&server))
        return -ESRCH;
    out->cpu_ns = out->own_cpu_ns = own.cpu_ns;
    out->server_cpu_ns = server.cpu_ns;
    out->syscalls = own.syscalls;
    return err;
}

static int floor_run(void *arg, const struct run *run, struct outcome *out)
{
    static struct outcome rest;
    struct floor *floor = arg;
    unsigned i;
    int err;

    floor->pattern = *run->pattern;
    floor->ios_each = 1;
    if (run->merged) {
        if (run->pattern->random || run->pattern->bytes > MERGED_BYTES)
            return -EINVAL;
        floor->pattern.bytes = MERGED_BYTES;
        floor->ios_each = MERGED_BYTES / run->pattern->bytes;
    }
    floor->nr_commands = run->depth / floor->ios_each;
    if (floor->nr_commands == 0)
        floor->nr_commands = 1;
    for (i = 0; i < floor->nr_commands; i++)
        floor->free[i] = &floor->commands[i];
    floor->nr_free = floor->nr_commands;
    floor->out = &rest;
    floor->now_ns = clock_ns();
    err = load(floor, floor->now_ns + player_warmup_ns(run));
    if (!err)
        err = count(floor, run, out);
    floor->out = &rest;
    return err ? err : drain(floor);
}

static int floor_fill(void *arg)
{
    struct floor *floor = arg;
    uint8_t *data = floor->commands[0].data;
    int64_t size = nbd_get_size(floor->nbd), at;
    uint32_t bytes, byte;
    uint64_t stamp;

    memset(data, 0x5a, PATTERN_BYTES_MAX);
    for (at = 0; at < size; at += bytes) {
        bytes = size - at < PATTERN_BYTES_MAX ? (uint32_t)(size - at) : PATTERN_BYTES_MAX;
        for (byte = 0; byte + sizeof stamp <= bytes; byte += PATTERN_BLOCK) {
            stamp = pattern_stamp((uint64_t)at + byte);
            memcpy(data + byte, &stamp, sizeof stamp);
        }
        if (nbd_pwrite(floor->nbd, data, bytes, (uint64_t)at, 0) < 0)
            return complain("fill");
    }
    return 0;
}

/* -- arguments -------------------------------------------------------------------------------- */
static int floor_connect(struct floor *floor, const char *uri)
{
    int64_t size;
    unsigned i;

    floor->nbd = nbd_create();
    if (!floor->nbd)
        return complain("create a handle");
    nbd_set_request_structured_replies(floor->nbd, false);
    nbd_set_pread_initialize(floor->nbd, false);
    if (nbd_connect_uri(floor->nbd, uri) < 0)
        return complain("connect");
    size = nbd_get_size(floor->nbd);
    if (size < 0 || (uint64_t)size < floor->walk.first_byte + PATTERN_BYTES_MAX)
        return complain("find room in the export");
    if (floor->walk.bytes == 0 || floor->walk.bytes > (uint64_t)size - floor->walk.first_byte)
        floor->walk.bytes = (uint64_t)size - floor->walk.first_byte;
    for (i = 0; i < PLAYER_DEPTH_MAX; i++) {
        floor->commands[i] = (struct command){.floor = floor, .data = malloc(PATTERN_BYTES_MAX)};
        if (!floor->commands[i].data)
            return -ENOMEM;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"uri", required_argument, NULL, 'u'},
        {"first-byte", required_argument, NULL, 'f'},
        {"bytes", required_argument, NULL, 'b'},
        {"server-pid", required_argument, NULL, 's'},
        {NULL, 0, NULL, 0},
    };
    static struct floor floor = {.walk = {.random_state = 1}};
    struct player player = {.arg = &floor, .run = floor_run, .fill = floor_fill};
    const char *uri = NULL;
    int letter, failed;

    while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (letter) {
        case 'u': uri = optarg; break;
        case 'f': floor.walk.first_byte = strtoull(optarg, NULL, 10); break;
        case 'b': floor.walk.bytes = strtoull(optarg, NULL, 10); break;
        case 's':
            floor.server = (struct processes){.count = 1, .pids = {(pid_t)atol(optarg)}};
            break;
        default: uri = NULL; optind = argc + 1;
        }
    }
    if (!uri || optind != argc) {
        fprintf(stderr, "usage: floor --uri URI [--first-byte N] [--bytes N] [--server-pid N]\n");
        return 2;
    }
    floor.own = (struct processes){.count = 1, .pids = {getpid()}};
    if (floor_connect(&floor, uri))
        return 1;
    failed = player_obey(&player);
    nbd_shutdown(floor.nbd, 0);
    nbd_close(floor.nbd);
    return failed;
}
