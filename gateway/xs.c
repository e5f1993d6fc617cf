/*
 * xs: see xs.h.
 *
 * Invariants
 *  1. `handle` is only closed from the loop (on_lost), never inside a call: a caller may be in the
 *     middle of a transaction or of the event loop here. Until then `broken` makes calls fail.
 *  2. A watch is a slot and a serial number, and both are its token; an event whose token fits no
 *     slot is of a watch that ended, and is dropped. No event carries a pointer.
 */
#include "gateway/xs.h"

#include <errno.h>
#include <ev.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

#include "proto/limits.h"

struct store_watch {
    unsigned slot;
    uint32_t serial;
    void (*changed)(void *arg, const char *path);
    void *arg;
    bool registered; /* since the connection is back; else the heartbeat tries it */
    char path[];
};

struct store {
    struct ev_loop *loop;
    struct store_events events;
    struct xs_handle *handle; /* NULL: not connected */
    bool broken;              /* the handle is of no use any more, on_lost is to come */
    struct store_watch **watches;
    unsigned slot_count; /* of watches[]; free ones are NULL */
    uint32_t next_serial;
    ev_io readable;
    ev_timer heartbeat;
    ev_timer retry; /* runs on_lost or on_retry */
};

enum { TOKEN_BYTES = 32 };

static double seconds(unsigned ms)
{
    return (double)ms / 1000;
}

/* -- connection ---------------------------------------------------------------------------- */

static bool answers(struct store *store)
{
    unsigned length;
    char *value = xs_read(store->handle, XBT_NULL, "/", &length);

    if (!value)
        return errno == EACCES || errno == ENOENT;
    free(value);
    return true;
}

static void on_lost(struct ev_loop *loop, ev_timer *timer, int revents);

static void mark_broken(struct store *store)
{
    if (store->broken)
        return;
    store->broken = true;
    ev_timer_stop(store->loop, &store->retry);
    ev_timer_init(&store->retry, on_lost, 0., 0.);
    ev_timer_start(store->loop, &store->retry);
}

static bool usable(const struct store *store)
{
    return store->handle && !store->broken;
}

/* The errno of a call as our error. Errors that a dead connection also gives are looked into. */
static int failed(struct store *store)
{
    int error = errno;

    switch (error) {
    case ENOENT:
    case EACCES: return -ENOENT;
    case EAGAIN:
    case EEXIST:
    case ENOSPC:
    case ENOMEM:
    case E2BIG: return -error;
    default: break;
    }
    if (!answers(store)) {
        mark_broken(store);
        return -ENOTCONN;
    }
    return error ? -error : -EIO;
}

static void watch_token(const struct store_watch *watch, char ret_token[static TOKEN_BYTES])
{
    snprintf(ret_token, TOKEN_BYTES, "%u.%" PRIu32, watch->slot, watch->serial);
}

static int register_watch(struct store *store, struct store_watch *watch)
{
    char token[TOKEN_BYTES];

    watch_token(watch, token);
    watch->registered = xs_watch(store->handle, watch->path, token);
    return watch->registered ? 0 : failed(store);
}

static void register_missing(struct store *store)
{
    for (unsigned slot = 0; slot < store->slot_count && usable(store); slot++)
        if (store->watches[slot] && !store->watches[slot]->registered)
            (void)register_watch(store, store->watches[slot]);
}

static void dispatch(struct store *store, const char *path, const char *token)
{
    unsigned slot;
    uint32_t serial;
    struct store_watch *watch;
    char end;

    /* NOLINTNEXTLINE(cert-err34-c): our own token, checked against the slot below */
    if (sscanf(token, "%u.%" SCNu32 "%c", &slot, &serial, &end) != 2 || slot >= store->slot_count)
        return;
    watch = store->watches[slot];
    if (watch && watch->serial == serial)
        watch->changed(watch->arg, path);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
    struct store *store = io->data;
    unsigned taken;

    (void)revents;
    for (taken = 0; usable(store) && taken < LIMIT_XENSTORE_EVENTS; taken++) {
        char **event = xs_check_watch(store->handle);

        if (!event) {
            if (errno != EAGAIN && !answers(store))
                mark_broken(store);
            return;
        }
        dispatch(store, event[XS_WATCH_PATH], event[XS_WATCH_TOKEN]);
        free(event);
    }
    if (taken == LIMIT_XENSTORE_EVENTS)
        ev_feed_event(loop, io, EV_READ); /* the descriptor need not be readable for the rest */
}

static void on_heartbeat(struct ev_loop *loop, ev_timer *timer, int revents)
{
    struct store *store = timer->data;

    (void)loop;
    (void)revents;
    if (usable(store) && !answers(store))
        mark_broken(store);
    register_missing(store);
}

static int connect_store(struct store *store)
{
    int fd;

    store->handle = xs_open(0);
    if (!store->handle)
        return errno ? -errno : -ENOTCONN;
    store->broken = false;
    fd = xs_fileno(store->handle);
    if (fd < 0) {
        xs_close(store->handle);
        store->handle = NULL;
        return -EMFILE;
    }
    ev_io_set(&store->readable, fd, EV_READ);
    ev_io_start(store->loop, &store->readable);
    return 0;
}

static void disconnect_store(struct store *store)
{
    ev_io_stop(store->loop, &store->readable);
    xs_close(store->handle);
    store->handle = NULL;
    store->broken = false;
    for (unsigned slot = 0; slot < store->slot_count; slot++)
        if (store->watches[slot])
            store->watches[slot]->registered = false;
}

static void on_retry(struct ev_loop *loop, ev_timer *timer, int revents)
{
    struct store *store = timer->data;

    (void)revents;
    if (connect_store(store) < 0)
        return; /* the timer repeats */
    register_missing(store);
    if (store->broken) { /* lost again before it was back */
        disconnect_store(store);
        return;
    }
    ev_timer_stop(loop, timer);
    store->events.back(store->events.arg);
}

static void on_lost(struct ev_loop *loop, ev_timer *timer, int revents)
{
    struct store *store = timer->data;

    (void)revents;
    disconnect_store(store);
    ev_timer_stop(loop, timer);
    ev_timer_init(timer, on_retry, seconds(LIMIT_XENSTORE_RETRY_MS),
                  seconds(LIMIT_XENSTORE_RETRY_MS));
    ev_timer_start(loop, timer);
    store->events.lost(store->events.arg);
}

bool store_is_quota(int error)
{
    return error == -ENOSPC || error == -E2BIG || error == -ENOMEM || error == -EINVAL;
}

int store_open(struct ev_loop *loop, const struct store_events *events, struct store **ret_store)
{
    struct store *store = calloc(1, sizeof(*store));
    double beat = seconds(LIMIT_XENSTORE_HEARTBEAT_MS);
    int ret;

    if (!store)
        return -ENOMEM;
    store->loop = loop;
    store->events = *events;
    ev_init(&store->readable, on_readable);
    ev_timer_init(&store->heartbeat, on_heartbeat, beat, beat);
    ev_init(&store->retry, on_lost);
    store->readable.data = store;
    store->heartbeat.data = store;
    store->retry.data = store;
    ret = connect_store(store);
    if (ret < 0) {
        free(store);
        return ret;
    }
    ev_timer_start(loop, &store->heartbeat);
    *ret_store = store;
    return 0;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    ev_timer_stop(store->loop, &store->heartbeat);
    ev_timer_stop(store->loop, &store->retry);
    if (store->handle)
        disconnect_store(store);
    for (unsigned slot = 0; slot < store->slot_count; slot++)
        free(store->watches[slot]);
    free(store->watches);
    free(store);
}

/* -- nodes --------------------------------------------------------------------------------- */

int store_read(struct store *store, store_tx tx, const char *path, char *ret_value, size_t bytes)
{
    unsigned length;
    char *value;
    int ret = 0;

    if (!usable(store))
        return -ENOTCONN;
    value = xs_read(store->handle, tx, path, &length);
    if (!value)
        return failed(store);
    if (length >= bytes)
        ret = -EMSGSIZE;
    else if (memchr(value, '\0', length))
        ret = -EILSEQ;
    else
        memcpy(ret_value, value, (size_t)length + 1); /* libxenstore ends it with a NUL */
    free(value);
    return ret;
}

int store_write(struct store *store, store_tx tx, const char *path, const char *value)
{
    if (!usable(store))
        return -ENOTCONN;
    if (xs_write(store->handle, tx, path, value, (unsigned)strlen(value)))
        return 0;
    return errno == EACCES ? -EACCES : failed(store);
}

int store_write_private(struct store *store, store_tx tx, const char *path, const char *value)
{
    unsigned count = 0;
    struct xs_permissions *owner;
    bool is_private;
    int ret = store_write(store, tx, path, value);

    if (ret < 0)
        return ret;
    owner = xs_get_permissions(store->handle, tx, path, &count);
    if (owner)
        owner->perms = XS_PERM_NONE; /* of all whom the list does not name */
    is_private = owner && xs_set_permissions(store->handle, tx, path, owner, 1);
    if (!is_private)
        ret = errno == EACCES ? -EACCES : failed(store);
    free(owner);
    return ret;
}

int store_remove(struct store *store, store_tx tx, const char *path)
{
    int ret;

    if (!usable(store))
        return -ENOTCONN;
    if (xs_rm(store->handle, tx, path))
        return 0;
    if (errno == EACCES)
        return -EACCES;
    ret = failed(store);
    return ret == -ENOENT ? 0 : ret;
}

int store_list(struct store *store, const char *path, char ***ret_names, unsigned *ret_count)
{
    char **names;

    if (!usable(store))
        return -ENOTCONN;
    names = xs_directory(store->handle, XBT_NULL, path, ret_count);
    if (!names)
        return failed(store);
    *ret_names = names;
    return 0;
}

int store_transact(struct store *store, int (*body)(void *arg, store_tx tx), void *arg)
{
    for (unsigned attempt = 0; attempt < LIMIT_XENSTORE_TRIES; attempt++) {
        xs_transaction_t tx;
        int ret;

        if (!usable(store))
            return -ENOTCONN;
        tx = xs_transaction_start(store->handle);
        if (tx == XBT_NULL)
            return failed(store);
        ret = body(arg, tx);
        if (ret < 0) {
            if (usable(store))
                (void)xs_transaction_end(store->handle, tx, true);
            return ret;
        }
        if (xs_transaction_end(store->handle, tx, false))
            return 0;
        ret = failed(store);
        if (ret != -EAGAIN)
            return ret;
    }
    return -EAGAIN;
}

int store_domain_alive(struct store *store, uint16_t domid, bool *ret_alive)
{
    if (!usable(store))
        return -ENOTCONN;
    if (domid == 0 || xs_is_domain_introduced(store->handle, domid)) {
        *ret_alive = true;
        return 0;
    }
    if (!answers(store)) { /* "no" is also what a lost connection says */
        mark_broken(store);
        return -ENOTCONN;
    }
    *ret_alive = false;
    return 0;
}

/* -- watches ------------------------------------------------------------------------------- */

static int find_slot(struct store *store, unsigned *ret_slot)
{
    unsigned slot, count = store->slot_count;
    struct store_watch **bigger;

    for (slot = 0; slot < count; slot++) {
        if (!store->watches[slot]) {
            *ret_slot = slot;
            return 0;
        }
    }
    count = count ? count * 2 : 16;
    bigger = realloc(store->watches, count * sizeof(struct store_watch *));
    if (!bigger)
        return -ENOMEM;
    for (unsigned i = slot; i < count; i++)
        bigger[i] = NULL;
    store->watches = bigger;
    store->slot_count = count;
    *ret_slot = slot;
    return 0;
}

int store_watch(struct store *store, const char *path, void (*changed)(void *arg, const char *path),
                void *arg, struct store_watch **ret_watch)
{
    size_t length = strlen(path);
    struct store_watch *watch = calloc(1, sizeof(*watch) + length + 1);
    int ret;

    if (!watch)
        return -ENOMEM;
    ret = find_slot(store, &watch->slot);
    if (ret < 0)
        goto out;
    watch->serial = store->next_serial++;
    watch->changed = changed;
    watch->arg = arg;
    memcpy(watch->path, path, length + 1);
    /* While the connection is lost: it is registered when it is back. */
    if (usable(store)) {
        ret = register_watch(store, watch);
        if (ret < 0 && ret != -ENOTCONN)
            goto out;
    }
    store->watches[watch->slot] = watch;
    *ret_watch = watch;
    return 0;
out:
    free(watch);
    return ret;
}

void store_unwatch(struct store *store, struct store_watch *watch)
{
    char token[TOKEN_BYTES];

    if (!watch)
        return;
    watch_token(watch, token);
    if (usable(store) && watch->registered && !xs_unwatch(store->handle, watch->path, token))
        (void)failed(store);
    store->watches[watch->slot] = NULL;
    free(watch);
}
