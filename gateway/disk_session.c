/*
 * disk_session: a disk and its sessions with the server. What was answered and not flushed is
 * written again at the begin of each (law 5); what was sent and not answered is sent again, by the
 * turn, as if for the first time; and until a lost session can do nothing any more, what it was
 * told stays in the way of who would write something else there (law 9).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/disk_private.h"

bool disk_may_send(const struct disk *disk)
{
    return disk->session == SESSION_UP && !disk->given_up && !disk->growing;
}

static unsigned long long unflushed_kib(const struct disk *disk)
{
    return disk->keep ? keep_unflushed_bytes(disk->keep) >> 10 : 0;
}

/* -- what the target says -- */

static void on_ready(void *arg, const struct disk_properties *properties)
{
    struct disk *disk = arg;

    disk_activate(disk);
    if (!disk->target_ready) { /* the first of a new disk: see OPENING */
        disk->properties = *properties;
        disk->flush_kind = target_flush_kind(disk->target);
        disk->target_ready = true;
    } else if (disk->lost_at > 0.) {
        log_limited(&disk->log_session, LOG_LEVEL_INFO, disk->name,
                    "has a server again after %.1f s; %llu KiB are written to it again",
                    ev_now(disk->home->loop) - disk->lost_at, unflushed_kib(disk));
    }
    if (properties->capacity_sectors > disk->properties.capacity_sectors)
        disk_has_grown(disk, properties->capacity_sectors);
    disk->session = SESSION_REPLAYING;
    disk->replay_kept = NULL;
    if (disk->keep)
        keep_replay_begin(disk->keep);
    disk->growing = false;
}

void disk_session_hold(struct disk *disk)
{
    uint32_t hold_ms = disk->spec->config->hold_ms;

    disk->session = SESSION_DOWN;
    if (disk->lost_at == 0.)
        disk->lost_at = ev_now(disk->home->loop);
    if (hold_ms == 0 || ev_is_active(&disk->hold_timer))
        return;
    ev_timer_set(&disk->hold_timer, hold_ms / 1000., 0.);
    ev_timer_start(disk->home->loop, &disk->hold_timer);
}

static void on_lost(void *arg, const char *reason, uint32_t parked)
{
    struct disk *disk = arg;

    if (disk->keep)
        keep_lost(disk->keep, parked);
    disk_session_hold(disk);
    disk->growing = false;
    snprintf(disk->away_reason, sizeof disk->away_reason, "%s", reason);
    log_limited(
        &disk->log_session, LOG_LEVEL_WARNING, disk->name,
        "lost its server (%s): its guest waits until there is one again; %llu KiB that were "
        "not flushed are kept",
        reason, unflushed_kib(disk));
    disk_activate(disk);
}

static void on_fenced(void *arg, uint32_t parked)
{
    struct disk *disk = arg;

    if (disk->keep)
        keep_fenced(disk->keep, parked);
    disk->haunted_by &= ~parked;
    disk_unhaunt(disk);
    disk_activate(disk);
}

static void on_failed(void *arg, const char *reason)
{
    disk_give_up(arg, reason);
}

/* A server may be away for days: every path once, then ever more rarely. */
static bool is_news(uint32_t refusals, unsigned paths)
{
    return refusals < paths || (refusals & (refusals - 1)) == 0;
}

static void on_refused(void *arg, const char *reason)
{
    struct disk *disk = arg;

    if (disk->away_reason[0] == '\0') /* else it is known how that began */
        snprintf(disk->away_reason, sizeof disk->away_reason, "%s", reason);
    if (is_news(disk->refusals++, disk->spec->config->export_count))
        log_limited(&disk->log_session, LOG_LEVEL_WARNING, disk->name, "has no server yet: %s",
                    reason);
}

/* There is a server, and it can flush as far as is known. */
static void end_hold(struct disk *disk)
{
    if (disk->session != SESSION_UP || disk->flush_failures > 0)
        return;
    ev_timer_stop(disk->home->loop, &disk->hold_timer);
    disk->lost_at = 0.;
    disk->away_reason[0] = '\0';
    disk->refusals = 0;
}

/* -- replay -- */

static struct replay_cmd *free_replay(struct disk *disk)
{
    if (!disk->replay) /* most disks never need one */
        disk->replay = calloc(LIMIT_COMMANDS_IN_FLIGHT, sizeof *disk->replay);
    if (!disk->replay)
        target_give_up_session(disk->target, "out of memory");
    if (!disk->replay)
        return NULL;
    for (unsigned i = 0; i < LIMIT_COMMANDS_IN_FLIGHT; i++) {
        if (!disk->replay[i].kept)
            return &disk->replay[i];
    }
    return NULL;
}

/* Not UP by what is out coming back, before the loss is told: it never had all of it. */
static void give_up_replay(struct disk *disk, const char *reason)
{
    disk->session = SESSION_DOWN;
    target_give_up_session(disk->target, reason);
}

static void advance(struct journal_part *part, uint32_t bytes)
{
    part->offset_bytes += bytes;
    part->data_at_bytes += bytes;
    part->length_bytes -= bytes;
}

/* Sends the next chunk of it. False: the session is given up. */
static bool send_chunk(struct disk *disk, struct replay_cmd *replay)
{
    const struct journal_part *part = &replay->part;
    uint32_t bytes = replay->chunk_max_bytes;
    int err;

    if (bytes > part->length_bytes)
        bytes = part->length_bytes;
    replay->chunk_bytes = bytes;
    kept_sent(disk->keep, replay->kept);
    disk->replay_out++;
    if (replay->kept->kind == JOURNAL_TRIM)
        err = target_trim(disk->target, &replay->cmd, bytes, part->offset_bytes);
    else
        err = target_write(disk->target, &replay->cmd,
                           journal_data(keep_journal(disk->keep), part->data_at_bytes), bytes,
                           part->offset_bytes);
    if (err == 0)
        return true;
    disk->replay_out--;
    kept_returned(disk->keep, replay->kept);
    replay->kept = NULL;
    give_up_replay(disk, strerror(-err));
    return false;
}

/* Sends the next piece of the part at hand. False: not now. */
static bool send_piece(struct disk *disk)
{
    struct kept *kept = disk->replay_kept;
    uint32_t max_bytes = target_command_max_bytes(disk->target, kept->kind == JOURNAL_TRIM);
    struct replay_cmd *replay = free_replay(disk);

    if (!replay || !target_has_room(disk->target, 0))
        return false;
    replay->kept = kept;
    replay->part = disk->replay_part;
    if (replay->part.length_bytes > max_bytes)
        replay->part.length_bytes = max_bytes;
    replay->chunk_max_bytes = max_bytes;
    advance(&disk->replay_part, replay->part.length_bytes);
    return send_chunk(disk, replay);
}

static void step_replaying(struct disk *disk)
{
    for (;;) {
        if (!disk->replay_kept &&
            (!disk->keep || !keep_replay_next(disk->keep, &disk->replay_kept, &disk->replay_part)))
            break;
        if (!send_piece(disk))
            return;
        if (disk->replay_part.length_bytes == 0)
            disk->replay_kept = NULL;
    }
    if (disk->replay_out > 0)
        return;
    disk->session = SESSION_UP;
    end_hold(disk);
    disk_activate(disk);
}

/* This server, or this connection to it, may take less in one command than the one before. */
static bool goes_on(struct disk *disk, struct replay_cmd *replay, int error)
{
    if (error != 0 && !disk_may_be_too_long(replay->chunk_bytes, error))
        return false;
    if (error != 0)
        replay->chunk_max_bytes = disk_shorter(replay->chunk_bytes);
    else
        advance(&replay->part, replay->chunk_bytes);
    if (replay->part.length_bytes == 0)
        return false;
    send_chunk(disk, replay);
    return true;
}

static void replay_completed(struct disk *disk, struct replay_cmd *replay, int error)
{
    struct kept *kept = replay->kept;
    char reason[LIMIT_REASON_BYTES];

    disk->replay_out--;
    disk_activate(disk);
    if (error != -ENOTCONN) { /* then it is still out: a ghost, when the loss is told */
        kept_returned(disk->keep, kept);
        if (goes_on(disk, replay, error))
            return;
    }
    replay->kept = NULL;
    if (error == 0 || error == -ENOTCONN)
        return;
    snprintf(reason, sizeof reason, "it failed a write that it had done before: %s",
             strerror(-error));
    give_up_replay(disk, reason);
}

/* -- flushes -- */

/* After one that failed, another's success proves nothing: all is written again before it. */
void disk_flush_over(struct disk *disk, uint64_t mark, int error)
{
    char reason[LIMIT_REASON_BYTES];

    if (error == 0) {
        keep_flushed(disk->keep, mark);
        disk->flush_failures = 0;
        end_hold(disk);
    } else if (error != -ENOTCONN) {
        disk->flush_failures++;
        snprintf(reason, sizeof reason, "it failed a flush: %s", strerror(-error));
        target_give_up_session(disk->target, reason);
    }
}

static void own_flush_completed(struct disk *disk, int error)
{
    disk->own_flush_sent = false;
    disk_flush_over(disk, disk->own_flush_mark, error);
    disk_activate(disk);
}

/* Two flushes are never at the server together (see disk_turn.c). */
bool disk_flush_by_itself(struct disk *disk)
{
    if (disk->session != SESSION_UP || disk->flush || disk->own_flush_sent || !disk->keep ||
        keep_is_flushed(disk->keep))
        return false;
    disk->own_flush_mark = keep_flush_mark(disk->keep);
    disk->own_flush_sent = target_flush(disk->target, &disk->own_flush) == 0;
    return disk->own_flush_sent;
}

/* For room; or to know whether the server can flush again, of which it depends how long it counts
 * as one. */
static bool flush_is_due(const struct disk *disk)
{
    return disk->keep && disk->flush_kind == TARGET_FLUSH_COMMAND &&
           (disk->flush_failures > 0 || keep_is_pressed(disk->keep));
}

/* -- completions, steps -- */

static void on_completed(void *arg, struct nbdcmd *cmd)
{
    struct disk *disk = arg;
    const char *at = (const char *)cmd, *first = (const char *)disk->replay;
    size_t replay_bytes = LIMIT_COMMANDS_IN_FLIGHT * sizeof *disk->replay;

    if (cmd == &disk->own_flush)
        own_flush_completed(disk, cmd->error);
    else if (cmd == &disk->flush_cmd)
        disk_flush_completed(disk, cmd->error);
    else if (first && at >= first && at < first + replay_bytes)
        replay_completed(disk, container_of(cmd, struct replay_cmd, cmd), cmd->error);
    else
        disk_command_completed(disk, container_of(cmd, struct command, cmd), cmd->error);
}

static void on_probed(void *arg, const struct disk_properties *properties, const char *reason)
{
    struct disk *disk = arg;

    if (!properties)
        log_warning(disk->name, "not resized: %s", reason);
    else if (properties->capacity_sectors > disk->properties.capacity_sectors)
        disk->growing = disk->session == SESSION_UP; /* else the next session tells anyway */
    disk_activate(disk);
}

const struct target_handler disk_target_handler = {
    .ready = on_ready,
    .lost = on_lost,
    .fenced = on_fenced,
    .failed = on_failed,
    .refused = on_refused,
    .completed = on_completed,
    .probed = on_probed,
};

/* A connection keeps the size it began with: a new session, when nothing is at the server. */
static void step_growing(struct disk *disk)
{
    if (!disk_is_quiet(disk) || disk->flush || disk->own_flush_sent)
        return;
    disk_session_hold(disk);
    target_renew(disk->target);
}

void disk_session_step(struct disk *disk)
{
    if (disk->given_up || !disk->target)
        return;
    if (disk->session == SESSION_REPLAYING && disk->state != STATE_OPENING)
        step_replaying(disk);
    if (disk->session != SESSION_UP)
        return;
    if (disk->growing)
        step_growing(disk);
    else if (flush_is_due(disk))
        disk_flush_by_itself(disk);
}

/* Before it is READY: what is kept is the server's first. */
void disk_settle(struct disk *disk)
{
    if (disk->given_up)
        return;
    if (disk->session == SESSION_REPLAYING)
        step_replaying(disk);
    (void)disk_flush_by_itself(disk);
}

void disk_session_quit(struct disk *disk)
{
    uint32_t parked = disk->target ? target_quit(disk->target) : 0;

    if (disk->keep && parked)
        keep_lost(disk->keep, parked);
    disk_session_reset(disk);
}

void disk_session_reset(struct disk *disk)
{
    disk->session = SESSION_DOWN;
    disk->lost_at = 0.;
    disk->away_reason[0] = '\0';
    disk->refusals = 0;
    disk->own_flush_sent = disk->growing = false;
    disk->flush_failures = 0;
    disk->replay_kept = NULL;
    disk->replay_out = 0;
    free(disk->replay); /* nothing of it is at a server any more */
    disk->replay = NULL;
}
