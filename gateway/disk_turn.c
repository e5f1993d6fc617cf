/*
 * disk_turn: what a disk does with its requests in a turn of the worker's loop (see disk.h for the
 * order of the steps): which may start, which wait and for what, and their answers.
 *
 * Every request that may start is in one of these lists, and is looked at once when it comes there:
 *
 *      again     writes whose bytes are in the kept file already: sent before, or by an earlier
 *                life. They need no memory, and others may wait for what they hold: they come first
 *
 *      ready     in the order in which nothing older was in their way any more
 *      waiting   while the pipeline is full (merge.pipeline commands are at the server) a short
 *                request whose neighbour is at the server, or waits itself, waits too. What then
 *                comes beside it makes one command with it, which leaves when one at the server is
 *                done, whichever: the oldest first, one for each.
 *                With an idle server nothing waits; there is no timer.
 *
 *      unkept    what finds no record in the kept file, and
 *      pressed   what finds no memory there, in order: in each round the first is tried, and the
 *                next if there was room. Reads pass them; who needs no memory goes before those who
 *                do, who may be waiting for his
 *
 *      haunted   until a lost session can do nothing any more (law 9)
 *
 *      resting   until a timer ends (on-error = retry)
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

static struct request *request_of(struct plan_item *item)
{
    return container_of(item, struct request, plan);
}

static struct request *first_of(const struct list *list)
{
    return list_empty(list) ? NULL : container_of(list->next, struct request, work);
}

void disk_request_replied(struct disk *disk, struct request *request, int error)
{
    request->error = error;
    request->state = REQUEST_REPLIED;
    list_append(&disk->replied, &request->work);
    disk_activate(disk);
}

static const char *op_name(const struct request *request)
{
    switch (request->blkif.op) {
    case BLKIF_READ: return "read";
    case BLKIF_DISCARD: return "discard";
    default: return "write";
    }
}

static void move(struct request *request, enum request_state state, struct list *list)
{
    list_remove(&request->work);
    request->state = state;
    list_append(list, &request->work);
}

static void make_ready(struct disk *disk, struct request *request)
{
    move(request, REQUEST_READY, request->copied ? &disk->again : &disk->ready);
}

/* Its turn has come, if nothing older is in its way: but not before its flush is done. */
static void consider(struct disk *disk, struct request *request)
{
    bool flush_first = request->blkif.op == BLKIF_FLUSH && !request->flushed;

    if (request->state == REQUEST_PENDING && request->plan.planned && request->plan.blockers == 0 &&
        !flush_first)
        make_ready(disk, request);
}

static void on_freed(void *arg, struct plan_item *item)
{
    consider(arg, request_of(item));
}

/*
 * Memory of the slab, or `reserve` if there is none and it is for the oldest request: nobody else
 * uses that before it is answered. NULL: the disk is woken when some is freed.
 *
 * No disk may have more of the slab than what is left, so that who has nothing yet is served before
 * who has much. But a few disks of 1 MiB requests whose servers hang leave nothing all the same, or
 * nothing of a piece: for the others there are the reserves (law 4).
 */
void *disk_get_memory(struct disk *disk, bool oldest, size_t bytes, uint8_t *reserve)
{
    struct slab *slab = disk->home->slab;
    size_t left_bytes = slab_left_bytes(slab);
    void *memory = disk->memory_bytes <= left_bytes ? slab_alloc(slab, bytes) : NULL;

    disk->memory_bytes += left_bytes - slab_left_bytes(slab);
    if (!memory && oldest)
        return reserve;
    if (!memory && !list_linked(&disk->starved))
        list_append(&disk->home->starved, &disk->starved);
    return memory;
}

/* Back to the slab, where others may wait for it; of the reserve the host gets its pages back. */
void disk_put_memory(struct disk *disk, void *memory, size_t bytes, const uint8_t *reserve)
{
    struct slab *slab = disk->home->slab;
    size_t left_bytes = slab_left_bytes(slab);
    struct list *node;

    if (!memory)
        return;
    if (memory == reserve) {
        (void)madvise(memory, bytes, MADV_DONTNEED);
        return;
    }
    slab_drop(slab, memory, bytes);
    disk->memory_bytes -= slab_left_bytes(slab) - left_bytes;
    while ((node = list_pop(&disk->home->starved)))
        disk_activate(container_of(node, struct disk, starved));
}

void disk_copy(struct disk *disk, struct request *request, enum grants_direction direction)
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
    disk_request_replied(disk, request, -EINVAL);
}

/* Its range and length are known: what it is to wait for is not, before it is planned. */
static void make_pending(struct disk *disk, struct request *request)
{
    const struct blkif_req *req = &request->blkif;

    request->state = REQUEST_PENDING;
    request->plan.range = (struct plan_range){
        .sector = req->sector, .sector_count = req->sector_count, .writes = req->op != BLKIF_READ};
    request->length_bytes = req->sector_count * LIMIT_SECTOR_BYTES;
    if (req->op == BLKIF_FLUSH && !request->flushed)
        list_append(&disk->flushes, &request->work);
}

static void on_taken(void *arg, struct request *request)
{
    struct disk *disk = arg;

    list_append(&disk->requests, &request->age);
    if (disk->unplanned == &disk->requests)
        disk->unplanned = &request->age;
    request->status = blkif_req_check(&request->blkif, &disk->limits);
    if (request->status != BLKIF_OKAY) {
        refuse(disk, request, request->status);
        return;
    }
    if (!request->blkif.indirect) {
        make_pending(disk, request);
        return;
    }
    request->state = REQUEST_UNREAD;
    list_append(&disk->unread, &request->work);
}

/* Its record's requests, by place: they are one command. */
static void join_record(struct kept *kept, struct request *request)
{
    struct list *at = &kept->requests;

    while (at->prev != &kept->requests &&
           container_of(at->prev, struct request, kept_link)->plan.range.sector >
               request->plan.range.sector)
        at = at->prev;
    list_append(at, &request->kept_link);
    request->kept = kept;
}

/* Its bytes were copied out of the guest by an earlier life, and perhaps sent: only these may be
 * sent again (law 9), and neither segments nor descriptors are needed any more. */
static int readopt_write(struct disk *disk, struct request *request,
                         const struct journal_entry *entry)
{
    struct kept *kept;
    int err = keep_adopt(disk->keep, entry, &kept);

    if (err < 0)
        return err;
    list_remove(&request->work);
    request->blkif.sector_count = entry->length_bytes / LIMIT_SECTOR_BYTES;
    request->copied = request->flushed = true;
    make_pending(disk, request);
    request->data = journal_data(keep_journal(disk->keep), entry->data_at_bytes);
    if (kept)
        join_record(kept, request);
    if (kept && kept->over) /* done, and not answered any more */
        disk_request_replied(disk, request, 0);
    return 0;
}

int disk_request_readopted(struct disk *disk, struct request *request,
                           const struct journal_entry *entry)
{
    on_taken(disk, request);
    if (entry->length_bytes > 0 && request_writes_data(request) &&
        request->state != REQUEST_REPLIED)
        return readopt_write(disk, request, entry);
    return 0;
}

/* A discard's record is its own, and of one of its chunks. */
static void leave_record(struct disk *disk, struct request *request)
{
    struct kept *kept = request->kept;

    list_remove(&request->kept_link);
    request->twin = kept->id;
    kept_release(disk->keep, kept,
                 kept->kind == JOURNAL_TRIM ? kept->length_bytes : (uint32_t)request->length_bytes);
    request->kept = NULL;
}

/* A record is sent again as a whole, or not at all: of one that is not wholly asked for, not even
 * that part of a disk is locked which nobody asks for. */
void disk_requests_readopted(struct disk *disk)
{
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);
        struct kept *kept = request->kept;

        if (kept && !kept->over && kept->asked_bytes != kept->length_bytes)
            leave_record(disk, request);
    }
    keep_adopted(disk->keep);
}

/* Asks for the descriptors of indirect requests: one copy each, all of a turn in one call. Of no
 * more than can soon be sent: descriptors that took all the memory would wait for ever for some to
 * put their data in. */
static void collect_descriptors(struct disk *disk)
{
    while (!list_empty(&disk->unread) && disk->descriptors_count < LIMIT_DESCRIPTORS) {
        struct request *request = container_of(disk->unread.next, struct request, work);

        request->descriptors = disk_get_memory(disk, disk->requests.next == &request->age,
                                               LIMIT_PAGE_BYTES, disk->reserve);
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

static void take_from(struct disk *disk, struct queue *queue)
{
    int err = queue_take(queue, on_taken, disk);

    if (err == -EPROTO)
        disk_give_up(disk, "the guest has broken its ring (requests more than a ring ahead)");
    else if (err == -ESTALE)
        disk_is_stale(disk);
}

void disk_take(struct disk *disk)
{
    bool serving = disk->state == STATE_CONNECTED || disk->state == STATE_FAILING;

    for (uint32_t i = 0; serving && i < disk->queue_count; i++) {
        if (queue_must_take(disk->queues[i]))
            take_from(disk, disk->queues[i]);
    }
    if (serving && !list_linked(&disk->unarmed))
        list_append(&disk->home->unarmed, &disk->unarmed);
    if (disk->state == STATE_FAILING)
        disk_fail_waiting(disk, false);
    else if (!disk->given_up)
        collect_descriptors(disk);
}

void disk_take_last(struct disk *disk)
{
    for (uint32_t i = 0; i < disk->queue_count; i++)
        take_from(disk, disk->queues[i]);
    if (!disk->given_up)
        collect_descriptors(disk);
}

/* One that is active takes again in the next round. */
void disk_arm(struct disk *disk)
{
    bool more = false;

    for (uint32_t i = 0; i < disk->queue_count && !list_linked(&disk->active); i++)
        more |= queue_arm(disk->queues[i]);
    if (more)
        disk_activate(disk);
}

void disk_read(struct disk *disk)
{
    struct list *node;

    while ((node = list_pop(&disk->reading))) {
        struct request *request = container_of(node, struct request, work);
        enum blkif_status status;

        if (request->error != 0) {
            disk_request_replied(disk, request, request->error);
            continue;
        }
        blkif_segs_decode(request->descriptors, request->blkif.segment_count, request->descriptors);
        request->segs = request->descriptors;
        status = blkif_segs_check(&request->blkif, request->segs, &disk->limits);
        if (status != BLKIF_OKAY)
            refuse(disk, request, status);
        else
            make_pending(disk, request);
    }
}

/* -- start -- */

/* Lets requests into the plan, oldest first. One whose descriptors are not read yet lets none pass
 * it: nobody knows what it is in the way of. */
static void plan_requests(struct disk *disk)
{
    while (disk->unplanned != &disk->requests && disk->plan.count < LIMIT_PLAN_REQUESTS) {
        struct request *request = container_of(disk->unplanned, struct request, age);

        if (request->state == REQUEST_UNREAD || request->state == REQUEST_READING)
            return;
        disk->unplanned = disk->unplanned->next;
        if (request->state == REQUEST_REPLIED || request->plan.range.sector_count == 0)
            continue; /* refused; or a flush and nothing else */
        plan_add(&disk->plan, &request->plan);
        consider(disk, request);
    }
}

/* The flush of a FLUSH is done; one with data then goes on as a write. */
static void flush_done(struct disk *disk, struct request *request)
{
    list_remove(&request->work);
    if (request_is_empty_flush(request)) {
        disk_request_replied(disk, request, 0);
        return;
    }
    request->flushed = true;
    consider(disk, request);
    disk_activate(disk);
}

/* False: it waits. */
static bool send_flush(struct disk *disk, struct request *request)
{
    int err;

    if (!disk_may_send(disk) || disk->own_flush_sent)
        return false;
    request->flush_mark = keep_flush_mark(disk->keep);
    err = target_flush(disk->target, &disk->flush_cmd);
    if (err == 0) {
        disk->flush = request;
        request->state = REQUEST_SENT;
    } else if (err != -ENOTCONN) { /* else the loss will be told, and why */
        target_give_up_session(disk->target, "its connection takes no flush");
    }
    return err == 0;
}

/*
 * With nothing that it would cover a flush is done, whether there is a server or not: what was
 * answered is either durable or kept. Otherwise one at a time, our own among them: of two that
 * cover the same writes, which were lost, a server may fail one and then, or before, complete the
 * other (law 6).
 */
static void start_flushes(struct disk *disk)
{
    struct request *request;

    while (!disk->flush && (request = first_of(&disk->flushes))) {
        if (disk->flush_kind != TARGET_FLUSH_COMMAND || keep_is_flushed(disk->keep))
            flush_done(disk, request);
        else if (!send_flush(disk, request))
            return;
    }
}

void disk_flush_completed(struct disk *disk, int error)
{
    struct request *request = disk->flush;

    disk->flush = NULL;
    request->state = REQUEST_PENDING;
    disk_flush_over(disk, request->flush_mark, error);
    if (error == 0)
        flush_done(disk, request);
    else
        disk_activate(disk); /* it is still the first of those to be flushed */
}

/* Would it land where a lost session may still write something else? */
static bool is_haunted(const struct disk *disk, const struct request *request)
{
    uint64_t at_bytes = request->plan.range.sector * LIMIT_SECTOR_BYTES;
    uint64_t length_bytes = request->length_bytes;

    if (!request->plan.range.writes || keep_ghosts(disk->keep) == 0)
        return false;
    if (request->kept && request->kept->kind == JOURNAL_WRITE) { /* with all of its record */
        at_bytes = request->kept->offset_bytes;
        length_bytes = request->kept->length_bytes;
    }
    return keep_ghost_overlaps(disk->keep, at_bytes, length_bytes,
                               request->blkif.op == BLKIF_DISCARD, request->kept, request->twin);
}

void disk_unhaunt(struct disk *disk)
{
    struct request *request;

    while ((request = first_of(&disk->haunted)))
        make_ready(disk, request);
}

/* Can all go that were sent together once? The last of them to be ready takes the others along. */
static bool is_complete(const struct request *request)
{
    if (!request->kept)
        return true;
    list_each (node, &request->kept->requests) {
        if (container_of(node, struct request, kept_link)->state != REQUEST_READY)
            return false;
    }
    return true;
}

static bool is_under_way(const struct request *request, const struct plan_item *neighbour)
{
    const struct request *other = neighbour ? container_of(neighbour, struct request, plan) : NULL;

    return other && other->blkif.op == request->blkif.op &&
           (other->state == REQUEST_SENT || other->state == REQUEST_COPYING_OUT);
}

/* Is there nothing to be gained by one more command? But those that came back make room for as many
 * of what waits, or it would wait for as long as other requests fill the pipeline. */
static bool pipeline_is_full(const struct disk *disk)
{
    return (disk->came_back == 0 || list_empty(&disk->waiting)) &&
           disk->commands_out >= disk->merge.pipeline * target_connections(disk->target);
}

/* Is more to be expected beside it while it waits? */
static bool waits_for_neighbours(const struct disk *disk, const struct request *request,
                                 const struct plan_run *run)
{
    return run->sector_count * LIMIT_SECTOR_BYTES < disk->merge.enough_bytes &&
           (is_under_way(request, run->before) || is_under_way(request, run->behind));
}

/* Of the kept file, as far as those know that were tried in this round. */
struct room {
    bool memory, records;
};

static bool needs_memory(const struct request *request)
{
    return request_writes_data(request) && !request->copied;
}

static bool needs_record(const struct request *request)
{
    return request->plan.range.writes && !request->kept;
}

static bool finds_room(const struct request *request, const struct room *room)
{
    return (room->records || !needs_record(request)) && (room->memory || !needs_memory(request));
}

static void put_aside(struct disk *disk, struct request *request)
{
    move(request, REQUEST_READY, needs_memory(request) ? &disk->pressed : &disk->unkept);
}

/* The first of those that come next. */
static struct request *first_to_look_at(struct disk *disk, bool full, const struct room *room)
{
    struct request *request = first_of(&disk->again);

    if (!request && room->records)
        request = first_of(&disk->unkept);
    if (!request && room->records && room->memory)
        request = first_of(&disk->pressed);
    if (!request && !full)
        request = first_of(&disk->waiting);
    return request ? request : first_of(&disk->ready);
}

/* The next one to start, which stays in its list, with those beside it. NULL: none, now. */
static struct request *next_to_start(struct disk *disk, const struct room *room,
                                     struct plan_run *ret_run)
{
    bool full = pipeline_is_full(disk);
    struct request *request;

    while ((request = first_to_look_at(disk, full, room))) {
        if (is_haunted(disk, request)) {
            move(request, REQUEST_HAUNTED, &disk->haunted);
        } else if (!is_complete(request)) {
            list_remove(&request->work);
        } else if (!finds_room(request, room)) {
            put_aside(disk, request);
        } else {
            disk_gather(disk, request, ret_run);
            if (!full || !waits_for_neighbours(disk, request, ret_run))
                return request;
            move(request, REQUEST_WAITING, &disk->waiting);
        }
    }
    return NULL;
}

/* In this round; what is left when its share is used up goes on in the next, after others'. */
static bool may_start(struct disk *disk)
{
    if (!disk_may_send(disk) || !target_has_room(disk->target, disk->collected_count) ||
        !disk_has_command(disk))
        return false;
    if (disk->started_bytes < LIMIT_ROUND_BYTES)
        return true;
    if (!list_empty(&disk->again) || !list_empty(&disk->ready) || !list_empty(&disk->waiting) ||
        !list_empty(&disk->unkept) || !list_empty(&disk->pressed))
        disk_activate(disk);
    return false;
}

/* There was no memory: but for the oldest one there is (invariant 6). */
static void start_oldest(struct disk *disk)
{
    struct request *oldest = container_of(disk->requests.next, struct request, age);
    struct plan_run run;

    if ((oldest->state == REQUEST_READY || oldest->state == REQUEST_WAITING) &&
        list_linked(&oldest->work) && !is_haunted(disk, oldest) && is_complete(oldest)) {
        disk_gather(disk, oldest, &run);
        disk_command_start(disk, oldest, &run);
    }
}

static void start_commands(struct disk *disk)
{
    struct request *request;
    struct plan_run run;
    struct room room = {.memory = true, .records = true};

    disk->started_bytes = 0;
    while (may_start(disk) && (request = next_to_start(disk, &room, &run))) {
        if (disk_command_start(disk, request, &run))
            continue;
        if (!needs_record(request)) {
            start_oldest(disk);
            return;
        }
        if (needs_memory(request))
            room.memory = false;
        else
            room.records = false;
        disk_flush_by_itself(disk); /* then there is some again */
        start_oldest(disk);
    }
}

void disk_start(struct disk *disk)
{
    if ((disk->state != STATE_CONNECTED && disk->state != STATE_DRAINING &&
         disk->state != STATE_SUSPENDING) ||
        disk->given_up || disk->stale)
        return;
    plan_requests(disk);
    start_flushes(disk);
    start_commands(disk);
}

void disk_send(struct disk *disk)
{
    disk_commands_send(disk);
    if (disk->target)
        target_deliver(disk->target);
}

/* -- requests that rest -- */

void disk_request_rests(struct disk *disk, struct request *request)
{
    move(request, REQUEST_RESTING, &disk->resting);
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
    struct request *request;

    (void)loop;
    (void)events;
    while ((request = first_of(&disk->resting)))
        make_ready(disk, request);
    disk_activate(disk);
}

/* -- collect and answer -- */

void disk_collect(struct disk *disk)
{
    list_each (node, &disk->replied) {
        struct request *request = container_of(node, struct request, work);

        /* Its pages may be another kernel's by now. */
        if (request->error == 0 && request->blkif.op == BLKIF_READ && !disk->stale)
            disk_copy(disk, request, GRANTS_TO_GUEST);
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

/* What a write or discard leaves behind: OKAY, a record that keeps its bytes; ERROR, at most a
 * ghost. */
static void let_go_of_record(struct disk *disk, struct request *request)
{
    if (request->kept && request->error != 0)
        kept_refused(disk->keep, request->kept);
    if (request->kept)
        leave_record(disk, request);
    if (request_writes_data(request) && request->data)
        keep_drop(disk->keep, request->data, request->length_bytes);
}

void disk_drop_descriptors(struct disk *disk, struct request *request)
{
    if (!request->descriptors)
        return;
    disk_put_memory(disk, request->descriptors, LIMIT_PAGE_BYTES, disk->reserve);
    disk->descriptors_count--;
    request->descriptors = NULL;
    request->segs = NULL;
    if (!list_empty(&disk->unread)) /* there is room for another one's */
        disk_activate(disk);
}

static void free_memory(struct disk *disk, struct request *request)
{
    disk_command_answered(disk, request);
    disk_drop_descriptors(disk, request);
    request->data = NULL;
    request->segs = NULL;
}

static void remove_request(struct disk *disk, struct request *request)
{
    if (disk->unplanned == &request->age)
        disk->unplanned = request->age.next;
    list_remove(&request->age);
    if (request->plan.planned)
        plan_remove(&disk->plan, &request->plan, on_freed, disk);
}

/* Not answered, and not by us any more: its entry, record and bytes stay in the kept file. */
void disk_request_forget(struct disk *disk, struct request *request)
{
    list_remove(&request->work);
    list_remove(&request->kept_link);
    request->kept = NULL;
    free_memory(disk, request);
    remove_request(disk, request);
}

void disk_answer(struct disk *disk)
{
    struct list *node;

    while ((node = list_pop(&disk->replied))) {
        struct request *request = container_of(node, struct request, work);
        enum blkif_status status = final_status(disk, request);

        let_go_of_record(disk, request);
        free_memory(disk, request);
        remove_request(disk, request);
        queue_answer(request->queue, request, status);
        disk_activate(disk); /* what waited for it may start; a drain may be over */
    }
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_push(disk->queues[i]);
}

/* -- answering without the server -- */

static bool is_waiting(const struct request *request)
{
    switch (request->state) {
    case REQUEST_UNREAD:
    case REQUEST_PENDING:
    case REQUEST_READY:
    case REQUEST_WAITING:
    case REQUEST_HAUNTED:
    case REQUEST_RESTING: return true;
    default: return false;
    }
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
        list_remove(&request->work);
        request->status = BLKIF_ERROR;
        disk_request_replied(disk, request, -EIO);
    }
    if (!flushes_too || data_in_flight(disk))
        return;
    /* In a pass of their own, so that they are answered last (law 6). */
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        if (is_waiting(request)) {
            list_remove(&request->work);
            request->status = BLKIF_FLUSH_LOST;
            disk_request_replied(disk, request, -EIO);
        }
    }
}
