/* A player puts a load on something that serves a disk, whenever it is told to. It stays connected
 * and idle in between, so that another can be measured meanwhile. It reads lines
 *
 *      run PATTERN DEPTH SECONDS [syscalls] [merged]
 *      fill
 *
 * from standard input and answers each with one line of JSON on standard output; first it says
 * {"ready": true}. It ends at the end of its input, or after a line {"error": TEXT}.
 */
#ifndef PLAYER_H
#define PLAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "histogram.h"
#include "pattern.h"

#define PLAYER_DEPTH_MAX 256u

struct run {
    const struct pattern *pattern;
    unsigned depth; /* I/Os in flight, of each guest */
    double seconds;
    bool syscalls; /* counted: a run that is not to be timed */
    bool merged;   /* neighbours go in one command: for who knows how */
};

/* What was seen in the seconds that count: after the load had begun, before it ended. */
struct outcome {
    uint64_t wall_ns, ios, errors;
    uint64_t wrong; /* of those that were looked at: not what the disk must hold */
    struct histogram latency;
    uint64_t cpu_ns, own_cpu_ns, server_cpu_ns; /* of the backend, the player, the NBD server */
    int64_t syscalls;                           /* of the backend; -1: not counted */
    bool guest;                                 /* the rest is known: there was a Xen ring */
    uint64_t ring_requests, copy_calls, copy_batches, copy_ops, notifies, guest_notifies;
};

struct player {
    void *arg;
    int (*run)(void *arg, const struct run *run, struct outcome *ret); /* 0 or -errno */
    int (*fill)(void *arg);                                            /* or NULL: cannot */
};

/* How long the load runs before the seconds that count. */
uint64_t player_warmup_ns(const struct run *run);
/* Obeys until the end of the input. 0, or 1 after an error. */
int player_obey(const struct player *player);

#endif
