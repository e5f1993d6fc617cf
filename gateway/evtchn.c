#include "gateway/evtchn.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xenevtchn.h>

#include "proto/limits.h"

struct binding {
    void (*notified)(void *arg); /* NULL: this port is not bound */
    void *arg;
    bool masked; /* its event was fetched: no other comes before it is unmasked */
};

struct evtchn {
    xenevtchn_handle *handle;
    struct ev_loop *loop;
    struct ev_io io;
    struct binding *bindings; /* by local port */
    uint32_t binding_count;
    uint32_t unmasked; /* ports: no more events wait to be fetched, but of ports unbound since */
};

static void set_masked(struct evtchn *evtchn, uint32_t port, bool masked)
{
    struct binding *binding = &evtchn->bindings[port];

    if (!binding->notified || binding->masked == masked)
        return;
    binding->masked = masked;
    evtchn->unmasked += masked ? -1u : 1u;
}

static void on_readable(struct ev_loop *loop, struct ev_io *io, int events)
{
    struct evtchn *evtchn = io->data;
    xenevtchn_port_or_error_t port;

    (void)loop;
    (void)events;
    /* One there is, if only of a port that was unbound since: it would wait for ever, and so would
     * the loop never sleep. */
    for (int i = 0; i < LIMIT_EVENTS_PER_TURN && (i == 0 || evtchn->unmasked > 0); i++) {
        port = xenevtchn_pending(evtchn->handle); /* non-blocking: the fd is O_NONBLOCK */
        if (port < 0)
            return;
        if ((uint32_t)port >= evtchn->binding_count || !evtchn->bindings[port].notified)
            continue; /* of one that was unbound since */
        set_masked(evtchn, (uint32_t)port, true);
        evtchn->bindings[port].notified(evtchn->bindings[port].arg);
    }
}

int evtchn_open(struct ev_loop *loop, struct evtchn **ret_evtchn)
{
    struct evtchn *evtchn = calloc(1, sizeof *evtchn);
    int fd, flags, err;

    if (!evtchn)
        return -ENOMEM;
    evtchn->loop = loop;
    evtchn->handle = xenevtchn_open(NULL, 0);
    if (!evtchn->handle) {
        err = errno ? -errno : -ENODEV;
        goto fail;
    }
    fd = xenevtchn_fd(evtchn->handle);
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        err = -errno;
        goto fail;
    }
    ev_io_init(&evtchn->io, on_readable, fd, EV_READ);
    evtchn->io.data = evtchn;
    ev_io_start(loop, &evtchn->io);
    *ret_evtchn = evtchn;
    return 0;
fail:
    if (evtchn->handle)
        xenevtchn_close(evtchn->handle);
    free(evtchn);
    return err;
}

void evtchn_close(struct evtchn *evtchn)
{
    if (!evtchn)
        return;
    ev_io_stop(evtchn->loop, &evtchn->io);
    xenevtchn_close(evtchn->handle);
    free(evtchn->bindings);
    free(evtchn);
}

static int bindings_grow(struct evtchn *evtchn, uint32_t port)
{
    uint32_t count = evtchn->binding_count ? evtchn->binding_count : 64;
    struct binding *bindings;

    if (port < evtchn->binding_count)
        return 0;
    while (count <= port)
        count *= 2;
    bindings = realloc(evtchn->bindings, count * sizeof *bindings);
    if (!bindings)
        return -ENOMEM;
    memset(bindings + evtchn->binding_count, 0, (count - evtchn->binding_count) * sizeof *bindings);
    evtchn->bindings = bindings;
    evtchn->binding_count = count;
    return 0;
}

int evtchn_bind(struct evtchn *evtchn, uint32_t domid, uint32_t remote_port,
                void (*notified)(void *arg), void *arg, uint32_t *ret_port)
{
    xenevtchn_port_or_error_t port;
    int err;

    errno = 0;
    port = xenevtchn_bind_interdomain(evtchn->handle, domid, remote_port);
    if (port < 0)
        return errno ? -errno : -EINVAL;
    err = bindings_grow(evtchn, (uint32_t)port);
    if (err < 0) {
        xenevtchn_unbind(evtchn->handle, (evtchn_port_t)port);
        return err;
    }
    evtchn->bindings[port] = (struct binding){notified, arg, false};
    evtchn->unmasked++;
    *ret_port = (uint32_t)port;
    return 0;
}

void evtchn_unbind(struct evtchn *evtchn, uint32_t port)
{
    set_masked(evtchn, port, true);
    evtchn->bindings[port].notified = NULL;
    xenevtchn_unbind(evtchn->handle, port);
}

void evtchn_unmask(struct evtchn *evtchn, uint32_t port)
{
    set_masked(evtchn, port, false);
    xenevtchn_unmask(evtchn->handle, port);
}

void evtchn_notify(struct evtchn *evtchn, uint32_t port)
{
    xenevtchn_notify(evtchn->handle, port);
}
