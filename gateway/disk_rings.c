/*
 * disk_rings: a disk's rings: new ones, and those that an earlier life of the daemon served, with
 * the requests that were in flight.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "gateway/disk_private.h"
#include "gateway/pages.h"
#include "gateway/queue.h"

static void on_signalled(void *arg)
{
    disk_activate(arg);
}

/* Invariant 6. A page never used costs no memory. */
static int make_reserve(struct disk *disk)
{
    disk->reserve = pages_map(LIMIT_RESERVE_BYTES);
    return disk->reserve ? 0 : -ENOMEM;
}

void disk_rings_close(struct disk *disk)
{
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_close(disk->queues[i]);
    disk->queue_count = 0;
    pages_unmap(disk->reserve, LIMIT_RESERVE_BYTES);
    disk->reserve = NULL;
}

static int open_queues(struct disk *disk, const struct disk_order *order, char *reason,
                       size_t reason_bytes)
{
    struct queue_place place = {
        .grants = disk->home->grants,
        .evtchn = disk->home->evtchn,
        .domid = disk->spec->domid,
        .abi = order->abi,
        .signalled = on_signalled,
        .arg = disk,
    };
    int err = make_reserve(disk);

    disk_commands_reset(disk);
    if (err < 0)
        snprintf(reason, reason_bytes, "out of memory");
    for (uint32_t i = 0; err == 0 && i < order->queue_count && i < LIMIT_QUEUES; i++) {
        err = queue_open(&place, &order->queue[i], &disk->queues[i], reason, reason_bytes);
        disk->queue_count += err == 0;
    }
    return err;
}

static uint64_t make_nonce(void)
{
    uint64_t nonce = 0;

    while (nonce == 0)
        if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
            nonce = (uint64_t)(uintptr_t)&nonce ^ (uint64_t)time(NULL) << 32;
    return nonce;
}

/* Rings that the guest has just made. */
static int begin_rings(struct disk *disk, const struct disk_order *order, char *reason,
                       size_t reason_bytes)
{
    struct journal *journal = keep_journal(disk->keep);
    struct journal_connection connection = {.abi = order->abi, .queue_count = disk->queue_count};
    uint32_t rsp_prod[LIMIT_QUEUES];
    int err;

    for (uint32_t i = 0; i < disk->queue_count; i++) {
        const struct ring_view *view = queue_view(disk->queues[i]);
        struct journal_ring *ring = &connection.ring[i];

        if (disk->must_idle && view->req_prod != view->rsp_prod) {
            snprintf(reason, reason_bytes,
                     "requests may be in flight from before the daemon's "
                     "end, and there is no kept file that knows of them");
            return -ESTALE;
        }
        rsp_prod[i] = view->rsp_prod;
        ring->nonce = make_nonce();
        ring->slots = ring_slots(order->abi, order->queue[i].page_count);
        ring->event_channel = order->queue[i].event_channel;
        ring->page_count = order->queue[i].page_count;
        memcpy(ring->refs, order->queue[i].refs, sizeof ring->refs);
    }
    err = journal_connect(journal, &connection, rsp_prod);
    if (err < 0)
        snprintf(reason, reason_bytes, "more rings than were offered");
    for (uint32_t i = 0; err == 0 && i < disk->queue_count; i++)
        err = queue_start(disk->queues[i], journal, i, connection.ring[i].nonce, reason,
                          reason_bytes);
    return err;
}

/* Requests that an earlier life had taken and not answered, oldest first. */
static int readopt_requests(struct disk *disk)
{
    struct journal *journal = keep_journal(disk->keep);
    uint32_t *order = calloc(journal->layout.geometry.entry_count, sizeof *order);
    struct journal_entry entry;
    uint32_t count;
    int err = 0;

    if (!order)
        return -ENOMEM;
    count = journal_entries_by_age(journal, order);
    for (uint32_t i = 0; i < count && err == 0; i++) {
        journal_entry(journal, order[i], &entry);
        err = disk_request_readopted(disk, queue_readopt(disk->queues[entry.queue], order[i]),
                                     &entry);
    }
    free(order);
    if (err < 0)
        return err;
    disk_requests_readopted(disk);
    return (int)count;
}

/* Rings that an earlier life of ours served. -ESTALE: the guest has made them anew since. */
static int resume_rings(struct disk *disk, const struct disk_order *order, char *reason,
                        size_t reason_bytes)
{
    struct journal *journal = keep_journal(disk->keep);
    struct journal_connection connection;
    unsigned stale = 0;
    int err = 0, count;

    journal_connection(journal, &connection);
    for (uint32_t i = 0; i < disk->queue_count; i++)
        stale += i >= connection.queue_count ||
                 queue_view(disk->queues[i])->nonce != connection.ring[i].nonce;
    if (stale == disk->queue_count)
        return -ESTALE;
    if (stale > 0 || connection.queue_count != disk->queue_count || connection.abi != order->abi) {
        snprintf(reason, reason_bytes, "the rings are not those that the kept file knows");
        return -EPROTO;
    }
    for (uint32_t i = 0; err == 0 && i < disk->queue_count; i++)
        err = queue_start(disk->queues[i], journal, i, 0, reason, reason_bytes);
    if (err < 0)
        return err;
    count = readopt_requests(disk);
    if (count < 0) {
        snprintf(reason, reason_bytes, "requests in flight: %s",
                 count == -EBADMSG ? "their bytes are not where the kept file says they are"
                                   : strerror(-count));
        return count;
    }
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_kick(disk->queues[i]);
    log_info(disk->name, "taken up again: %d requests were in flight, %llu bytes not flushed",
             count, (unsigned long long)keep_unflushed_bytes(disk->keep));
    return 0;
}

int disk_rings_start(struct disk *disk, const struct disk_order *order, char *reason,
                     size_t reason_bytes)
{
    int err = open_queues(disk, order, reason, reason_bytes);

    if (err < 0)
        return err;
    plan_init(&disk->plan, (uint32_t)make_nonce());
    if (disk->resumed) {
        err = resume_rings(disk, order, reason, reason_bytes);
        disk->resumed = false; /* once: the next connection of this life is a new one */
        if (err != -ESTALE)
            return err;
        journal_disconnect(keep_journal(disk->keep));
        keep_adopted(disk->keep);
    }
    return begin_rings(disk, order, reason, reason_bytes);
}
