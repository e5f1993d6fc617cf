/*
 * disk_turn: what a disk does with its requests in a turn of the worker's loop (see disk.h for the
 * order of the steps), and what becomes of them when a command completes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gateway/config.h"
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

/* Its session went: it is sent again in the next one. What was done of a write is of no worth: the
 * server may have lost it with its cache, and it is not among what is replayed. */
static void wait_again(struct disk *disk, struct request *request)
{
    request->state = REQUEST_PENDING;
    if (request->blkif.op != BLKIF_DISCARD)
        request->done_bytes = 0;
    disk_activate(disk);
}

/* Are its bytes in the kept file, rather than in the slab? */
static bool writes_data(const struct request *request)
{
    return request->blkif.op == BLKIF_WRITE || request->blkif.op == BLKIF_FLUSH;
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

/* Its bytes were copied out of the guest by an earlier life, and perhaps sent: only these may be
 * sent again (law 9), and neither segments nor descriptors are needed any more. */
static void readopt_write(struct disk *disk, struct request *request,
                          const struct journal_entry *entry)
{
    void *run;

    list_remove(&request->work);
    request->blkif.sector_count = entry->length_bytes / LIMIT_SECTOR_BYTES;
    make_pending(request);
    request->copied = request->flushed = true;
    request->kept = keep_adopt(disk->keep, entry, &run);
    request->buffer = request->kept ? request->kept->run : run;
    request->data = journal_data(keep_journal(disk->keep), entry->data_at_bytes);
    if (request->kept && request->kept->over) /* done, and not answered any more */
        replied(disk, request, 0);
}

void disk_request_readopted(struct disk *disk, struct request *request,
                            const struct journal_entry *entry)
{
    on_taken(disk, request);
    if (entry->length_bytes > 0 && writes_data(request) && request->state != REQUEST_REPLIED)
        readopt_write(disk, request, entry);
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
        int err =
            queue_must_take(disk->queues[i]) ? queue_take(disk->queues[i], on_taken, disk) : 0;

        if (err == -EPROTO)
            disk_give_up(disk, "the guest has broken its ring (requests more than a ring ahead)");
        else if (err == -ESTALE)
            disk_is_stale(disk);
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

/* Two flushes, our own among them, are never at the server together: of two that cover the same
 * writes, which were lost, a server may fail one and then, or before, complete the other (law 6).
 */
static bool excludes(const struct request *older, const struct request *request)
{
    if (older->state == REQUEST_REPLIED)
        return false;
    if (older->blkif.op == BLKIF_FLUSH && request->blkif.op == BLKIF_FLUSH)
        return true;
    return !plan_compatible(&older->range, &request->range);
}

/* Would it land where a lost session may still write something else? */
static bool is_haunted(const struct disk *disk, const struct request *request)
{
    return request->range.writes && keep_ghosts(disk->keep) > 0 &&
           keep_ghost_overlaps(disk->keep, request->range.sector * LIMIT_SECTOR_BYTES,
                               request->length_bytes, request->blkif.op == BLKIF_DISCARD,
                               request->kept);
}

/* Invariant 2, for one request against all older ones. */
static bool may_start(const struct disk *disk, const struct request *request)
{
    if (is_haunted(disk, request))
        return false;
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
    size_t bytes = offset + request->length_bytes;

    if (request->buffer)
        return true;
    request->buffer = writes_data(request)
                          ? keep_alloc(disk->keep, bytes)
                          : get_memory(disk, request, bytes, disk->reserve + LIMIT_PAGE_BYTES);
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

/* The record that a write has as a whole, a discard for each chunk. False: there is none now. */
static bool have_record(struct disk *disk, struct request *request, uint32_t chunk_bytes)
{
    bool trim = request->blkif.op == BLKIF_DISCARD;
    uint64_t at_bytes = request->range.sector * LIMIT_SECTOR_BYTES;

    if (request->kept)
        return true;
    if (trim)
        request->kept = kept_add(disk->keep, JOURNAL_TRIM, false, at_bytes + request->done_bytes,
                                 chunk_bytes, NULL, NULL);
    else
        request->kept =
            kept_add(disk->keep, JOURNAL_WRITE, disk->flush_kind == TARGET_FLUSH_NEEDLESS, at_bytes,
                     (uint32_t)request->length_bytes, request->data, request->buffer);
    return request->kept != NULL;
}

static int send_command(struct disk *disk, struct request *request)
{
    uint64_t at_bytes = request->range.sector * LIMIT_SECTOR_BYTES + request->done_bytes;

    if (request->blkif.op == BLKIF_DISCARD)
        return target_trim(disk->target, &request->cmd, request->chunk_bytes, at_bytes);
    if (request->blkif.op == BLKIF_READ)
        return target_read(disk->target, &request->cmd, request->data + request->done_bytes,
                           request->chunk_bytes, at_bytes);
    return target_write(disk->target, &request->cmd, request->data + request->done_bytes,
                        request->chunk_bytes, at_bytes);
}

/* The server has answered what was sent of it, one way or the other. */
static void returned(struct disk *disk, struct request *request)
{
    if (request->kept && request->kept->out > 0)
        kept_returned(disk->keep, request->kept);
}

/* Sends the next chunk of a request. -ENOTCONN: the loss will be told; it waits for what follows.
 */
static void send_chunk(struct disk *disk, struct request *request)
{
    bool trim = request->blkif.op == BLKIF_DISCARD;
    uint64_t left_bytes = request->length_bytes - request->done_bytes;
    uint32_t chunk_bytes = target_command_max_bytes(disk->target, trim);
    int err;

    if (request->chunk_max_bytes && chunk_bytes > request->chunk_max_bytes)
        chunk_bytes = request->chunk_max_bytes;
    if (chunk_bytes > left_bytes)
        chunk_bytes = (uint32_t)left_bytes;
    if (request->range.writes && !have_record(disk, request, chunk_bytes)) {
        request->state = REQUEST_PENDING; /* until a flush has given some back */
        disk_flush_by_itself(disk);
        return;
    }
    if (trim && request->kept && chunk_bytes > request->kept->length_bytes)
        chunk_bytes = request->kept->length_bytes;
    request->chunk_bytes = chunk_bytes;
    request->state = REQUEST_SENT;
    if (request->kept && request->kept->out == 0)
        kept_sent(disk->keep, request->kept);
    err = send_command(disk, request);
    if (err == 0)
        return;
    returned(disk, request);
    if (err == -ENOTCONN)
        wait_again(disk, request);
    else
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

/* With nothing that it would cover it is done, whether there is a server or not: what was answered
 * is either durable or kept. */
static void start_flush(struct disk *disk, struct request *request)
{
    int err;

    if (disk->flush_kind != TARGET_FLUSH_COMMAND || keep_is_flushed(disk->keep)) {
        flush_done(disk, request);
        return;
    }
    if (!disk_may_send(disk) || disk->own_flush_sent)
        return;
    request->flush_mark = keep_flush_mark(disk->keep);
    request->state = REQUEST_SENT;
    disk->flush_sent = true;
    err = target_flush(disk->target, &request->cmd);
    if (err == 0)
        return;
    disk->flush_sent = false;
    wait_again(disk, request);
    if (err != -ENOTCONN) /* else the loss will be told, and why */
        target_give_up_session(disk->target, "its connection takes no flush");
}

/* False: nothing more can start in this turn. */
static bool start_one(struct disk *disk, struct request *request)
{
    if (request->blkif.op == BLKIF_FLUSH && !request->flushed) {
        start_flush(disk, request);
        return true;
    }
    if (!disk_may_send(disk) || !target_has_room(disk->target, disk->copying_out_count))
        return true; /* but a flush that needs nobody may be behind it */
    if (request->blkif.op == BLKIF_DISCARD || request->copied) {
        send_chunk(disk, request);
        return true;
    }
    if (!give_buffer(disk, request)) {
        if (writes_data(request))
            disk_flush_by_itself(disk); /* then there is room again */
        return false;
    }
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

    if ((disk->state != STATE_CONNECTED && disk->state != STATE_DRAINING &&
         disk->state != STATE_SUSPENDING) ||
        disk->given_up || disk->stale)
        return;
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        /* What is beyond waits: those before it finish without it (plan.h). */
        if (looked_at++ == LIMIT_LOOKAHEAD_REQUESTS)
            return;
        if (request->state == REQUEST_PENDING && !request->resting && may_start(disk, request) &&
            !start_one(disk, request))
            return;
    }
}

void disk_send(struct disk *disk)
{
    struct list *node;

    while ((node = list_pop(&disk->copying_out))) {
        struct request *request = container_of(node, struct request, work);

        if (request->error != 0) {
            replied(disk, request, request->error);
            continue;
        }
        queue_copied(request->queue, request, keep_data_at(disk->keep, request->data));
        request->copied = true;
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
    return disk->replay_out == 0;
}

/* -- completions -- */

static void flush_completed(struct disk *disk, struct request *request, int error)
{
    disk->flush_sent = false;
    disk_flush_over(disk, request->flush_mark, error);
    if (error == 0)
        flush_done(disk, request);
    else
        wait_again(disk, request);
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

/* The errors of `on-error = retry`: of storage that is full, or being repaired. */
static bool may_pass(int error)
{
    return error == -ENOSPC || error == -EIO || error == -ENOMEM || error == -ETIMEDOUT;
}

static void rest(struct disk *disk, struct request *request)
{
    wait_again(disk, request);
    request->resting = true;
    if (ev_is_active(&disk->rest_timer))
        return;
    log_limited(&disk->log_server, LOG_LEVEL_WARNING, disk->name,
                "the server fails requests; they are tried again, and again (on-error = retry)");
    ev_timer_set(&disk->rest_timer, LIMIT_REST_MS / 1000., 0.);
    ev_timer_start(disk->home->loop, &disk->rest_timer);
}

void disk_on_rested(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    struct disk *disk = timer->data;

    (void)loop;
    (void)events;
    list_each (node, &disk->requests)
        container_of(node, struct request, age)->resting = false;
    disk_activate(disk);
}

static void chunk_failed(struct disk *disk, struct request *request, int error)
{
    uint64_t at_sector = request->range.sector + request->done_bytes / LIMIT_SECTOR_BYTES;
    bool trim = request->blkif.op == BLKIF_DISCARD;

    if (error == -ENOTCONN) { /* still out: a ghost, when the loss is told */
        wait_again(disk, request);
        return;
    }
    returned(disk, request);
    if (error == -ESHUTDOWN) { /* the server is leaving: as good as gone */
        wait_again(disk, request);
        target_give_up_session(disk->target, "it is shutting down");
        return;
    }
    if (may_be_too_long(request, error)) {
        request->too_long |= error != -ENOMEM; /* which it may have again for the next one */
        request->chunk_max_bytes = shorter(request->chunk_bytes);
        send_chunk(disk, request);
        return;
    }
    if (disk->spec->config->retry_errors && may_pass(error)) {
        rest(disk, request);
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

/* A discard's chunk is a record of its own: one record could not hold all of it. */
static void chunk_done(struct disk *disk, struct request *request)
{
    returned(disk, request);
    kept_done(disk->keep, request->kept, disk->flush_kind != TARGET_FLUSH_COMMAND);
    kept_release(disk->keep, request->kept);
    request->kept = NULL;
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
    request->done_bytes += request->chunk_bytes;
    if (request->blkif.op == BLKIF_DISCARD)
        chunk_done(disk, request);
    if (request->done_bytes < request->length_bytes) {
        send_chunk(disk, request);
        return;
    }
    returned(disk, request);
    if (request->kept)
        kept_done(disk->keep, request->kept, disk->flush_kind != TARGET_FLUSH_COMMAND);
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

        /* Its pages may be another kernel's by now. */
        if (request->error == 0 && request->blkif.op == BLKIF_READ && !disk->stale)
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

/* What a write leaves behind: OKAY, a record that keeps its bytes; ERROR, at most a ghost. */
static void leave_record(struct disk *disk, struct request *request)
{
    bool records_run = request->kept && request->error == 0;

    if (records_run)
        kept_release(disk->keep, request->kept);
    else if (request->kept)
        kept_refused(disk->keep, request->kept);
    if (!records_run)
        keep_free(disk->keep, request->buffer);
    request->kept = NULL;
    request->buffer = NULL;
}

/* True if others can have what there was. */
static bool free_memory(struct disk *disk, struct request *request)
{
    bool freed;

    if (request->kept || (writes_data(request) && request->buffer))
        leave_record(disk, request);
    freed = put_memory(disk, request->buffer, disk->reserve + LIMIT_PAGE_BYTES,
                       LIMIT_RESERVE_BYTES - LIMIT_PAGE_BYTES);
    freed |= put_memory(disk, request->descriptors, disk->reserve, LIMIT_PAGE_BYTES);
    disk->descriptors_count -= request->descriptors != NULL;
    request->buffer = request->descriptors = NULL;
    request->segs = NULL;
    return freed;
}

/* Not answered, and not by us any more: its entry, record and bytes stay in the kept file. */
void disk_request_forget(struct disk *disk, struct request *request)
{
    list_remove(&request->work);
    if (writes_data(request))
        request->buffer = NULL;
    request->kept = NULL;
    (void)free_memory(disk, request);
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
    return request->state == REQUEST_PENDING || request->state == REQUEST_UNREAD;
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
