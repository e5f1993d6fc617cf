/* Event channels as Xen's event_channel.c keeps them: numbers are per domain and the lowest free
 * one is given out, so that a port that is closed and opened again has its old number. */
#include "simxen.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void token_write(int fd)
{
    static const uint64_t one = 1;

    if (fd < 0 || write(fd, &one, sizeof(one)) < 0)
        return;
}

static uint32_t slot_find(uint32_t domid, uint32_t port)
{
    uint32_t limit = atomic_load(&shared->port_limit), slot;

    for (slot = 1; slot < limit; slot++)
        if (shared->ports[slot].kind != SIM_PORT_FREE && shared->ports[slot].domid == domid &&
            atomic_load(&shared->ports[slot].port) == port)
            return slot;
    return 0;
}

static uint32_t number_alloc(uint32_t domid)
{
    static bool used[SIM_DOM_PORTS];
    uint32_t limit = atomic_load(&shared->port_limit), i;

    memset(used, 0, sizeof(used));
    for (i = 1; i < limit; i++)
        if (shared->ports[i].kind != SIM_PORT_FREE && shared->ports[i].domid == domid)
            used[atomic_load(&shared->ports[i].port)] = true;
    for (i = 1; i < SIM_DOM_PORTS; i++)
        if (!used[i])
            return i;
    return 0;
}

static uint32_t slot_alloc(struct client *client)
{
    uint32_t number = number_alloc(client->domid), slot;
    struct sim_port *port;

    if (number == 0)
        return 0;
    for (slot = 1; slot < SIM_PORTS; slot++)
        if (shared->ports[slot].kind == SIM_PORT_FREE)
            break;
    if (slot == SIM_PORTS)
        return 0;
    port = &shared->ports[slot];
    atomic_store(&port->state, 0);
    atomic_store(&port->peer, 0);
    atomic_store(&port->port, number);
    atomic_store(&port->handle, client->handle);
    port->domid = client->domid;
    if (slot >= atomic_load(&shared->port_limit))
        atomic_store(&shared->port_limit, slot + 1);
    return slot;
}

int port_alloc(struct client *client, uint32_t remote_domid, struct sim_msg *msg)
{
    uint32_t slot = slot_alloc(client);

    if (slot == 0)
        return ENOSPC;
    shared->ports[slot].kind = SIM_PORT_UNBOUND;
    shared->ports[slot].remote_domid = remote_domid;
    msg->arg[0] = atomic_load(&shared->ports[slot].port);
    msg->arg[1] = slot;
    return 0;
}

/* Only a port that waits for exactly this domain can be bound, and only once. */
int port_bind(struct client *client, struct sim_msg *msg, int *ret_fd)
{
    uint32_t domid = msg->arg[0], remote = slot_find(domid, msg->arg[1]), slot;
    struct client *peer;

    if (!domain_find(domid))
        return ESRCH;
    if (remote == 0 || shared->ports[remote].kind != SIM_PORT_UNBOUND ||
        shared->ports[remote].remote_domid != client->domid)
        return EINVAL;
    slot = slot_alloc(client);
    if (slot == 0)
        return ENOSPC;
    shared->ports[slot].kind = SIM_PORT_INTERDOMAIN;
    shared->ports[slot].remote_domid = domid;
    shared->ports[remote].kind = SIM_PORT_INTERDOMAIN;
    atomic_store(&shared->ports[slot].peer, remote);
    atomic_store(&shared->ports[remote].peer, slot);
    /* What the other end sent before anyone listened must not be lost: pending from the start. */
    atomic_store(&shared->ports[slot].state, SIM_PORT_MASKED | SIM_PORT_RAISED);
    token_write(client->event_fd);
    msg->arg[0] = atomic_load(&shared->ports[slot].port);
    msg->arg[1] = slot;
    msg->arg[2] = atomic_load(&shared->ports[remote].handle);
    peer = client_of_handle(msg->arg[2]);
    *ret_fd = peer ? peer->event_fd : -1;
    return 0;
}

static void slot_close(uint32_t slot)
{
    struct sim_port *port = &shared->ports[slot];
    uint32_t peer = atomic_load(&port->peer);

    if (peer) {
        atomic_store(&shared->ports[peer].peer, 0);
        shared->ports[peer].kind = SIM_PORT_UNBOUND;
        shared->ports[peer].remote_domid = port->domid;
    }
    atomic_store(&port->peer, 0);
    atomic_store(&port->handle, 0);
    atomic_store(&port->state, 0);
    port->kind = SIM_PORT_FREE;
}

int port_close(struct client *client, uint32_t number)
{
    uint32_t slot = slot_find(client->domid, number);

    if (slot == 0 || atomic_load(&shared->ports[slot].handle) != client->handle)
        return ENOTCONN;
    slot_close(slot);
    return 0;
}

/* A client killed inside notify may have raised the peer without waking it: wake it now. */
static void notify_finish(uint32_t slot)
{
    uint32_t peer = atomic_load(&shared->ports[slot].peer);
    struct client *client;

    if (peer == 0 || !(atomic_load(&shared->ports[peer].state) & SIM_PORT_RAISED))
        return;
    client = client_of_handle(atomic_load(&shared->ports[peer].handle));
    if (client)
        token_write(client->event_fd);
}

void ports_of_client_close(struct client *client)
{
    uint32_t limit = atomic_load(&shared->port_limit), slot;

    for (slot = 1; slot < limit; slot++) {
        if (shared->ports[slot].kind == SIM_PORT_FREE ||
            atomic_load(&shared->ports[slot].handle) != client->handle)
            continue;
        notify_finish(slot);
        slot_close(slot);
    }
}

void ports_of_domain_close(uint32_t domid)
{
    uint32_t limit = atomic_load(&shared->port_limit), slot;

    for (slot = 1; slot < limit; slot++)
        if (shared->ports[slot].kind != SIM_PORT_FREE && shared->ports[slot].domid == domid)
            slot_close(slot);
}
