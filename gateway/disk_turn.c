/*
 * disk_turn: what a disk does with its requests in a turn of the worker's loop (see disk.h for the
 * order of the steps), and what becomes of them when a command completes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gateway/disk_private.h"
#include "gateway/grants.h"
#include "gateway/queue.h"
#include "gateway/slab.h"

/* -- small things -- */

static void replied(struct disk *disk, struct request *request, int error)
{
    request->error = error;
    request->state = REQUEST_REPLIED;
    list_append(&disk->replied, &request->work);
    disk_activate(disk);
}

static void hold(struct request *request)
{
    request->state = REQUEST_HELD;
}

static const char *op_name(const struct request *request)
{
    switch (request->blkif.op) {
    case BLKIF_READ: return "read";
    case BLKIF_DISCARD: return "discard";
    default: return "write";
    }
}

/*
 * Memory of the slab, or `reserve` if there is none and the request is the oldest: nobody else uses
 * that before it is answered. NULL: the disk is woken when some is freed.
 *
 * No disk may have more of the slab than what is left, so that who has nothing yet is served before
 * who has much. But a few disks of 1 MiB requests whose servers hang leave nothing all the same, or
 * nothing of a piece: for the others there are the reserves (law 4).
 */
static void *get_memory(struct disk *disk, const struct request *request, size_t bytes,
                        uint8_t *reserve)
{
    struct slab *slab = disk->home->slab;
    size_t left_bytes = slab_left_bytes(slab);
    void *memory = disk->memory_bytes <= left_bytes ? slab_alloc(slab, bytes) : NULL;

    disk->memory_bytes += left_bytes - slab_left_bytes(slab);
    if (!memory && disk->requests.next == &request->age)
        return reserve;
    if (!memory && !list_linked(&disk->starved))
        list_append(&disk->home->starved, &disk->starved);
    return memory;
}

/* True if it goes back to the slab; of the reserve the host gets its pages back. */
static bool put_memory(struct disk *disk, void *memory, uint8_t *reserve, size_t reserve_bytes)
{
    struct slab *slab = disk->home->slab;
    size_t left_bytes = slab_left_bytes(slab);

    if (memory && memory == reserve) {
        (void)madvise(reserve, reserve_bytes, MADV_DONTNEED);
        return false;
    }
    slab_free(slab, memory);
    disk->memory_bytes -= slab_left_bytes(slab) - left_bytes;
    return memory != NULL;
}

/* -- take -- */

static void refuse(struct disk *disk, struct request *request, enum blkif_status status)
{
    const struct blkif_req *req = &request->blkif;

    log_limited(&disk->log_guest, LOG_LEVEL_INFO, disk->name,
                "the guest sent a request that cannot be done (operation %u%s, %u segments, "
                "sector %llu): answered %s",
                req->op, req->indirect ? ", indirect" : "", req->segment_count,
                (unsigned long long)req->sector, status == BLKIF_ERROR ? "ERROR" : "EOPNOTSUPP");
    request->status = status;
    replied(disk, request, -EINVAL);
}

/* Its range and length are known: it may be sent when its time has come. */
static void make_pending(struct request *request)
{
    const struct blkif_req *req = &request->blkif;

    request->state = REQUEST_PENDING;
    request->range = (struct plan_range){
        .sector = req->sector, .sector_count = req->sector_count, .writes = req->op != BLKIF_READ};
    request->length_bytes = req->sector_count * LIMIT_SECTOR_BYTES;
}

static void on_taken(void *arg, struct request *request)
{
    struct disk *disk = arg;

    list_append(&disk->requests, &request->age);
    request->status = blkif_req_check(&request->blkif, &disk->limits);
    if (request->status != BLKIF_OKAY) {
        refuse(disk, request, request->status);
        return;
    }
    make_pending(request); /* for an indirect one: with the most it may turn out to be */
    if (request->blkif.indirect) {
        request->state = REQUEST_UNREAD;
        list_append(&disk->unread, &request->work);
    }
}

/* Asks for the descriptors of indirect requests: one copy each, all of a turn in one call. Of no
 * more than can soon be sent: descriptors that took all the memory would wait for ever for some to
 * put their data in. */
static void collect_descriptors(struct disk *disk)
{
    while (!list_empty(&disk->unread) && disk->descriptors_count < LIMIT_DESCRIPTORS) {
        struct request *request = container_of(disk->unread.next, struct request, work);

        request->descriptors = get_memory(disk, request, LIMIT_PAGE_BYTES, disk->reserve);
        if (!request->descriptors)
            return;
        disk->descriptors_count++;
        list_remove(&request->work);
        list_append(&disk->reading, &request->work);
        request->state = REQUEST_READING;
        grants_copy(disk->home->grants, GRANTS_FROM_GUEST, disk->spec->domid,
                    request->blkif.indirect_ref, 0, request->descriptors,
                    request->blkif.segment_count * (uint32_t)LIMIT_SEGMENT_BYTES, &request->error);
    }
}

void disk_take(struct disk *disk)
{
    bool serving = disk->state == STATE_CONNECTED || disk->state == STATE_FAILING;

    for (uint32_t i = 0; serving && i < disk->queue_count; i++) {
        if (queue_must_take(disk->queues[i]) &&
            queue_take(disk->queues[i], on_taken, disk) == -EPROTO)
            disk_give_up(disk, "the guest has broken its ring (requests more than a ring ahead)");
    }
    if (disk->state == STATE_FAILING)
        disk_fail_waiting(disk, false);
    else if (!disk->given_up)
        collect_descriptors(disk);
}

void disk_read(struct disk *disk)
{
    struct list *node;

    while ((node = list_pop(&disk->reading))) {
        struct request *request = container_of(node, struct request, work);
        enum blkif_status status;

        if (request->error != 0) {
            replied(disk, request, request->error);
            continue;
        }
        blkif_segs_decode(request->descriptors, request->blkif.segment_count, request->descriptors);
        request->segs = request->descriptors;
        status = blkif_segs_check(&request->blkif, request->segs, &disk->limits);
        if (status != BLKIF_OKAY)
            refuse(disk, request, status);
        else
            make_pending(request);
    }
}

/* -- start and send -- */

/* Two flushes are never at the server together: of two that cover the same writes, which were lost,
 * a server may fail one and then, or before, complete the other (law 6). */
static bool excludes(const struct request *older, const struct request *request)
{
    if (older->state == REQUEST_REPLIED)
        return false;
    if (older->blkif.op == BLKIF_FLUSH && request->blkif.op == BLKIF_FLUSH)
        return true;
    return !plan_compatible(&older->range, &request->range);
}

/* Invariant 2, for one request against all older ones. */
static bool may_start(const struct disk *disk, const struct request *request)
{
    list_each (node, &disk->requests) {
        const struct request *older = container_of(node, struct request, age);

        if (older == request)
            return true;
        if (excludes(older, request))
            return false;
    }
    return true;
}

/* A buffer in which the first segment lies as in its frame: whole aligned pages then need one copy
 * operation each. */
static bool give_buffer(struct disk *disk, struct request *request)
{
    uint32_t offset = request->segs[0].first_sect * (uint32_t)LIMIT_SECTOR_BYTES;

    request->buffer =
        get_memory(disk, request, offset + request->length_bytes, disk->reserve + LIMIT_PAGE_BYTES);
    if (!request->buffer)
        return false;
    request->data = (uint8_t *)request->buffer + offset;
    return true;
}

static void collect_copies(struct disk *disk, struct request *request,
                           enum grants_direction direction)
{
    uint8_t *data = request->data;

    for (unsigned i = 0; i < request->blkif.segment_count; i++) {
        const struct blkif_seg *seg = &request->segs[i];
        uint32_t bytes = blkif_seg_bytes(seg);

        grants_copy(disk->home->grants, direction, disk->spec->domid, seg->gref,
                    seg->first_sect * (uint32_t)LIMIT_SECTOR_BYTES, data, bytes, &request->error);
        data += bytes;
    }
}

/* Sends the next chunk of a request. -ENOTCONN: the loss will be told; it waits for what follows.
 */
static void send_chunk(struct disk *disk, struct request *request)
{
    bool trim = request->blkif.op == BLKIF_DISCARD;
    uint64_t left_bytes = request->length_bytes - request->done_bytes;
    uint64_t at_bytes = request->range.sector * LIMIT_SECTOR_BYTES + request->done_bytes;
    uint32_t chunk_bytes = target_command_max_bytes(disk->target, trim);
    int err;

    if (request->chunk_max_bytes && chunk_bytes > request->chunk_max_bytes)
        chunk_bytes = request->chunk_max_bytes;
    if (chunk_bytes > left_bytes)
        chunk_bytes = (uint32_t)left_bytes;
    request->chunk_bytes = chunk_bytes;
    request->state = REQUEST_SENT;
    if (trim)
        err = target_trim(disk->target, &request->cmd, chunk_bytes, at_bytes);
    else if (request->blkif.op == BLKIF_READ)
        err = target_read(disk->target, &request->cmd, request->data + request->done_bytes,
                          chunk_bytes, at_bytes);
    else
        err = target_write(disk->target, &request->cmd, request->data + request->done_bytes,
                           chunk_bytes, at_bytes);
    if (err == -ENOTCONN)
        hold(request);
    else if (err < 0)
        replied(disk, request, err);
}

/* The flush of a FLUSH; one with data then goes on as a write. */
static void flush_done(struct disk *disk, struct request *request)
{
    if (request_is_empty_flush(request)) {
        replied(disk, request, 0);
        return;
    }
    request->flushed = true;
    request->state = REQUEST_PENDING;
    disk_activate(disk);
}

static void start_flush(struct disk *disk, struct request *request)
{
    char reason[LIMIT_REASON_BYTES];
    int err;

    if (disk->flush_kind == TARGET_FLUSH_NEEDLESS) {
        flush_done(disk, request);
        return;
    }
    request->flush_covers_bytes = disk->written_bytes;
    request->state = REQUEST_SENT;
    err = target_flush(disk->target, &request->cmd);
    if (err == 0)
        return;
    hold(request);
    if (err != -ENOTCONN) { /* else the loss will be told, and why */
        snprintf(reason, sizeof reason, "the server's connection takes no flush: %s",
                 strerror(-err));
        disk_lose_server(disk, reason);
    }
}

/* False: nothing more can start in this turn. */
static bool start_one(struct disk *disk, struct request *request)
{
    if (request->blkif.op == BLKIF_FLUSH && !request->flushed) {
        start_flush(disk, request);
        return true;
    }
    if (request->blkif.op == BLKIF_DISCARD) {
        send_chunk(disk, request);
        return true;
    }
    if (!give_buffer(disk, request))
        return false;
    if (request->blkif.op == BLKIF_READ) {
        send_chunk(disk, request);
    } else {
        request->state = REQUEST_COPYING_OUT;
        list_append(&disk->copying_out, &request->work);
        disk->copying_out_count++;
        collect_copies(disk, request, GRANTS_FROM_GUEST);
    }
    return true;
}

void disk_start(struct disk *disk)
{
    unsigned looked_at = 0;

    if ((disk->state != STATE_CONNECTED && disk->state != STATE_DRAINING) || disk->growing)
        return;
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        /* What is beyond waits: those before it finish without it (plan.h). */
        if (looked_at++ == LIMIT_LOOKAHEAD_REQUESTS)
            return;
        if (disk->given_up || !target_has_room(disk->target, disk->copying_out_count))
            return;
        if (request->state == REQUEST_PENDING && may_start(disk, request) &&
            !start_one(disk, request))
            return;
    }
}

void disk_send(struct disk *disk)
{
    struct list *node;

    while ((node = list_pop(&disk->copying_out))) {
        struct request *request = container_of(node, struct request, work);

        if (request->error != 0)
            replied(disk, request, request->error);
        else
            send_chunk(disk, request);
    }
    disk->copying_out_count = 0;
    if (disk->target)
        target_deliver(disk->target);
}

bool disk_is_quiet(const struct disk *disk)
{
    list_each (node, &disk->requests) {
        const struct request *request = container_of(node, struct request, age);

        if (request->state == REQUEST_SENT || request->state == REQUEST_COPYING_OUT)
            return false;
    }
    return true;
}

/* -- completions -- */

static void flush_completed(struct disk *disk, struct request *request, int error)
{
    char reason[LIMIT_REASON_BYTES];

    /* After one flush that failed, success proves nothing: lost data is reported once. */
    if (error == 0 && !disk->server_gone) {
        if (request->flush_covers_bytes > disk->flushed_bytes)
            disk->flushed_bytes = request->flush_covers_bytes;
        flush_done(disk, request);
        return;
    }
    hold(request);
    if (error != 0 && error != -ENOTCONN) {
        snprintf(reason, sizeof reason, "the server failed a flush: %s", strerror(-error));
        disk_lose_server(disk, reason);
    }
}

/* What the protocol lets a server say of a command that is too long for it. */
static bool may_be_too_long(const struct request *request, int error)
{
    return (error == -EINVAL || error == -ENOMEM || error == -EOVERFLOW) &&
           request->chunk_bytes > LIMIT_COMMAND_FLOOR_BYTES;
}

/* Half of what failed: whole pages, and one at least. */
static uint32_t shorter(uint32_t chunk_bytes)
{
    uint32_t pages = chunk_bytes / 2 / LIMIT_COMMAND_FLOOR_BYTES;

    return (pages ? pages : 1) * LIMIT_COMMAND_FLOOR_BYTES;
}

static void chunk_failed(struct disk *disk, struct request *request, int error)
{
    uint64_t at_sector = request->range.sector + request->done_bytes / LIMIT_SECTOR_BYTES;
    bool trim = request->blkif.op == BLKIF_DISCARD;

    if (error == -ENOTCONN) {
        hold(request);
        return;
    }
    if (error == -ESHUTDOWN) { /* the server is leaving: as good as gone */
        hold(request);
        disk_lose_server(disk, "the server is shutting down");
        return;
    }
    if (may_be_too_long(request, error)) {
        request->too_long |= error != -ENOMEM; /* which it may have again for the next one */
        request->chunk_max_bytes = shorter(request->chunk_bytes);
        send_chunk(disk, request);
        return;
    }
    if (trim && error == -ENOTSUP)
        request->status = BLKIF_EOPNOTSUPP; /* Linux then sends no more */
    log_limited(&disk->log_server, LOG_LEVEL_WARNING, disk->name,
                "the server failed a %s of %u bytes at sector %llu: %s; answered %s",
                op_name(request), request->chunk_bytes, (unsigned long long)at_sector,
                strerror(-error), request->status == BLKIF_OKAY ? "ERROR" : "EOPNOTSUPP");
    replied(disk, request, error);
}

void disk_request_completed(struct disk *disk, struct request *request, int error)
{
    if (request->blkif.op == BLKIF_FLUSH && !request->flushed) {
        flush_completed(disk, request, error);
        return;
    }
    if (error != 0) {
        chunk_failed(disk, request, error);
        return;
    }
    if (request->range.writes && request->blkif.op != BLKIF_DISCARD)
        disk->written_bytes += request->chunk_bytes;
    request->done_bytes += request->chunk_bytes;
    if (request->done_bytes < request->length_bytes) {
        send_chunk(disk, request);
        return;
    }
    /* All of it was good in shorter chunks, so it was their length: no more of the long ones. */
    if (request->too_long)
        target_learn_max(disk->target, request->blkif.op == BLKIF_DISCARD,
                         request->chunk_max_bytes);
    replied(disk, request, 0);
}

/* -- collect and answer -- */

void disk_collect(struct disk *disk)
{
    list_each (node, &disk->replied) {
        struct request *request = container_of(node, struct request, work);

        if (request->error == 0 && request->blkif.op == BLKIF_READ)
            collect_copies(disk, request, GRANTS_TO_GUEST);
    }
}

static enum blkif_status final_status(struct disk *disk, const struct request *request)
{
    if (request->error == 0)
        return BLKIF_OKAY;
    if (request->error == -EFAULT)
        log_limited(&disk->log_guest, LOG_LEVEL_INFO, disk->name,
                    "the guest's memory for a %s cannot be accessed (bad, revoked or read-only "
                    "grant): answered ERROR",
                    op_name(request));
    return request->status != BLKIF_OKAY ? request->status : BLKIF_ERROR;
}

/* True if others can have what there was. */
static bool free_memory(struct disk *disk, struct request *request)
{
    bool freed = put_memory(disk, request->buffer, disk->reserve + LIMIT_PAGE_BYTES,
                            LIMIT_RESERVE_BYTES - LIMIT_PAGE_BYTES);

    freed |= put_memory(disk, request->descriptors, disk->reserve, LIMIT_PAGE_BYTES);
    disk->descriptors_count -= request->descriptors != NULL;
    request->buffer = request->descriptors = NULL;
    request->segs = NULL;
    return freed;
}

void disk_answer(struct disk *disk)
{
    struct list *node;
    bool freed = false;

    while ((node = list_pop(&disk->replied))) {
        struct request *request = container_of(node, struct request, work);
        enum blkif_status status = final_status(disk, request);

        freed |= free_memory(disk, request);
        list_remove(&request->age);
        queue_answer(request->queue, request, status);
        disk_activate(disk); /* what waited for it may start; a drain may be over */
    }
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_push(disk->queues[i]);
    while (freed && (node = list_pop(&disk->home->starved)))
        disk_activate(container_of(node, struct disk, starved));
}

/* -- answering without the server -- */

static bool is_waiting(const struct request *request)
{
    return request->state == REQUEST_PENDING || request->state == REQUEST_HELD ||
           request->state == REQUEST_UNREAD;
}

/* Is a read or write still at a server that lives, though it fails flushes? */
static bool data_in_flight(const struct disk *disk)
{
    list_each (node, &disk->requests) {
        const struct request *request = container_of(node, struct request, age);

        if (!request_is_empty_flush(request) && request->state != REQUEST_REPLIED)
            return true;
    }
    return false;
}

/* Answers ERROR to whatever waits for a server that is gone. Flushes stay, unless it is the end. */
void disk_fail_waiting(struct disk *disk, bool flushes_too)
{
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        if (!is_waiting(request) || request_is_empty_flush(request))
            continue;
        list_remove(&request->work); /* from those unread */
        request->status = BLKIF_ERROR;
        replied(disk, request, -EIO);
    }
    if (!flushes_too || data_in_flight(disk))
        return;
    /* In a pass of their own, so that they are answered last (law 6). */
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        if (is_waiting(request)) {
            request->status = BLKIF_FLUSH_LOST;
            replied(disk, request, -EIO);
        }
    }
}
