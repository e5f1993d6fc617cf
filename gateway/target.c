#include "gateway/target.h"

#include <assert.h>
#include <errno.h>
#include <ev.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/pages.h"
#include "gateway/parked.h"
#include "gateway/resolve.h"
#include "gateway/traits.h"
#include "proto/limits.h"

/* A place for one connection: of the session, and of an attempt at the next one. */
struct leg {
    struct target *target;
    struct nbdconn *conn;    /* the session's; the first conn_count places have one */
    struct resolve *resolve; /* the attempt's, while connecting */
    struct nbd_handle *nbd;  /* ... connected */
};

struct target {
    struct ev_loop *loop;
    struct mailbox *mailbox;
    const struct disklink_spec *spec;
    const struct target_handler *handler;
    void *arg;

    /* What the guest was, or is to be, told; `told` once there is something. */
    struct traits traits;
    bool told;

    bool up;         /* there is a session */
    bool given_up;   /* it is to be lost at the next deliver */
    bool connecting; /* to the next one, perhaps beside it */

    /* The session. */
    unsigned conn_count;
    double up_since;
    struct ev_timer overdue;
    double patience_s; /* how old a command may get before another session is tried beside */
    struct suspect {
        bool is; /* there is one: the command for which the last session was left */
        enum nbdcmd_kind kind;
        uint64_t offset_bytes;
        uint32_t length_bytes;
    } suspect;
    double pardoned_at; /* when an answer to one last gave the patience back */
    char lost_reason[LIMIT_REASON_BYTES];
    unsigned session_path;

    /* The attempt at the next one. */
    unsigned path;
    unsigned paths_tried; /* of this round; or beside this session, for a command too old */
    unsigned rounds;      /* without lasting success */
    unsigned legs_open;   /* asked and not yet known */
    uint32_t dice;
    struct traits found;
    struct ev_timer late; /* to see a connect that its helper does not end in time */
    struct ev_timer retry;

    struct resolve *probe;

    struct parked_place parked_place;
    struct parked *parked; /* LIMIT_PARKED of them, each a bit, by its index */
    uint32_t parked_used;  /* those bits: the others cost no memory */

    struct leg legs[]; /* as many as the configuration allows connections */
};

static void attempt_begin(struct target *target);
static void attempt_later(struct target *target);

/* -- the session ---------------------------------------------------------------------------- */

/* A session begins only when there is a place to park it in; another one's, which is still up, must
 * find one too. */
static bool may_begin_session(const struct target *target)
{
    unsigned used = (unsigned)__builtin_popcount(target->parked_used);

    return LIMIT_PARKED - used >= (target->up ? 2 : 1);
}

static unsigned free_place(const struct target *target)
{
    unsigned i = 0;

    while (target->parked_used & 1u << i)
        i++;
    assert(i < LIMIT_PARKED);
    return i;
}

static void park(struct target *target, unsigned place, const int *sockets, unsigned count)
{
    target->parked_used |= 1u << place;
    parked_start(&target->parked[place], &target->parked_place, target->session_path, sockets,
                 count);
}

/* Returns the bit that stands for it from now on. */
static uint32_t session_park(struct target *target)
{
    int sockets[LIMIT_CONNECTIONS];
    unsigned count = 0, place = free_place(target);

    target->up = target->given_up = false;
    ev_timer_stop(target->loop, &target->overdue);
    /* All first, so that nothing is sent anew on one while another's commands come back. */
    while (target->conn_count > 0)
        sockets[count++] = nbdconn_park(target->legs[--target->conn_count].conn);
    park(target, place, sockets, count);
    return 1u << place;
}

static void session_lost(struct target *target, const char *reason)
{
    uint32_t parked = session_park(target);

    snprintf(target->lost_reason, sizeof target->lost_reason, "%s", reason);
    if (ev_now(target->loop) - target->up_since > LIMIT_LASTING_MS / 1000.)
        target->rounds = 0;
    else
        target->rounds++;
    target->handler->lost(target->arg, target->lost_reason, parked);
}

static unsigned path_behind(const struct target *target, unsigned path)
{
    return (path + 1) % target->spec->config->export_count;
}

/* The one behind the path that was lost is tried first. */
static void session_lost_by_itself(struct target *target, const char *reason)
{
    session_lost(target, reason);
    target->paths_tried = 0;
    if (target->connecting) /* beside it, already */
        return;
    target->path = path_behind(target, target->session_path);
    if (target->rounds == 0)
        attempt_begin(target);
    else /* it did not last: a server may accept everybody, and serve nobody */
        attempt_later(target);
}

static double first_patience_s(const struct target *target)
{
    return target->spec->config->command_timeout_ms / 1000.;
}

static void relax(struct target *target)
{
    target->suspect.is = false;
    target->patience_s = first_patience_s(target);
    target->overdue.repeat = target->patience_s / 4;
    if (ev_is_active(&target->overdue))
        ev_timer_again(target->loop, &target->overdue);
}

/* What was too slow for the last session is not for this one: it was the session that hung, and not
 * the command that takes its time. If this one hangs, too, that is as good a reason to leave it.
 * But not again and again: before a server of which now this, now that command is slow, a session
 * has to last until it is through with what it must send again. */
static bool clears(const struct target *target, const struct nbdcmd *cmd)
{
    const struct suspect *suspect = &target->suspect;
    double now = ev_now(target->loop), first_s = first_patience_s(target);

    return suspect->is && cmd->error != -ENOTCONN && cmd->kind == suspect->kind &&
           cmd->offset_bytes <= suspect->offset_bytes &&
           cmd->offset_bytes + cmd->length_bytes >= suspect->offset_bytes + suspect->length_bytes &&
           now - cmd->begun < first_s &&
           now - target->pardoned_at >= LIMIT_PARDON_DEADLINES * first_s;
}

static void on_completed(void *arg, struct nbdcmd *cmd)
{
    struct target *target = arg;

    if (clears(target, cmd)) {
        target->pardoned_at = ev_now(target->loop);
        relax(target);
    }
    target->handler->completed(target->arg, cmd);
}

static void on_conn_lost(void *arg, const char *reason)
{
    char copy[LIMIT_REASON_BYTES]; /* the connection's, which goes */

    snprintf(copy, sizeof copy, "%s", reason);
    session_lost_by_itself(arg, copy);
}

static const struct nbdconn_handler conn_handler = {on_completed, on_conn_lost};

void target_give_up_session(struct target *target, const char *reason)
{
    if (!target->up || target->given_up)
        return;
    target->given_up = true;
    snprintf(target->lost_reason, sizeof target->lost_reason, "%s", reason);
}

void target_deliver(struct target *target)
{
    char reason[LIMIT_REASON_BYTES];

    for (unsigned i = 0; target->up && i < target->conn_count; i++)
        nbdconn_deliver(target->legs[i].conn);
    if (!target->up || !target->given_up)
        return;
    snprintf(reason, sizeof reason, "%s", target->lost_reason);
    session_lost_by_itself(target, reason);
}

static void on_parked_over(void *arg, struct parked *parked)
{
    struct target *target = arg;
    uint32_t bit = 1u << (parked - target->parked);

    target->parked_used &= ~bit;
    target->handler->fenced(target->arg, bit);
}

/* -- commands that are too old --------------------------------------------------------------- */

static const struct nbdcmd *oldest(const struct target *target)
{
    const struct nbdcmd *oldest = NULL, *cmd;

    for (unsigned i = 0; i < target->conn_count; i++) {
        cmd = nbdconn_oldest(target->legs[i].conn);
        if (cmd && (!oldest || cmd->begun < oldest->begun))
            oldest = cmd;
    }
    return oldest;
}

static double oldest_age_s(const struct target *target)
{
    const struct nbdcmd *cmd = oldest(target);

    return cmd ? ev_now(target->loop) - cmd->begun : 0.;
}

/* The session is to be left for its oldest command, which may be slow, and not dead. */
static void grow_patience(struct target *target)
{
    const struct nbdcmd *cmd = oldest(target);

    if (target->patience_s * 1000. < LIMIT_PATIENCE_MS)
        target->patience_s *= 2;
    target->suspect.is = cmd != NULL;
    if (cmd)
        target->suspect = (struct suspect){true, cmd->kind, cmd->offset_bytes, cmd->length_bytes};
}

/* -- attempts ------------------------------------------------------------------------------- */

static void attempt_drop(struct target *target)
{
    for (unsigned i = 0; i < target->spec->config->connections; i++) {
        resolve_cancel(target->legs[i].resolve);
        nbd_close(target->legs[i].nbd);
        target->legs[i].resolve = NULL;
        target->legs[i].nbd = NULL;
    }
    target->legs_open = 0;
    target->connecting = false;
    ev_timer_stop(target->loop, &target->late);
}

/* Later every time, up to a bound, and never in step with a thousand other disks. */
static double backoff_s(struct target *target)
{
    double seconds = LIMIT_RETRY_FIRST_MS / 1000.;

    for (unsigned i = 1; i < target->rounds && seconds < LIMIT_RETRY_MS / 1000.; i++)
        seconds *= 2;
    if (seconds > LIMIT_RETRY_MS / 1000.)
        seconds = LIMIT_RETRY_MS / 1000.;
    target->dice = target->dice * 1664525u + 1013904223u;
    return seconds * (0.75 + (target->dice >> 16) / 131072.);
}

static void attempt_later(struct target *target)
{
    ev_timer_set(&target->retry, backoff_s(target), 0.);
    ev_timer_start(target->loop, &target->retry);
}

static void attempt_failed(struct target *target, const char *reason)
{
    attempt_drop(target);
    if (target->told)
        target->handler->refused(target->arg, reason);
    target->path = path_behind(target, target->path);
    target->paths_tried++;
    if (target->up) /* beside a session that is slow: the timer of that decides */
        return;
    if (target->paths_tried < target->spec->config->export_count) {
        attempt_begin(target);
        return;
    }
    if (!target->told) {
        target->handler->failed(target->arg, reason);
        return;
    }
    target->paths_tried = 0;
    target->rounds++;
    attempt_later(target);
}

/* Longer than a command may take: it is not for TCP to give up a server that is slow. */
static unsigned unacknowledged_ms(const struct target *target)
{
    unsigned twice_ms = 2 * target->spec->config->command_timeout_ms;

    return twice_ms > LIMIT_UNACKNOWLEDGED_MS ? twice_ms : LIMIT_UNACKNOWLEDGED_MS;
}

static void session_begin(struct target *target)
{
    for (unsigned i = 0; i < target->spec->config->connections; i++) {
        struct nbd_handle *nbd = target->legs[i].nbd;

        target->legs[i].nbd = NULL;
        if (nbd && nbdconn_create(target->loop, nbd, unacknowledged_ms(target), &conn_handler,
                                  target, &target->legs[target->conn_count].conn) == 0)
            target->conn_count++;
    }
    attempt_drop(target);
    if (target->conn_count == 0) {
        attempt_failed(target, "out of memory");
        return;
    }
    target->traits = target->found;
    target->told = target->up = true;
    target->session_path = target->path;
    target->paths_tried = 0;
    target->up_since = ev_now(target->loop);
    target->handler->ready(target->arg, &target->traits.properties);
}

/* Every leg is known, and the first one fits. */
static void attempt_done(struct target *target)
{
    char reason[LIMIT_REASON_BYTES];

    if (target->up && oldest_age_s(target) < target->patience_s) {
        attempt_drop(target); /* what it was begun for was answered meanwhile */
        target->paths_tried = 0;
        return;
    }
    if (!may_begin_session(target)) {
        attempt_failed(target, "too many lost connections are still open");
        return;
    }
    if (target->up) {
        snprintf(reason, sizeof reason, "a command was not answered for %.0f s",
                 target->patience_s);
        grow_patience(target);
        session_lost(target, reason);
    }
    session_begin(target);
}

static int leg_start(struct target *target, unsigned index, void (*done)(void *arg))
{
    struct leg *leg = &target->legs[index];
    int err;

    leg->target = target;
    err = resolve_start(target->spec->config, target->path, target->spec->connect_timeout_ms,
                        target->mailbox, done, leg, &leg->resolve);
    if (err < 0)
        return err;
    target->legs_open++;
    ev_timer_stop(target->loop, &target->late);
    ev_timer_set(&target->late, (target->spec->connect_timeout_ms + LIMIT_CONNECT_GRACE_MS) / 1000.,
                 LIMIT_CONNECT_GRACE_MS / 1000.);
    ev_timer_start(target->loop, &target->late);
    return 0;
}

/* A further one: without it the session is only narrower. */
static void on_leg(void *arg)
{
    struct leg *leg = arg;
    struct target *target = leg->target;
    struct traits traits;
    char reason[LIMIT_REASON_BYTES];
    int err = resolve_finish(leg->resolve, &leg->nbd, reason, sizeof reason);

    leg->resolve = NULL;
    if (err == 0 &&
        (traits_read(target->spec, leg->nbd, &traits, reason, sizeof reason) < 0 ||
         !traits.multi_conn || traits_misfit(&target->found, &traits) ||
         traits.properties.capacity_sectors != target->found.properties.capacity_sectors)) {
        nbd_close(leg->nbd);
        leg->nbd = NULL;
    }
    if (--target->legs_open == 0)
        attempt_done(target);
}

static void on_first_leg(void *arg)
{
    struct leg *leg = arg;
    struct target *target = leg->target;
    char reason[LIMIT_REASON_BYTES];
    const char *misfit = NULL;
    int err = resolve_finish(leg->resolve, &leg->nbd, reason, sizeof reason);

    leg->resolve = NULL;
    target->legs_open--;
    if (err == 0)
        err = traits_read(target->spec, leg->nbd, &target->found, reason, sizeof reason);
    if (err == 0 && target->told)
        misfit = traits_misfit(&target->traits, &target->found);
    if (err < 0 || misfit) {
        attempt_failed(target, misfit ? misfit : reason);
        return;
    }
    for (unsigned i = 1; target->found.multi_conn && i < target->spec->config->connections; i++)
        (void)leg_start(target, i, on_leg);
    if (target->legs_open == 0)
        attempt_done(target);
}

/* Is there a path whose server's name need not be looked for, while this one waits for that? */
static bool may_pass_over(const struct target *target)
{
    const struct config_disk *config = target->spec->config;
    unsigned path = target->path;
    unsigned others = config->export_count - 1; /* who was told once goes round for ever */

    if (!target->told)
        others -= target->paths_tried;
    if (!resolve_waits(target->legs[0].resolve) || !resolve_by_name(config->export_uris[path]))
        return false;
    while (others-- > 0) {
        path = path_behind(target, path);
        if (!resolve_by_name(config->export_uris[path]))
            return true;
    }
    return false;
}

/* Without them the session is only narrower. */
static void drop_late_legs(struct target *target)
{
    for (unsigned i = 1; i < target->spec->config->connections; i++) {
        struct leg *leg = &target->legs[i];

        if (leg->resolve && (resolve_is_late(leg->resolve) || resolve_waits(leg->resolve))) {
            resolve_cancel(leg->resolve);
            leg->resolve = NULL;
            target->legs_open--;
        }
    }
    if (target->legs_open == 0)
        attempt_done(target);
}

/* A helper ends its connect in time, but for the search of a name's address, which cannot be
 * bounded there: the next path is not to wait for it. A first one that waits for a helper keeps its
 * place, or a crowd could starve it for ever. */
static void on_late(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    struct target *target = timer->data;
    struct resolve *first = target->legs[0].resolve;
    bool over = first && may_pass_over(target);
    char reason[LIMIT_REASON_BYTES];

    (void)loop;
    (void)events;
    if (!first) {
        drop_late_legs(target);
    } else if (over || resolve_is_late(first)) {
        snprintf(reason, sizeof reason,
                 "cannot connect to %.70s: its server's name was not %s %u ms",
                 target->spec->config->export_uris[target->path],
                 over ? "looked for, for want of threads, within" : "found within",
                 target->spec->connect_timeout_ms);
        attempt_failed(target, reason);
    }
}

const char *target_why_not(int err)
{
    return err == -EBUSY ? "the server's name is still being looked for" : strerror(-err);
}

static void attempt_begin(struct target *target)
{
    int err;

    ev_timer_stop(target->loop, &target->retry);
    target->connecting = true;
    err = leg_start(target, 0, on_first_leg);
    if (err < 0)
        attempt_failed(target, target_why_not(err));
}

static void on_retry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    attempt_begin(timer->data);
}

/* -- deadlines ------------------------------------------------------------------------------ */

/* A session that has served for long is as good as the first, if nothing in it is slow (`age_s` is
 * the oldest command's): what takes its time is to be given it, however often it must be sent. */
static bool has_served(const struct target *target, double age_s)
{
    double first_s = first_patience_s(target);

    return age_s < first_s && ev_now(target->loop) - target->up_since > 2 * first_s;
}

/* A deadline alone never gives up a connection, for what it was told may still be done: only when
 * another one stands, whose server answers, is this one left. */
static void on_overdue(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    struct target *target = timer->data;
    double age_s = oldest_age_s(target);

    (void)events;
    if (age_s < target->patience_s) {
        if (target->connecting)
            attempt_drop(target);
        target->paths_tried = 0;
        if (has_served(target, age_s))
            relax(target);
        if (!oldest(target))
            ev_timer_stop(loop, timer);
        return;
    }
    if (target->connecting)
        return;
    if (target->paths_tried == 0)
        target->path = path_behind(target, target->session_path);
    attempt_begin(target);
}

static void watch_age(struct target *target)
{
    if (ev_is_active(&target->overdue))
        return;
    target->overdue.repeat = target->patience_s / 4;
    ev_timer_again(target->loop, &target->overdue);
}

/* -- life ----------------------------------------------------------------------------------- */

static uint32_t in_flight(const struct target *target)
{
    uint32_t commands = 0;

    for (unsigned i = 0; i < target->conn_count; i++)
        commands += nbdconn_in_flight(target->legs[i].conn);
    return commands;
}

static void session_end(struct target *target)
{
    target->up = target->given_up = false;
    ev_timer_stop(target->loop, &target->overdue);
    while (target->conn_count > 0)
        nbdconn_destroy(target->legs[--target->conn_count].conn);
}

uint32_t target_quit(struct target *target)
{
    uint32_t parked = target->up && in_flight(target) > 0 ? session_park(target) : 0;

    session_end(target);
    attempt_drop(target);
    target_probe_drop(target);
    ev_timer_stop(target->loop, &target->retry);
    return parked;
}

void target_close(struct target *target)
{
    if (!target)
        return;
    session_end(target);
    attempt_drop(target);
    target_probe_drop(target);
    ev_timer_stop(target->loop, &target->retry);
    for (unsigned i = 0; i < LIMIT_PARKED; i++) {
        if (target->parked_used & 1u << i)
            parked_drop(&target->parked[i]);
    }
    pages_unmap(target->parked, LIMIT_PARKED * sizeof *target->parked);
    free(target);
}

int target_open(struct ev_loop *loop, struct mailbox *mailbox, const struct disklink_spec *spec,
                const struct target_past *past, const struct target_handler *handler, void *arg,
                struct target **ret_target)
{
    size_t legs_bytes = spec->config->connections * sizeof(struct leg);
    struct target *target = calloc(1, sizeof *target + legs_bytes);
    int err;

    if (!target)
        return -ENOMEM;
    target->parked = pages_map(LIMIT_PARKED * sizeof *target->parked);
    if (!target->parked) {
        free(target);
        return -ENOMEM;
    }
    target->loop = loop;
    target->mailbox = mailbox;
    target->spec = spec;
    target->handler = handler;
    target->arg = arg;
    target->patience_s = first_patience_s(target);
    target->dice = (uint32_t)(uintptr_t)target >> 4 ^ (uint32_t)(uint64_t)(ev_now(loop) * 1000.);
    target->parked_place = (struct parked_place){loop, mailbox, spec, on_parked_over, target};
    ev_timer_init(&target->overdue, on_overdue, 0., 0.);
    ev_timer_init(&target->late, on_late, 0., 0.);
    ev_timer_init(&target->retry, on_retry, 0., 0.);
    target->overdue.data = target->late.data = target->retry.data = target;
    target->told = past->told;
    target->traits.properties = past->properties;
    target->traits.flush = past->flush;
    if (past->crashed)
        park(target, 0, NULL, 0);
    target->connecting = true;
    err = leg_start(target, 0, on_first_leg);
    if (err == -EBUSY) {
        target->connecting = false;
        attempt_later(target); /* which may say so */
    } else if (err < 0) {
        target_close(target);
        return err;
    }
    *ret_target = target;
    return 0;
}

void target_renew(struct target *target)
{
    session_end(target);
    attempt_drop(target);
    target->path = target->session_path;
    target->paths_tried = 0;
    attempt_begin(target);
}

const struct disk_properties *target_properties(const struct target *target)
{
    return &target->traits.properties;
}

enum target_flush target_flush_kind(const struct target *target)
{
    return target->traits.flush;
}

/* -- commands ------------------------------------------------------------------------------- */

unsigned target_connections(const struct target *target)
{
    return target->conn_count;
}

bool target_has_room(const struct target *target, uint32_t collected)
{
    return target->up && !target->given_up &&
           in_flight(target) + collected < target->conn_count * LIMIT_COMMANDS_IN_FLIGHT;
}

uint32_t target_command_max_bytes(const struct target *target, bool trim)
{
    return trim ? target->traits.trim_max_bytes : target->traits.command_max_bytes;
}

void target_learn_max(struct target *target, bool trim, uint32_t length_bytes)
{
    uint32_t *max_bytes = trim ? &target->traits.trim_max_bytes : &target->traits.command_max_bytes;

    if (length_bytes < *max_bytes)
        *max_bytes = length_bytes;
}

/* The least busy connection; NULL: none. */
static struct nbdconn *choose(struct target *target)
{
    struct nbdconn *best = NULL;

    if (!target->up || target->given_up)
        return NULL;
    watch_age(target);
    for (unsigned i = 0; i < target->conn_count; i++) {
        if (!best || nbdconn_in_flight(target->legs[i].conn) < nbdconn_in_flight(best))
            best = target->legs[i].conn;
    }
    return best;
}

int target_read(struct target *target, struct nbdcmd *cmd, void *buffer, uint32_t length_bytes,
                uint64_t offset_bytes)
{
    struct nbdconn *conn = choose(target);

    return conn ? nbdconn_read(conn, cmd, buffer, length_bytes, offset_bytes) : -ENOTCONN;
}

int target_write(struct target *target, struct nbdcmd *cmd, const void *buffer,
                 uint32_t length_bytes, uint64_t offset_bytes)
{
    struct nbdconn *conn = choose(target);

    return conn ? nbdconn_write(conn, cmd, buffer, length_bytes, offset_bytes,
                                target->traits.flush == TARGET_FLUSH_NEEDLESS)
                : -ENOTCONN;
}

int target_trim(struct target *target, struct nbdcmd *cmd, uint32_t length_bytes,
                uint64_t offset_bytes)
{
    struct nbdconn *conn = choose(target);

    return conn ? nbdconn_trim(conn, cmd, length_bytes, offset_bytes) : -ENOTCONN;
}

int target_flush(struct target *target, struct nbdcmd *cmd)
{
    struct nbdconn *conn = choose(target);

    return conn ? nbdconn_flush(conn, cmd) : -ENOTCONN;
}

/* -- probes --------------------------------------------------------------------------------- */

static void on_probed(void *arg)
{
    struct target *target = arg;
    struct nbd_handle *nbd = NULL;
    struct traits traits;
    char reason[LIMIT_REASON_BYTES] = "";
    const char *misfit = NULL;
    int err = resolve_finish(target->probe, &nbd, reason, sizeof reason);

    target->probe = NULL;
    if (err == 0)
        err = traits_read(target->spec, nbd, &traits, reason, sizeof reason);
    if (err == 0)
        misfit = traits_misfit(&target->traits, &traits);
    nbd_close(nbd);
    target->handler->probed(target->arg, err < 0 || misfit ? NULL : &traits.properties,
                            misfit ? misfit : reason);
}

int target_probe(struct target *target)
{
    if (target->probe)
        return -EALREADY;
    return resolve_start(target->spec->config, target->session_path,
                         target->spec->connect_timeout_ms, target->mailbox, on_probed, target,
                         &target->probe);
}

void target_probe_drop(struct target *target)
{
    resolve_cancel(target->probe);
    target->probe = NULL;
}
