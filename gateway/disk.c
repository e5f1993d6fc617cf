/*
 * disk: a guest disk's life: opening, connecting, closing, giving up. Its rings are in
 * disk_rings.c, its sessions with the server in disk_session.c, what it does with requests in
 * disk_turn.c and disk_command.c.
 */
#include "gateway/disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/disk_private.h"
#include "gateway/faults.h"
#include "gateway/keepdir.h"
#include "gateway/pages.h"

static const char *const state_names[] = {
#define X(name) #name,
    DISK_STATES(X)
#undef X
};

#define TO(name) (1u << STATE_##name)
static const unsigned state_successors[STATE_COUNT] = {
    [STATE_CLOSED] = TO(OPENING),
    [STATE_OPENING] = TO(READY) | TO(REFUSED) | TO(LOST) | TO(DRAINING) | TO(CLOSED),
    [STATE_READY] = TO(CONNECTED) | TO(REFUSED) | TO(LOST) | TO(DRAINING) | TO(CLOSED),
    [STATE_REFUSED] = TO(CLOSED),
    [STATE_CONNECTED] = TO(LOST) | TO(DRAINING) | TO(SUSPENDING),
    [STATE_LOST] = TO(FAILING) | TO(DRAINING) | TO(SUSPENDING),
    [STATE_FAILING] = TO(DRAINING) | TO(SUSPENDING),
    [STATE_DRAINING] = TO(FLUSHING) | TO(CLOSED),
    [STATE_FLUSHING] = TO(CLOSED),
    [STATE_SUSPENDING] = TO(CLOSED),
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
        .life = disk->life, .phase = phase, .stale = disk->stale, .properties = disk->properties};

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
    case STATE_FLUSHING:
    case STATE_SUSPENDING: return true;
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

static void on_hold_timeout(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    struct disk *disk = timer->data;
    char reason[LIMIT_REASON_BYTES];

    (void)loop;
    (void)events;
    snprintf(reason, sizeof reason, "no server for %u s (on-loss): %.140s",
             disk->spec->config->hold_ms / 1000, disk->away_reason);
    disk_give_up(disk, reason);
}

/* Its rings are not ours any more, and it does not say so: the vbd begins a new life. */
void disk_is_stale(struct disk *disk)
{
    if (disk->stale)
        return;
    disk->stale = true;
    log_limited(&disk->log_guest, LOG_LEVEL_INFO, disk->name, "the guest has made its rings anew");
    if (disk->state == STATE_CONNECTED)
        publish(disk, DISK_CONNECTED, "");
    disk_activate(disk);
}

/* -- life: opening -- */

enum { FLAG_READONLY = 1, FLAG_DISCARD = 2, FLAG_FLUSH_SHIFT = 4 };

static struct journal_identity identity_of(const struct disk *disk, const struct disk_order *order)
{
    return (struct journal_identity){
        .device_nonce = order->device_nonce,
        .export_id = config_disk_identity(disk->spec->config),
        .export_bytes = disk->properties.capacity_sectors * LIMIT_SECTOR_BYTES,
        .domid = disk->spec->domid,
        .handle = disk->spec->devid,
        .flags = (disk->properties.readonly ? FLAG_READONLY : 0u) |
                 (disk->properties.discard ? FLAG_DISCARD : 0u) |
                 (uint32_t)disk->flush_kind << FLAG_FLUSH_SHIFT,
    };
}

/* What the guest was told, as the file has it. */
static void recall_properties(struct disk *disk)
{
    const struct journal_identity *identity = &keep_journal(disk->keep)->identity;

    disk->properties = (struct disk_properties){
        .capacity_sectors = identity->export_bytes / LIMIT_SECTOR_BYTES,
        .readonly = identity->flags & FLAG_READONLY,
        .discard = identity->flags & FLAG_DISCARD,
        .physical_sector_bytes = LIMIT_SECTOR_BYTES,
        .discard_granularity_bytes = LIMIT_SECTOR_BYTES,
    };
    disk->flush_kind = (enum target_flush)(identity->flags >> FLAG_FLUSH_SHIFT & 3);
    disk->properties.flush = disk->flush_kind == TARGET_FLUSH_COMMAND;
}

static bool is_this_device(const struct disk *disk, const struct disk_order *order)
{
    const struct journal_identity *found = &keep_journal(disk->keep)->identity;

    return found->device_nonce == order->device_nonce && found->domid == disk->spec->domid &&
           found->handle == disk->spec->devid;
}

static bool is_this_export(const struct disk *disk)
{
    return config_disk_reaches(disk->spec->config, keep_journal(disk->keep)->identity.export_id);
}

static void refuse_life(struct disk *disk, const char *reason)
{
    set_state(disk, STATE_REFUSED);
    publish(disk, DISK_REFUSED, reason);
}

static void set_timer(struct disk *disk, uint32_t timeout_ms)
{
    ev_timer_set(&disk->close_timer, timeout_ms / 1000., 0.);
    ev_timer_start(disk->home->loop, &disk->close_timer);
}

static void kept_path(const struct disk *disk, char ret_path[static LIMIT_PATH_BYTES])
{
    keepdir_file(disk->spec->keep_dir, disk->spec->kind, disk->spec->domid, disk->spec->devid,
                 ret_path, LIMIT_PATH_BYTES);
}

static int open_kept_file(struct disk *disk, char *reason)
{
    char path[LIMIT_PATH_BYTES];

    kept_path(disk, path);
    return keep_open(path, disk->spec->config->fence_time_ms, &disk->keep, reason);
}

/* What is kept is of no use any more; what a lost server may still write is not over by that. */
static void drop_file(struct disk *disk)
{
    if (disk->keep)
        disk->haunted_by |= keep_parked(disk->keep);
    keep_remove(disk->keep);
    disk->keep = NULL;
}

/* Of a disk that an earlier life of the daemon served. -errno and a reason: it is not to be
 * touched.
 */
static int resume_life(struct disk *disk, const struct disk_order *order, char *reason)
{
    const bool no_journal = fault_is("no-journal");
    int err = open_kept_file(disk, reason);

    if (err < 0 && err != -ENOENT)
        return err;
    if (err == 0 && (no_journal || !is_this_device(disk, order)))
        drop_file(disk); /* of a device that is no more */
    if (!disk->keep) {
        disk->must_idle = !no_journal;
        return 0;
    }
    if (!is_this_export(disk)) {
        snprintf(reason, LIMIT_REASON_BYTES,
                 "the configuration names another export than the one "
                 "that the guest is connected to");
        return -ESTALE;
    }
    disk->resumed = true;
    recall_properties(disk);
    return 0;
}

/* A frontend that begins anew: of an earlier life only what is not flushed matters. */
static int begin_life(struct disk *disk, const struct disk_order *order, char *reason)
{
    int err = open_kept_file(disk, reason);

    if (err == -EWOULDBLOCK)
        return err;
    if (err < 0 && err != -ENOENT)
        log_warning(disk->name, "%s: it is made anew", reason);
    if (err < 0)
        return 0;
    if (is_this_device(disk, order) && is_this_export(disk)) {
        journal_disconnect(keep_journal(disk->keep));
        keep_adopted(disk->keep);
        return 0;
    }
    if (is_this_device(disk, order) && !keep_is_flushed(disk->keep))
        log_warning(disk->name,
                    "%llu bytes that were not flushed belong to another export than the "
                    "configuration names now: they are dropped",
                    (unsigned long long)keep_unflushed_bytes(disk->keep));
    drop_file(disk);
    return 0;
}

/* Another daemon has the disk: it is looked at again and again, and nothing is touched before it is
 * free. */
static void wait_for_file(struct disk *disk)
{
    if (!disk->file_busy)
        log_error(disk->name, "another blkgated serves it, though it has another lock file: this "
                              "one waits until that one has ended");
    disk->file_busy = true;
    set_timer(disk, LIMIT_BUSY_MS);
}

static void start_life(struct disk *disk, const struct disk_order *order)
{
    char reason[LIMIT_REASON_BYTES];
    struct target_past past;
    int err = order->resume ? resume_life(disk, order, reason) : begin_life(disk, order, reason);

    if (err == -EWOULDBLOCK) {
        wait_for_file(disk);
        return;
    }
    disk->file_busy = false;
    if (err < 0) {
        refuse_life(disk, reason);
        return;
    }
    disk->target_ready = disk->resumed;
    past = (struct target_past){
        .told = disk->resumed,
        .properties = disk->properties,
        .flush = disk->flush_kind,
        .crashed = (disk->keep && keep_parked(disk->keep)) || disk->haunted_by,
    };
    err = target_open(disk->home->loop, disk->home->mailbox, disk->spec, &past,
                      &disk_target_handler, disk, &disk->target);
    if (err < 0)
        disk_give_up(disk, strerror(-err));
    else if (disk->resumed)
        disk_session_hold(disk);
}

static void open_life(struct disk *disk, const struct disk_order *order)
{
    disk->life = order->life;
    disk->target_ready = disk->given_up = disk->file_busy = false;
    disk->resumed = disk->settling = disk->must_idle = disk->stale = false;
    disk_session_reset(disk);
    memset(&disk->properties, 0, sizeof disk->properties);
    set_state(disk, STATE_OPENING);
    publish(disk, DISK_OPENING, "");
    start_life(disk, order);
}

/* Is the export that an earlier life of the device left writes for still what it was? */
static bool is_as_it_was(const struct disk *disk, const struct journal_identity *identity)
{
    const struct journal *journal = keep_journal(disk->keep);

    return journal->identity.flags == identity->flags &&
           journal->identity.export_bytes <= identity->export_bytes;
}

/* Can the file that is there go on in this life? */
static bool has_entries(const struct disk *disk, const struct disk_order *order)
{
    return keep_journal(disk->keep)->layout.geometry.entry_count >= order->entry_count;
}

/* From READY on there is a kept file. -EAGAIN: not before a lost server can do no more.
 * -EINPROGRESS: not before the server has flushed what the one that is there has no room beside. */
static int have_file(struct disk *disk, const struct disk_order *order,
                     char reason[static LIMIT_REASON_BYTES])
{
    const struct journal_identity identity = identity_of(disk, order);
    bool as_it_was = disk->keep && is_as_it_was(disk, &identity);
    char path[LIMIT_PATH_BYTES];

    if (as_it_was && has_entries(disk, order)) {
        journal_grow_export(keep_journal(disk->keep), identity.export_bytes);
        return 0;
    }
    if (as_it_was && !keep_is_flushed(disk->keep))
        return -EINPROGRESS;
    if (disk->keep && !keep_is_flushed(disk->keep)) {
        snprintf(reason, LIMIT_REASON_BYTES,
                 "writes are kept for this export, and it is not what "
                 "it was: smaller, or with other features");
        return -ESTALE;
    }
    drop_file(disk);
    if (disk->haunted_by)
        return -EAGAIN;
    kept_path(disk, path);
    return keep_create(path, order->entry_count, !disk->properties.readonly, &identity, &disk->keep,
                       reason);
}

static void step_opening(struct disk *disk, const struct disk_order *order)
{
    char reason[LIMIT_REASON_BYTES];
    int err;

    if (disk->file_busy && !ev_is_active(&disk->close_timer))
        start_life(disk, order);
    if (!disk->target_ready || disk->state != STATE_OPENING)
        return;
    err = disk->resumed ? 0 : have_file(disk, order, reason);
    disk->settling = err == -EINPROGRESS;
    if (disk->settling)
        disk_settle(disk);
    if (disk->settling || err == -EAGAIN)
        return;
    if (err < 0) {
        refuse_life(disk, reason);
        return;
    }
    set_state(disk, STATE_READY);
    publish(disk, DISK_READY, "");
}

/* -- life: connecting -- */

/* Requests that were not answered are no more, but for the kept file. */
static void forget_requests(struct disk *disk)
{
    while (!list_empty(&disk->requests))
        disk_request_forget(disk, container_of(disk->requests.next, struct request, age));
}

static void connect_rings(struct disk *disk, const struct disk_order *order)
{
    char reason[LIMIT_REASON_BYTES] = "";

    disk->limits = (struct blkif_limits){
        .capacity_sectors = disk->properties.capacity_sectors,
        .readonly = disk->properties.readonly,
        .can_flush = disk->flush_kind != TARGET_FLUSH_NONE,
        .can_discard = disk->properties.discard && order->discard,
        .indirect_segments = order->indirect_segments,
    };
    if (disk_rings_start(disk, order, reason, sizeof reason) < 0) {
        forget_requests(disk);
        disk_rings_close(disk);
        refuse_life(disk, reason);
        return;
    }
    set_state(disk, STATE_CONNECTED);
    publish(disk, DISK_CONNECTED, "");
}

void disk_has_grown(struct disk *disk, uint64_t capacity_sectors)
{
    disk->properties.capacity_sectors = capacity_sectors;
    disk->limits.capacity_sectors = capacity_sectors;
    if (disk->keep)
        journal_grow_export(keep_journal(disk->keep), capacity_sectors * LIMIT_SECTOR_BYTES);
    log_info(disk->name, "has grown to %llu sectors", (unsigned long long)capacity_sectors);
    if (disk->state == STATE_READY || disk->state == STATE_CONNECTED)
        publish(disk, disk->state == STATE_READY ? DISK_READY : DISK_CONNECTED, "");
}

/* -- life: closing -- */

/* The disk is closed, and yet a lost server may go on writing to it for us: it is not opened again,
 * here, before that is over. */
static void leave_haunted(struct disk *disk)
{
    if (!disk->target)
        disk->haunted_by = 0;
    else if (disk->keep)
        disk->haunted_by |= keep_parked(disk->keep);
    if (disk->haunted_by && disk->keep)
        log_warning(disk->name,
                    "closed, but its lost server may still do %u writes: until that is "
                    "out of the question its export is not opened again",
                    keep_ghosts(disk->keep));
}

static void exorcise(struct disk *disk)
{
    disk->haunted_by = 0;
    target_close(disk->target);
    disk->target = NULL;
}

static void end_life(struct disk *disk, bool keep_file, const char *reason)
{
    struct ev_loop *loop = disk->home->loop;

    ev_timer_stop(loop, &disk->close_timer);
    ev_timer_stop(loop, &disk->hold_timer);
    ev_timer_stop(loop, &disk->rest_timer);
    disk_session_quit(disk); /* before the buffers go that it may be sending from */
    if (!keep_file)
        leave_haunted(disk);
    if (!disk->haunted_by)
        exorcise(disk);
    forget_requests(disk);
    disk_rings_close(disk);
    if (keep_file)
        keep_close(disk->keep);
    else
        keep_remove(disk->keep);
    disk->keep = NULL;
    list_remove(&disk->starved);
    list_remove(&disk->unarmed);
    set_state(disk, STATE_CLOSED);
    publish(disk, DISK_CLOSED, reason);
}

/* For good: nothing of it will be written again, for from now on it may be open elsewhere. But a
 * life that never had a server leaves what the one before had kept for the next: the device is the
 * guest's yet. */
static void finish_close(struct disk *disk)
{
    char reason[LIMIT_REASON_BYTES] = "";

    if (disk->keep && !keep_is_flushed(disk->keep) && !disk->target_ready) {
        end_life(disk, true, "");
        return;
    }
    if (disk->keep && !keep_is_flushed(disk->keep))
        snprintf(reason, sizeof reason, "%llu bytes that the server had not flushed",
                 (unsigned long long)keep_unflushed_bytes(disk->keep));
    end_life(disk, false, reason);
}

/* Until the next life of the daemon. */
static void finish_suspend(struct disk *disk)
{
    end_life(disk, true, "");
}

static void begin_suspend(struct disk *disk)
{
    if (!has_rings(disk)) {
        finish_suspend(disk);
        return;
    }
    disk->growing = false;
    if (disk->target)
        target_probe_drop(disk->target);
    set_state(disk, STATE_SUSPENDING);
    set_timer(disk, LIMIT_SUSPEND_MS);
}

/* Waits for what the server has, and for a flush; without a server there is nothing to wait for. */
static void step_suspending(struct disk *disk)
{
    bool served =
        disk->session == SESSION_UP && !disk->given_up && ev_is_active(&disk->close_timer);

    if (served && (!list_empty(&disk->requests) || disk->own_flush_sent))
        return;
    if (served && disk->flush_kind == TARGET_FLUSH_COMMAND && disk_flush_by_itself(disk))
        return;
    finish_suspend(disk);
}

/* Does it know of writes that are the server's yet to have, and of a server that fits? */
static bool has_debts(const struct disk *disk)
{
    bool fits = disk->state == STATE_READY ||
                (disk->state == STATE_OPENING && (disk->resumed || disk->settling));

    return fits && !disk->given_up && !keep_is_flushed(disk->keep);
}

static void begin_close(struct disk *disk)
{
    if (!has_rings(disk) && !has_debts(disk)) {
        finish_close(disk);
        return;
    }
    disk_take_last(disk);
    /* A larger export found from now on would only stop the drain. */
    disk->growing = false;
    if (disk->target)
        target_probe_drop(disk->target);
    set_state(disk, STATE_DRAINING);
    set_timer(disk, LIMIT_CLOSE_MS - LIMIT_CLOSE_MARGIN_MS);
}

/* The server did not answer in time: it is dropped. What it holds comes back as -ENOTCONN. */
static void on_close_timeout(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    struct disk *disk = timer->data;

    (void)loop;
    (void)events;
    disk_activate(disk);
    if (disk->state == STATE_SUSPENDING || disk->state == STATE_OPENING)
        return;
    log_warning(disk->name, "the server did not finish in time while the disk was closed: "
                            "its connection is dropped, unanswered requests get ERROR");
    disk_give_up(disk, "the server did not finish in time");
    disk_session_quit(disk);
}

static void step_draining(struct disk *disk)
{
    if (disk->given_up || disk->stale)
        disk_fail_waiting(disk, true);
    if (!list_empty(&disk->requests) || disk->own_flush_sent)
        return;
    /* Given up because of its guest, it may have a server yet. */
    if ((disk->given_up && disk->session != SESSION_UP) || !disk->keep ||
        keep_is_flushed(disk->keep)) {
        finish_close(disk);
    } else if (disk_flush_by_itself(disk)) {
        set_state(disk, STATE_FLUSHING);
    } /* else: without a server, until there is one, or the timer */
}

/* A loss takes the flush with it. */
static void step_flushing(struct disk *disk)
{
    if (disk->own_flush_sent ||
        (!disk->given_up && !keep_is_flushed(disk->keep) && !disk_flush_by_itself(disk)))
        return;
    if (!disk->own_flush_sent)
        finish_close(disk);
}

static void step_lost(struct disk *disk)
{
    set_state(disk, STATE_LOST);
    publish(disk, DISK_LOST, disk->lost_reason);
}

/* Each state's own events; the vbd's orders come after. */
static void step_events(struct disk *disk, const struct disk_order *order)
{
    disk_session_step(disk);
    switch (disk->state) {
    case STATE_OPENING:
        if (disk->given_up)
            step_lost(disk);
        else
            step_opening(disk, order);
        break;
    case STATE_READY:
    case STATE_CONNECTED:
        if (disk->given_up)
            step_lost(disk);
        break;
    case STATE_FAILING: disk_fail_waiting(disk, false); break;
    case STATE_DRAINING: step_draining(disk); break;
    case STATE_FLUSHING: step_flushing(disk); break;
    case STATE_SUSPENDING: step_suspending(disk); break;
    default: break;
    }
}

/* One at a time: an order that comes meanwhile may know of a size that the one before has missed,
 * so it is acted on when that one is done with; likewise when there is a session again, whose
 * handshake may have been before the order. */
static void start_probe(struct disk *disk, uint32_t probe)
{
    int err;

    if (disk->session != SESSION_UP || disk->growing)
        return;
    err = target_probe(disk->target);
    if (err == -EALREADY)
        return;
    disk->probe = probe;
    if (err < 0)
        log_warning(disk->name, "not resized: %s", target_why_not(err));
}

static void step_order(struct disk *disk, const struct disk_order *order)
{
    bool closing = disk->state == STATE_DRAINING || disk->state == STATE_FLUSHING ||
                   disk->state == STATE_SUSPENDING;

    if (disk->state == STATE_CLOSED) {
        if (order->life == disk->life || disk->haunted_by)
            return;
        exorcise(disk);
        if (order->want < DISK_WANT_SUSPEND || (order->want == DISK_WANT_CLOSE && order->resume)) {
            open_life(disk, order);
        } else { /* a life that ended before we saw it begin, and that had nothing */
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
    else if (order->want == DISK_WANT_SUSPEND && !closing)
        begin_suspend(disk);
    else if (order->want >= DISK_WANT_CLOSE && !closing)
        begin_close(disk);
    else if (order->probe != disk->probe &&
             (disk->state == STATE_READY || disk->state == STATE_CONNECTED))
        start_probe(disk, order->probe);
}

/* With its commands behind it, so that the first of them lie in its own page. */
static size_t disk_bytes(uint32_t commands)
{
    return sizeof(struct disk) + commands * sizeof(struct command);
}

static void disk_destroy(struct disk *disk)
{
    struct disklink *link = disk->link;
    struct disk_report report = {.phase = DISK_ENDED};
    struct disk_order order;

    disklink_current_order(link, &order);
    report.life = order.life;
    disklink_detach(link);
    exorcise(disk);
    list_remove(&disk->active);
    list_remove(&disk->place);
    list_remove(&disk->starved);
    list_remove(&disk->unarmed);
    pages_unmap(disk, disk_bytes(disk->command_count));
    disklink_publish(link, &report); /* the last use of it: the vbd may destroy it from now on */
}

/* Is there nothing to do but to serve? Looking at the order is for when there is a new one. */
static bool serves_on(struct disk *disk)
{
    if (disk->state != STATE_CONNECTED || disk->order_waits)
        return false;
    disk_session_step(disk);
    return !disk->given_up;
}

bool disk_advance(struct disk *disk)
{
    struct disk_order order;
    enum disk_state before;

    if (serves_on(disk))
        return true;
    do {
        before = disk->state;
        disklink_current_order(disk->link, &order);
        step_order(disk, &order);
        step_events(disk, &order);
    } while (disk->state != before);
    disk->order_waits = order.probe != disk->probe; /* for the probe before it */
    if (disk->state == STATE_CLOSED && order.want == DISK_WANT_END &&
        (!disk->haunted_by || order.at_once)) {
        disk_destroy(disk);
        return false;
    }
    return true;
}

static void on_order(void *arg)
{
    struct disk *disk = arg;

    disk->order_waits = true;
    disk_activate(disk);
}

int disk_create(struct disklink *link, struct disk **ret_disk)
{
    uint32_t commands = 2 * disklink_spec(link)->config->connections * LIMIT_COMMANDS_IN_FLIGHT;
    struct disk *disk = pages_map(disk_bytes(commands));

    if (!disk)
        return -ENOMEM;
    disk->command_count = commands;
    disk->link = link;
    disk->spec = disklink_spec(link);
    disk->name = disk->spec->name;
    list_init(&disk->requests);
    disk->unplanned = &disk->requests;
    list_init(&disk->unread);
    list_init(&disk->reading);
    list_init(&disk->flushes);
    list_init(&disk->again);
    list_init(&disk->ready);
    list_init(&disk->waiting);
    list_init(&disk->unkept);
    list_init(&disk->pressed);
    list_init(&disk->haunted);
    list_init(&disk->resting);
    list_init(&disk->replied);
    list_init(&disk->collected);
    ev_init(&disk->close_timer, on_close_timeout);
    ev_init(&disk->hold_timer, on_hold_timeout);
    ev_init(&disk->rest_timer, disk_on_rested);
    disk->close_timer.data = disk->hold_timer.data = disk->rest_timer.data = disk;
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

struct disk *disk_next_unarmed(struct disk_home *home)
{
    struct list *node = list_pop(&home->unarmed);

    return node ? container_of(node, struct disk, unarmed) : NULL;
}

struct list *disk_place(struct disk *disk)
{
    return &disk->place;
}

struct disk *disk_of_place(struct list *node)
{
    return container_of(node, struct disk, place);
}
