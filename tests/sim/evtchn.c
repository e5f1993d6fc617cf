/* Stand-in for libxenevtchn.so.1: Linux's /dev/xen/evtchn as its driver behaves, over simxen.
 *
 * The descriptor is readable while a delivered port has not been fetched. Fetching leaves the port
 * masked until unmask; what arrives in between is delivered then. As with the driver, a port that
 * was delivered and then unbound may still be fetched once, unmasking an unbound port is no
 * error, and notifying one is ENOTCONN. A notification to a closed peer is dropped in silence.
 */
#include "simclient.h"
#include "simcost.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xenevtchn.h>

struct xenevtchn_handle {
    struct sim_conn *conn;
    pthread_mutex_t bind_lock; /* held while slot_of is behind what simxen has bound */
    _Atomic uint16_t slot_of[SIM_DOM_PORTS];
};

static uint32_t own_domid(void)
{
    const char *text = getenv("BLKGATE_SIM_DOMID");

    return text ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

static int fail(int err)
{
    errno = err;
    return -1;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    xenevtchn_handle *xce = calloc(1, sizeof(*xce));

    (void)logger;
    (void)flags;
    if (!xce)
        return NULL;
    pthread_mutex_init(&xce->bind_lock, NULL);
    xce->conn = sim_connect(SIM_KIND_EVTCHN, own_domid());
    if (!xce->conn) {
        free(xce);
        return NULL;
    }
    return xce;
}

/* A handle is a connection here, which no inherited descriptor can stand for. */
xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned open_flags)
{
    (void)logger;
    (void)fd;
    (void)open_flags;
    errno = ENOSYS;
    return NULL;
}

int xenevtchn_close(xenevtchn_handle *xce)
{
    if (!xce)
        return 0;
    sim_disconnect(xce->conn);
    pthread_mutex_destroy(&xce->bind_lock);
    free(xce);
    return 0;
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    return xce->conn->event_fd;
}

int xenevtchn_restrict(xenevtchn_handle *xce, domid_t domid)
{
    (void)xce;
    (void)domid;
    return fail(EOPNOTSUPP);
}

static uint32_t slot_get(xenevtchn_handle *xce, evtchn_port_t port)
{
    return port < SIM_DOM_PORTS ? atomic_load(&xce->slot_of[port]) : 0;
}

static xenevtchn_port_or_error_t bind_call(xenevtchn_handle *xce, struct sim_msg *msg)
{
    int err, fd;

    pthread_mutex_lock(&xce->bind_lock);
    err = sim_call(xce->conn, msg, &fd, 1);
    if (!err) {
        if (fd >= 0)
            sim_handle_learn(xce->conn, msg->arg[2], fd);
        atomic_store(&xce->slot_of[msg->arg[0]], (uint16_t)msg->arg[1]);
        sim_count(&xce->conn->shared->stats.binds, 1);
    }
    pthread_mutex_unlock(&xce->bind_lock);
    return err ? fail(err) : (xenevtchn_port_or_error_t)msg->arg[0];
}

xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle *xce, uint32_t domid)
{
    struct sim_msg msg = {.op = SIM_PORT_ALLOC, .arg = {domid}};

    return bind_call(xce, &msg);
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid,
                                                     evtchn_port_t remote_port)
{
    struct sim_msg msg = {.op = SIM_PORT_BIND, .arg = {domid, remote_port}};

    return bind_call(xce, &msg);
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    struct sim_msg msg = {.op = SIM_PORT_CLOSE, .arg = {port}};
    int err;

    pthread_mutex_lock(&xce->bind_lock);
    err = slot_get(xce, port) ? 0 : ENOTCONN;
    if (!err) {
        atomic_store(&xce->slot_of[port], 0);
        err = sim_call(xce->conn, &msg, NULL, 0);
        sim_count(&xce->conn->shared->stats.unbinds, 1);
    }
    pthread_mutex_unlock(&xce->bind_lock);
    return err ? fail(err) : 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    uint32_t slot = slot_get(xce, port);

    sim_count(&xce->conn->shared->stats.notifies, 1);
    if (slot == 0) {
        sim_one_syscall();
        return fail(ENOTCONN);
    }
    sim_cost_notify();
    sim_raise_peer(xce->conn, slot);
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port;
    int err = sim_event_next(xce->conn, &port);

    sim_count(&xce->conn->shared->stats.pendings, 1);
    return err ? fail(err) : (xenevtchn_port_or_error_t)port;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    uint32_t slot = slot_get(xce, port);

    if (slot == 0) {
        /* A bind in another thread raises its port before it can tell us the slot. */
        pthread_mutex_lock(&xce->bind_lock);
        slot = slot_get(xce, port);
        pthread_mutex_unlock(&xce->bind_lock);
    }
    sim_count(&xce->conn->shared->stats.unmasks, 1);
    if (slot == 0)
        sim_one_syscall();
    else if (sim_event_unmask(xce->conn, slot))
        sim_cost_notify();
    return 0;
}
