#include "gateway/disk.h"

#include <assert.h>
#include <errno.h>
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/disklink.h"
#include "gateway/grants.h"
#include "gateway/log.h"
#include "gateway/queue.h"
#include "gateway/request.h"
#include "gateway/slab.h"
#include "gateway/target.h"

#define DISK_STATES(X) \
    X(CLOSED) X(OPENING) X(READY) X(REFUSED) X(CONNECTED) X(LOST) X(FAILING) X(DRAINING) X(FLUSHING)

enum disk_state {
#define X(name) STATE_##name,
    DISK_STATES(X)
#undef X
        STATE_COUNT
};

static const char *const state_names[] = {
#define X(name) #name,
    DISK_STATES(X)
#undef X
};

#define TO(name) (1u << STATE_##name)
static const unsigned state_successors[STATE_COUNT] = {
    [STATE_CLOSED] = TO(OPENING),
    [STATE_OPENING] = TO(READY) | TO(LOST) | TO(CLOSED),
    [STATE_READY] = TO(CONNECTED) | TO(REFUSED) | TO(LOST) | TO(CLOSED),
    [STATE_REFUSED] = TO(CLOSED),
    [STATE_CONNECTED] = TO(LOST) | TO(DRAINING),
    [STATE_LOST] = TO(FAILING) | TO(DRAINING),
    [STATE_FAILING] = TO(DRAINING),
    [STATE_DRAINING] = TO(FLUSHING) | TO(CLOSED),
    [STATE_FLUSHING] = TO(CLOSED),
};

struct disk {
    struct list active; /* in home->active: has something to do in the next round */
    struct list place;  /* in a list of the worker's */
    struct list starved;
    struct disk_home *home;
    struct disklink *link;
    const struct disklink_spec *spec;
    const char *name;
    enum disk_state state;
    uint32_t life;

    struct target *target;
    bool target_ready;
    bool given_up;    /* no request will be sent any more: lost_reason */
    bool server_gone; /* and why: the server, not the guest; no flush will do any more either */
    char lost_reason[LIMIT_REASON_BYTES];
    enum target_flush flush_kind;
    struct disk_properties properties;

    struct blkif_limits limits;
    struct queue *queues[LIMIT_QUEUES];
    uint32_t queue_count;

    struct list requests;    /* all unfinished, by age */
    struct list copying_out; /* writes whose data comes with this turn's copy */
    uint32_t copying_out_count;
    struct list replied; /* to be answered in this turn */
    size_t buffer_bytes; /* of the slab: this disk's */

    /* Both only grow. A flush covers what was written when it was sent. */
    uint64_t written_bytes;
    uint64_t flushed_bytes;

    struct nbdcmd close_flush; /* our own last flush */
    uint64_t close_flush_covers_bytes;
    bool close_flush_done;
    struct ev_timer close_timer;

    struct log_limit log_guest, log_server;
};

/* -- small things -- */

static void activate(struct disk *disk)
{
    if (!list_linked(&disk->active))
        list_append(&disk->home->active, &disk->active);
}

static void set_state(struct disk *disk, enum disk_state state)
{
    assert(state_successors[disk->state] & (1u << state));
    log_debug(disk->name, "data: %s -> %s", state_names[disk->state], state_names[state]);
    disk->state = state;
    activate(disk);
}

static void publish(struct disk *disk, enum disk_phase phase, const char *reason)
{
    struct disk_report report = {
        .life = disk->life, .phase = phase, .properties = disk->properties};

    snprintf(report.reason, sizeof report.reason, "%s", reason);
    disklink_publish(disk->link, &report);
}

static bool has_rings(const struct disk *disk)
{
    switch (disk->state) {
    case STATE_CONNECTED:
    case STATE_LOST:
    case STATE_FAILING:
    case STATE_DRAINING:
    case STATE_FLUSHING: return true;
    default: return false;
    }
}

/* The disk's service ends here (LOST). */
static void give_up(struct disk *disk, const char *reason)
{
    activate(disk); /* the second time too: what the server held comes back now, to be answered */
    if (disk->given_up)
        return;
    disk->given_up = true;
    snprintf(disk->lost_reason, sizeof disk->lost_reason, "%s", reason);
}

/* By its server: the connection went, or nothing durable can be had of it any more. */
static void lose_server(struct disk *disk, const char *reason)
{
    disk->server_gone = true;
    give_up(disk, reason);
}

/* -- what the target says -- */

static void on_target_ready(void *arg, const struct disk_properties *properties)
{
    struct disk *disk = arg;

    disk->properties = *properties;
    disk->flush_kind = target_flush_kind(disk->target);
    disk->target_ready = true;
    activate(disk);
}

static void on_target_lost(void *arg, const char *reason)
{
    lose_server(arg, reason);
}

static void replied(struct disk *disk, struct request *request, int error)
{
    request->error = error;
    request->state = REQUEST_REPLIED;
    list_append(&disk->replied, &request->work);
    activate(disk);
}

static void hold(struct request *request)
{
    request->state = REQUEST_HELD;
}

static void flush_completed(struct disk *disk, struct request *request, int error)
{
    char reason[LIMIT_REASON_BYTES];

    /* After one flush that failed, success proves nothing: lost data is reported once. */
    if (error == 0 && !disk->server_gone) {
        if (request->flush_covers_bytes > disk->flushed_bytes)
            disk->flushed_bytes = request->flush_covers_bytes;
        replied(disk, request, 0);
        return;
    }
    hold(request);
    if (error != 0 && error != -ENOTCONN) {
        snprintf(reason, sizeof reason, "the server failed a flush: %s", strerror(-error));
        lose_server(disk, reason);
    }
}

static const char *op_name(const struct request *request)
{
    return request->range.writes ? "write" : "read";
}

static void data_completed(struct disk *disk, struct request *request, int error)
{
    if (error == -ENOTCONN) {
        hold(request);
        return;
    }
    if (error == -ESHUTDOWN) { /* the server is leaving: as good as gone */
        hold(request);
        lose_server(disk, "the server is shutting down");
        return;
    }
    if (error != 0)
        log_limited(&disk->log_server, LOG_LEVEL_WARNING, disk->name,
                    "the server failed a %s of %u bytes at sector %llu: %s; answered ERROR",
                    op_name(request), request->length_bytes,
                    (unsigned long long)request->range.sector, strerror(-error));
    else if (request->range.writes)
        disk->written_bytes += request->length_bytes;
    replied(disk, request, error);
}

static void on_target_completed(void *arg, struct nbdcmd *cmd)
{
    struct disk *disk = arg;
    struct request *request;

    if (cmd == &disk->close_flush) {
        if (cmd->error == 0)
            disk->flushed_bytes = disk->close_flush_covers_bytes;
        disk->close_flush_done = true;
        activate(disk);
        return;
    }
    request = container_of(cmd, struct request, cmd);
    if (request->blkif.op == BLKIF_FLUSH)
        flush_completed(disk, request, cmd->error);
    else
        data_completed(disk, request, cmd->error);
}

static const struct target_handler target_handler = {on_target_ready, on_target_lost,
                                                     on_target_completed};

/* -- answering without the server -- */

/* Is a read or write still at a server that lives, though it fails flushes? */
static bool data_in_flight(const struct disk *disk)
{
    list_each (node, &disk->requests) {
        const struct request *request = container_of(node, struct request, age);

        if (request->blkif.op != BLKIF_FLUSH && request->state != REQUEST_REPLIED)
            return true;
    }
    return false;
}

/* Answers ERROR to whatever waits for a server that is gone. Flushes stay, unless it is the end. */
static void fail_waiting(struct disk *disk, bool flushes_too)
{
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        if (request->state != REQUEST_PENDING && request->state != REQUEST_HELD)
            continue;
        if (request->blkif.op != BLKIF_FLUSH) {
            request->status = BLKIF_ERROR;
            replied(disk, request, -EIO);
        }
    }
    if (!flushes_too || data_in_flight(disk))
        return;
    /* In a pass of their own, so that they are answered last (law 6). */
    list_each (node, &disk->requests) {
        struct request *request = container_of(node, struct request, age);

        if (request->state == REQUEST_PENDING || request->state == REQUEST_HELD) {
            request->status = BLKIF_FLUSH_LOST;
            replied(disk, request, -EIO);
        }
    }
}

/* -- life: opening, connecting, closing -- */

static void open_life(struct disk *disk, uint32_t life)
{
    int err;

    disk->life = life;
    disk->target_ready = disk->given_up = disk->server_gone = false;
    disk->written_bytes = disk->flushed_bytes = 0;
    disk->close_flush_done = false;
    memset(&disk->properties, 0, sizeof disk->properties);
    set_state(disk, STATE_OPENING);
    publish(disk, DISK_OPENING, "");
    err = target_open(disk->home->loop, disk->home->mailbox, disk->spec, &target_handler, disk,
                      &disk->target);
    if (err < 0)
        lose_server(disk, strerror(-err));
}

static void on_signalled(void *arg)
{
    activate(arg);
}

static void close_queues(struct disk *disk)
{
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_close(disk->queues[i]);
    disk->queue_count = 0;
}

static void connect_rings(struct disk *disk, const struct disk_order *order)
{
    struct queue_place place = {
        .grants = disk->home->grants,
        .evtchn = disk->home->evtchn,
        .domid = disk->spec->domid,
        .abi = order->abi,
        .signalled = on_signalled,
        .arg = disk,
    };
    char reason[LIMIT_REASON_BYTES];

    disk->limits = (struct blkif_limits){
        .capacity_sectors = disk->properties.capacity_sectors,
        .readonly = disk->properties.readonly,
        .can_flush = disk->flush_kind != TARGET_FLUSH_NONE,
    };
    for (uint32_t i = 0; i < order->queue_count && i < LIMIT_QUEUES; i++) {
        if (queue_open(&place, &order->queue[i], &disk->queues[i], reason, sizeof reason) < 0) {
            close_queues(disk);
            set_state(disk, STATE_REFUSED);
            publish(disk, DISK_REFUSED, reason);
            return;
        }
        disk->queue_count++;
    }
    set_state(disk, STATE_CONNECTED);
    publish(disk, DISK_CONNECTED, "");
}

static void finish_close(struct disk *disk)
{
    uint64_t unflushed_bytes = disk->written_bytes - disk->flushed_bytes;
    char reason[LIMIT_REASON_BYTES] = "";

    ev_timer_stop(disk->home->loop, &disk->close_timer);
    if (unflushed_bytes > 0 && disk->flush_kind != TARGET_FLUSH_NEEDLESS)
        snprintf(reason, sizeof reason, "%llu bytes that the server had not flushed",
                 (unsigned long long)unflushed_bytes);
    close_queues(disk);
    target_close(disk->target);
    disk->target = NULL;
    list_remove(&disk->starved);
    set_state(disk, STATE_CLOSED);
    publish(disk, DISK_CLOSED, reason);
}

static void begin_close(struct disk *disk)
{
    if (!has_rings(disk)) {
        finish_close(disk);
        return;
    }
    /* A last look at rings of a frontend that is still there; after it nothing more is taken. */
    if (disk->state == STATE_CONNECTED)
        disk_take(disk);
    set_state(disk, STATE_DRAINING);
    ev_timer_set(&disk->close_timer, (LIMIT_CLOSE_MS - LIMIT_CLOSE_MARGIN_MS) / 1000., 0.);
    ev_timer_start(disk->home->loop, &disk->close_timer);
}

/* The server did not answer in time: drop it. What it holds comes back as -ENOTCONN. */
static void on_close_timeout(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    struct disk *disk = timer->data;

    (void)loop;
    (void)events;
    log_warning(disk->name, "the server did not finish in time while the disk was closed: "
                            "its connection is dropped, unanswered requests get ERROR");
    lose_server(disk, "the server did not finish in time");
    disk->close_flush_done = true;
    target_close(disk->target);
    disk->target = NULL;
}

static bool start_close_flush(struct disk *disk)
{
    if (disk->server_gone || disk->written_bytes == disk->flushed_bytes ||
        disk->flush_kind != TARGET_FLUSH_COMMAND)
        return false;
    disk->close_flush_covers_bytes = disk->written_bytes;
    return target_flush(disk->target, &disk->close_flush) == 0;
}

static void step_draining(struct disk *disk)
{
    if (disk->given_up)
        fail_waiting(disk, true);
    if (!list_empty(&disk->requests))
        return;
    if (start_close_flush(disk))
        set_state(disk, STATE_FLUSHING);
    else
        finish_close(disk);
}

static void step_lost(struct disk *disk)
{
    set_state(disk, STATE_LOST);
    publish(disk, DISK_LOST, disk->lost_reason);
}

/* Each state's own events; the vbd's orders come after. */
static void step_events(struct disk *disk)
{
    switch (disk->state) {
    case STATE_OPENING:
        if (disk->target_ready) {
            set_state(disk, STATE_READY);
            publish(disk, DISK_READY, "");
        }
        if (disk->given_up)
            step_lost(disk);
        break;
    case STATE_READY:
    case STATE_CONNECTED:
        if (disk->given_up)
            step_lost(disk);
        break;
    case STATE_FAILING: fail_waiting(disk, false); break;
    case STATE_DRAINING: step_draining(disk); break;
    case STATE_FLUSHING:
        if (disk->close_flush_done || disk->server_gone)
            finish_close(disk);
        break;
    default: break;
    }
}

static void step_order(struct disk *disk, const struct disk_order *order)
{
    bool closing = disk->state == STATE_DRAINING || disk->state == STATE_FLUSHING;

    if (disk->state == STATE_CLOSED) {
        if (order->life == disk->life)
            return;
        if (order->want < DISK_WANT_CLOSE) {
            open_life(disk, order->life);
        } else { /* a life that ended before we saw it begin */
            disk->life = order->life;
            publish(disk, DISK_CLOSED, "");
        }
        return;
    }
    if (order->life != disk->life && !closing) { /* a vbd that skipped CLOSE: close first */
        begin_close(disk);
        return;
    }
    if (order->want == DISK_WANT_CONNECT && disk->state == STATE_READY)
        connect_rings(disk, order);
    else if (order->want == DISK_WANT_FAIL && disk->state == STATE_LOST && disk->queue_count > 0)
        set_state(disk, STATE_FAILING);
    else if (order->want >= DISK_WANT_CLOSE && !closing)
        begin_close(disk);
}

static void disk_destroy(struct disk *disk)
{
    struct disklink *link = disk->link;
    struct disk_report report = {.phase = DISK_ENDED};
    struct disk_order order;

    disklink_current_order(link, &order);
    report.life = order.life;
    disklink_detach(link);
    list_remove(&disk->active);
    list_remove(&disk->place);
    list_remove(&disk->starved);
    free(disk);
    disklink_publish(link, &report); /* the last use of it: the vbd may destroy it from now on */
}

bool disk_advance(struct disk *disk)
{
    struct disk_order order;
    enum disk_state before;

    do {
        before = disk->state;
        disklink_current_order(disk->link, &order);
        step_order(disk, &order);
        step_events(disk);
    } while (disk->state != before);
    if (disk->state == STATE_CLOSED && order.want == DISK_WANT_END) {
        disk_destroy(disk);
        return false;
    }
    return true;
}

static void on_order(void *arg)
{
    activate(arg);
}

int disk_create(struct disklink *link, struct disk **ret_disk)
{
    struct disk *disk = calloc(1, sizeof *disk);

    if (!disk)
        return -ENOMEM;
    disk->link = link;
    disk->spec = disklink_spec(link);
    disk->name = disk->spec->name;
    list_init(&disk->requests);
    list_init(&disk->copying_out);
    list_init(&disk->replied);
    ev_init(&disk->close_timer, on_close_timeout);
    disk->close_timer.data = disk;
    *ret_disk = disk;
    return 0;
}

void disk_move_in(struct disk *disk, struct disk_home *home)
{
    disk->home = home;
    disklink_attach(disk->link, home->mailbox, on_order, disk);
    activate(disk);
}

struct disk *disk_next_active(struct disk_home *home)
{
    struct list *node = list_pop(&home->active);

    return node ? container_of(node, struct disk, active) : NULL;
}

struct list *disk_place(struct disk *disk)
{
    return &disk->place;
}

struct disk *disk_of_place(struct list *node)
{
    return container_of(node, struct disk, place);
}

/* -- the steps of a turn -- */

static uint32_t segments_bytes(const struct blkif_req *req)
{
    uint32_t bytes = 0;

    for (unsigned i = 0; i < req->segment_count; i++)
        bytes += blkif_seg_bytes(&req->seg[i]);
    return bytes;
}

static void on_taken(void *arg, struct request *request)
{
    struct disk *disk = arg;
    const struct blkif_req *req = &request->blkif;

    list_append(&disk->requests, &request->age);
    request->status = blkif_req_check(&request->blkif, &disk->limits);
    if (request->status != BLKIF_OKAY) {
        log_limited(&disk->log_guest, LOG_LEVEL_INFO, disk->name,
                    "the guest sent a request that cannot be done (operation %u, %u segments, "
                    "sector %llu): answered %s",
                    req->op, req->segment_count, (unsigned long long)req->sector,
                    request->status == BLKIF_ERROR ? "ERROR" : "EOPNOTSUPP");
        replied(disk, request, -EINVAL);
        return;
    }
    request->state = REQUEST_PENDING;
    request->range = (struct plan_range){.writes = req->op == BLKIF_WRITE};
    if (req->op != BLKIF_FLUSH) {
        request->range.sector = req->sector;
        request->range.sector_count = req->sector_count;
        request->length_bytes = segments_bytes(req);
    }
}

void disk_take(struct disk *disk)
{
    if (disk->state != STATE_CONNECTED && disk->state != STATE_FAILING)
        return;
    for (uint32_t i = 0; i < disk->queue_count; i++) {
        if (queue_must_take(disk->queues[i]) &&
            queue_take(disk->queues[i], on_taken, disk) == -EPROTO)
            give_up(disk, "the guest has broken its ring (requests more than a ring ahead)");
    }
    if (disk->state == STATE_FAILING)
        fail_waiting(disk, false);
}

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

/*
 * A buffer in which the first segment lies as in its frame: whole aligned pages then need one copy
 * operation each.
 *
 * No disk may have more than what is left, so that n disks whose servers hang leave 1/(n + 1) of
 * the slab to the others, and who has nothing yet is served before who has much (law 4).
 */
static bool give_buffer(struct disk *disk, struct request *request)
{
    struct slab *slab = disk->home->slab;
    uint32_t offset = request->blkif.seg[0].first_sect * (uint32_t)LIMIT_SECTOR_BYTES;
    size_t left_bytes = slab_left_bytes(slab);

    if (disk->buffer_bytes <= left_bytes)
        request->buffer = slab_alloc(slab, offset + request->length_bytes);
    if (!request->buffer) {
        if (!list_linked(&disk->starved))
            list_append(&disk->home->starved, &disk->starved);
        return false;
    }
    disk->buffer_bytes += left_bytes - slab_left_bytes(slab);
    request->data = (uint8_t *)request->buffer + offset;
    return true;
}

static void take_buffer_back(struct disk *disk, struct request *request)
{
    struct slab *slab = disk->home->slab;
    size_t left_bytes = slab_left_bytes(slab);

    slab_free(slab, request->buffer);
    request->buffer = NULL;
    disk->buffer_bytes -= slab_left_bytes(slab) - left_bytes;
}

static void collect_copies(struct disk *disk, struct request *request,
                           enum grants_direction direction)
{
    uint8_t *data = request->data;

    for (unsigned i = 0; i < request->blkif.segment_count; i++) {
        const struct blkif_seg *seg = &request->blkif.seg[i];
        uint32_t bytes = blkif_seg_bytes(seg);

        grants_copy(disk->home->grants, direction, disk->spec->domid, seg->gref,
                    seg->first_sect * (uint32_t)LIMIT_SECTOR_BYTES, data, bytes, &request->error);
        data += bytes;
    }
}

/* After an attempt to send. -ENOTCONN: the loss will be told; the request waits for what follows.
 */
static void sent(struct disk *disk, struct request *request, int err)
{
    request->state = REQUEST_SENT;
    if (err == -ENOTCONN)
        hold(request);
    else if (err < 0)
        replied(disk, request, err);
}

static void start_flush(struct disk *disk, struct request *request)
{
    char reason[LIMIT_REASON_BYTES];
    int err;

    if (disk->flush_kind == TARGET_FLUSH_NEEDLESS) {
        replied(disk, request, 0);
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
        lose_server(disk, reason);
    }
}

/* False: nothing more can start in this turn. */
static bool start_one(struct disk *disk, struct request *request)
{
    if (request->blkif.op == BLKIF_FLUSH) {
        start_flush(disk, request);
        return true;
    }
    if (!give_buffer(disk, request))
        return false;
    if (request->range.writes) {
        request->state = REQUEST_COPYING_OUT;
        list_append(&disk->copying_out, &request->work);
        disk->copying_out_count++;
        collect_copies(disk, request, GRANTS_FROM_GUEST);
    } else {
        sent(disk, request,
             target_read(disk->target, &request->cmd, request->data, request->length_bytes,
                         request->range.sector * LIMIT_SECTOR_BYTES));
    }
    return true;
}

void disk_start(struct disk *disk)
{
    unsigned looked_at = 0;

    if (disk->state != STATE_CONNECTED && disk->state != STATE_DRAINING)
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
            sent(disk, request,
                 target_write(disk->target, &request->cmd, request->data, request->length_bytes,
                              request->range.sector * LIMIT_SECTOR_BYTES));
    }
    disk->copying_out_count = 0;
    if (disk->target)
        target_deliver(disk->target);
}

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

void disk_answer(struct disk *disk)
{
    struct list *node;
    bool freed = false;

    while ((node = list_pop(&disk->replied))) {
        struct request *request = container_of(node, struct request, work);
        enum blkif_status status = final_status(disk, request);

        if (request->buffer) {
            take_buffer_back(disk, request);
            freed = true;
        }
        list_remove(&request->age);
        queue_answer(request->queue, request, status);
        activate(disk); /* what waited for it may start; a drain may be over */
    }
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_push(disk->queues[i]);
    while (freed && (node = list_pop(&disk->home->starved)))
        activate(container_of(node, struct disk, starved));
}
