/* What main and the xenstore thread do in the daemon: a worker, and a link that orders a disk. */
#include "lockstep.h"

#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/config.h"
#include "gateway/disklink.h"
#include "gateway/keep.h"
#include "gateway/log.h"
#include "gateway/mailbox.h"
#include "gateway/resolve.h"
#include "gateway/worker.h"
#include "guest.h"

enum { CONNECT_MS = 10000, NAP_NS = 1000000, DEVID = 51712 };
#define KEPT_BUDGET_BYTES (UINT64_C(1) << 30)

void lockstep_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

/* Nobody runs the loop that reports are announced to: they are asked for. */
static void on_report(void *arg)
{
    (void)arg;
}

static struct disklink *link_create(const struct front *front, const char *socket,
                                    const char *keep_dir)
{
    struct disklink_spec spec = {
        .name = "lockstep",
        .domid = (uint16_t)front->guest->domid,
        .devid = DEVID,
        .connect_timeout_ms = CONNECT_MS,
        .keep_dir = keep_dir,
        .kind = "lockstep",
    };
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct config_disk *config;
    struct disklink *link;
    struct mailbox *box;
    char uri[256];

    snprintf(uri, sizeof uri, "nbd+unix:///?socket=%s", socket);
    if (!loop || mailbox_create(loop, &box) < 0 || config_disk_from_uri(uri, &config) < 0)
        lockstep_fail("no disk can be made of %s", uri);
    spec.config = config;
    if (disklink_create(&spec, box, on_report, NULL, &link) < 0)
        lockstep_fail("out of memory");
    return link;
}

static struct disk_order order_make(const struct front *front)
{
    const struct front_queue *queue = &front->queues[0];
    struct disk_order order = {
        .life = 1,
        .want = DISK_WANT_OPEN,
        .device_nonce = 1,
        .entry_count = LIMIT_RING_SLOTS,
        .abi = BLKIF_ABI_X86_64,
        .indirect_segments = LIMIT_SEGMENTS,
        .discard = true,
        .queue_count = 1,
    };

    order.queue[0].page_count = 1u << front->ring_order;
    order.queue[0].event_channel = queue->port;
    memcpy(order.queue[0].refs, queue->refs, sizeof queue->refs);
    return order;
}

static void wait_for(struct worker *worker, struct disklink *link, enum disk_phase phase)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    int64_t deadline_ms = guest_clock_ms() + CONNECT_MS;
    struct disk_report report;

    for (;;) {
        disklink_report(link, &report);
        if (report.phase == phase)
            return;
        if (report.phase == DISK_REFUSED || report.phase == DISK_LOST ||
            guest_clock_ms() > deadline_ms)
            lockstep_fail("the disk does not get ready: %s", report.reason);
        worker_turn(worker);
        nanosleep(&nap, NULL);
    }
}

static unsigned threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned count = 0;

    while (tasks && readdir(tasks))
        count++;
    if (tasks)
        closedir(tasks);
    return count - 2; /* . and .. */
}

/* A helper is told to be done before it has quite ended. */
static void wait_for_threads(void)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    int64_t deadline_ms = guest_clock_ms() + CONNECT_MS;

    while (threads() > 1) {
        if (guest_clock_ms() > deadline_ms)
            lockstep_fail("there is another thread, which the counts would not see");
        nanosleep(&nap, NULL);
    }
}

struct worker *disk_worker(void)
{
    struct worker *worker;

    log_set_level(LOG_LEVEL_WARNING);
    keep_set_budget(KEPT_BUDGET_BYTES);
    if (worker_create(0, &worker) < 0)
        lockstep_fail("no worker can be made");
    return worker;
}

void disk_connect(struct worker *worker, const struct front *front, struct server *server,
                  const char *socket, const char *keep_dir)
{
    struct disklink *link = link_create(front, socket, keep_dir);
    struct disk_order order = order_make(front);

    disklink_order(link, &order);
    if (worker_place_disk(worker, link) < 0)
        lockstep_fail("out of memory");
    wait_for(worker, link, DISK_READY);
    server_ready(server);
    order.want = DISK_WANT_CONNECT;
    disklink_order(link, &order);
    wait_for(worker, link, DISK_CONNECTED);
}

void disk_alone(void)
{
    resolve_drain();
    wait_for_threads();
}
