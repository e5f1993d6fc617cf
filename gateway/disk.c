/*
 * disk: a guest disk's life: opening, connecting, growing, losing its server, closing. What it does
 * with requests is in disk_turn.c.
 */
#include "gateway/disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gateway/disk_private.h"
#include "gateway/queue.h"

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

/* -- small things -- */

void disk_activate(struct disk *disk)
{
    if (!list_linked(&disk->active))
        list_append(&disk->home->active, &disk->active);
}

static void set_state(struct disk *disk, enum disk_state state)
{
    assert(state_successors[disk->state] & (1u << state));
    log_debug(disk->name, "data: %s -> %s", state_names[disk->state], state_names[state]);
    disk->state = state;
    disk_activate(disk);
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
void disk_give_up(struct disk *disk, const char *reason)
{
    disk_activate(
        disk); /* the second time too: what the server held comes back now, to be answered */
    if (disk->given_up)
        return;
    disk->given_up = true;
    snprintf(disk->lost_reason, sizeof disk->lost_reason, "%s", reason);
}

/* By its server: the connection went, or nothing durable can be had of it any more. */
void disk_lose_server(struct disk *disk, const char *reason)
{
    disk->server_gone = true;
    disk_give_up(disk, reason);
}

/* -- what the target says -- */

static void on_target_ready(void *arg, const struct disk_properties *properties)
{
    struct disk *disk = arg;

    disk->properties = *properties;
    disk->flush_kind = target_flush_kind(disk->target);
    disk->target_ready = true;
    disk_activate(disk);
}

static void on_target_lost(void *arg, const char *reason)
{
    disk_lose_server(arg, reason);
}

static void on_target_completed(void *arg, struct nbdcmd *cmd)
{
    struct disk *disk = arg;
    struct request *request;

    if (cmd == &disk->own_flush) {
        if (cmd->error == 0 && disk->own_flush_covers_bytes > disk->flushed_bytes)
            disk->flushed_bytes = disk->own_flush_covers_bytes;
        else if (cmd->error != 0 && cmd->error != -ENOTCONN)
            disk_lose_server(disk, "the server failed a flush");
        disk->own_flush_sent = false;
        disk_activate(disk);
        return;
    }
    request = container_of(cmd, struct request, cmd);
    disk_request_completed(disk, request, cmd->error);
}

/* Only the size may differ, and only upwards: the guest was told the rest and will not ask again.
 * (How it flushes is the target's to judge.) */
static const char *judge_growth(const struct disk_properties *now,
                                const struct disk_properties *found)
{
    if (found->capacity_sectors < now->capacity_sectors)
        return "the export has become smaller: the disk stays as it is";
    if (found->readonly != now->readonly || found->discard != now->discard)
        return "the export offers other features than before: the disk stays as it is";
    return NULL;
}

static void on_target_probed(void *arg, const struct disk_properties *properties,
                             const char *reason)
{
    struct disk *disk = arg;

    if (properties)
        reason = judge_growth(&disk->properties, properties);
    if (reason)
        log_warning(disk->name, "not resized: %s", reason);
    if (properties && !reason && properties->capacity_sectors > disk->properties.capacity_sectors)
        disk->growing = true; /* see step_growing */
    else
        target_probe_drop(disk->target);
    disk_activate(disk);
}

static const struct target_handler target_handler = {on_target_ready, on_target_lost,
                                                     on_target_completed, on_target_probed};

/* -- life: opening, connecting, closing -- */

static void open_life(struct disk *disk, uint32_t life)
{
    int err;

    disk->life = life;
    disk->target_ready = disk->given_up = disk->server_gone = false;
    disk->written_bytes = disk->flushed_bytes = 0;
    disk->own_flush_sent = disk->growing = false;
    memset(&disk->properties, 0, sizeof disk->properties);
    set_state(disk, STATE_OPENING);
    publish(disk, DISK_OPENING, "");
    err = target_open(disk->home->loop, disk->home->mailbox, disk->spec, &target_handler, disk,
                      &disk->target);
    if (err < 0)
        disk_lose_server(disk, strerror(-err));
}

static void on_signalled(void *arg)
{
    disk_activate(arg);
}

/* Invariant 6. A page never used costs no memory. */
static bool make_reserve(struct disk *disk)
{
    void *memory = mmap(NULL, LIMIT_RESERVE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return false;
    disk->reserve = memory;
    return true;
}

static void close_queues(struct disk *disk)
{
    for (uint32_t i = 0; i < disk->queue_count; i++)
        queue_close(disk->queues[i]);
    disk->queue_count = 0;
    if (disk->reserve)
        munmap(disk->reserve, LIMIT_RESERVE_BYTES);
    disk->reserve = NULL;
}

static void refuse_rings(struct disk *disk, const char *reason)
{
    close_queues(disk);
    set_state(disk, STATE_REFUSED);
    publish(disk, DISK_REFUSED, reason);
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
        .can_discard = disk->properties.discard && order->discard,
        .indirect_segments = order->indirect_segments,
    };
    if (!make_reserve(disk)) {
        refuse_rings(disk, "out of memory");
        return;
    }
    for (uint32_t i = 0; i < order->queue_count && i < LIMIT_QUEUES; i++) {
        if (queue_open(&place, &order->queue[i], &disk->queues[i], reason, sizeof reason) < 0) {
            refuse_rings(disk, reason);
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
    /* With the connection it has: a larger export found from now on would only stop the drain. */
    disk->growing = false;
    if (disk->target)
        target_probe_drop(disk->target);
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
    disk_lose_server(disk, "the server did not finish in time");
    target_close(disk->target);
    disk->target = NULL;
}

static bool needs_own_flush(const struct disk *disk)
{
    return disk->written_bytes != disk->flushed_bytes && disk->flush_kind == TARGET_FLUSH_COMMAND;
}

static bool start_own_flush(struct disk *disk)
{
    disk->own_flush_covers_bytes = disk->written_bytes;
    disk->own_flush_sent = target_flush(disk->target, &disk->own_flush) == 0;
    return disk->own_flush_sent;
}

static void step_draining(struct disk *disk)
{
    if (disk->given_up)
        disk_fail_waiting(disk, true);
    if (!list_empty(&disk->requests) || disk->own_flush_sent)
        return;
    if (!disk->server_gone && needs_own_flush(disk) && start_own_flush(disk))
        set_state(disk, STATE_FLUSHING);
    else
        finish_close(disk);
}

/* Moves to the larger export's connection: when nothing is at the server and all is flushed, since
 * a flush need not cover what another connection wrote. */
static void step_growing(struct disk *disk)
{
    if (!disk_is_quiet(disk) || disk->own_flush_sent)
        return;
    if (needs_own_flush(disk)) {
        if (!start_own_flush(disk))
            disk_lose_server(disk, "the connection went when it was to be flushed");
        return;
    }
    disk->growing = false;
    target_switch(disk->target);
    disk->properties.capacity_sectors = target_properties(disk->target)->capacity_sectors;
    disk->limits.capacity_sectors = disk->properties.capacity_sectors;
    log_info(disk->name, "has grown to %llu sectors",
             (unsigned long long)disk->properties.capacity_sectors);
    publish(disk, disk->state == STATE_READY ? DISK_READY : DISK_CONNECTED, "");
    disk_activate(disk);
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
        if (disk->growing && !disk->given_up)
            step_growing(disk);
        if (disk->given_up)
            step_lost(disk);
        break;
    case STATE_FAILING: disk_fail_waiting(disk, false); break;
    case STATE_DRAINING: step_draining(disk); break;
    case STATE_FLUSHING:
        if (!disk->own_flush_sent)
            finish_close(disk);
        break;
    default: break;
    }
}

/* One at a time: an order that comes meanwhile may know of a size that the one before has missed,
 * so it is acted on when that one is done with. */
static void start_probe(struct disk *disk, uint32_t probe)
{
    int err = disk->growing ? -EALREADY : target_probe(disk->target);

    if (err == -EALREADY)
        return;
    disk->probe = probe;
    if (err < 0)
        log_warning(disk->name, "not resized: %s", strerror(-err));
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
    else if (order->probe != disk->probe &&
             (disk->state == STATE_READY || disk->state == STATE_CONNECTED))
        start_probe(disk, order->probe);
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
    disk_activate(arg);
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
    list_init(&disk->unread);
    list_init(&disk->reading);
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
    disk_activate(disk);
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
