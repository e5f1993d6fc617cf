/* A client's side of simxen: one connection is one open handle of a Xen driver.
 *
 * Linked into both stand-ins, the guest library and the tools. Every function may be called by
 * any thread. Nothing here aborts the process: errors are errno values, as from the drivers.
 */
#ifndef SIMCLIENT_H
#define SIMCLIENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include "simproto.h"

struct sim_domain {
    uint32_t generation;
    uint32_t pages;
    uint8_t *memory;
    _Atomic uint64_t *grants;
    int memory_fd;
    struct sim_domain *next; /* the same domid's last life, kept for those still inside */
};

struct sim_conn {
    int fd;
    int event_fd; /* EFD_SEMAPHORE, one token for each raised port; -1 for grant handles */
    uint32_t handle;
    uint32_t domid;
    struct sim_shared *shared;
    pthread_mutex_t lock; /* of the socket: one request and its reply at a time */
};

/* The connection to $BLKGATE_SIM/xen.sock, or NULL and errno. */
struct sim_conn *sim_connect(enum sim_kind kind, uint32_t domid);
void sim_disconnect(struct sim_conn *conn);

/* Sends msg and overwrites it with the reply. Returns 0 or an errno. Up to nr_fds descriptors of
 * the reply are stored, -1 where there was none. */
int sim_call(struct sim_conn *conn, struct sim_msg *msg, int *ret_fds, unsigned nr_fds);

/* A domain's memory and grant table mapped here, or NULL if there is no such domain (any more). */
struct sim_domain *sim_domain_find(struct sim_conn *conn, uint32_t domid);

/* Events. Each makes one system call, but for the first notification to an unknown handle. */
void sim_raise_peer(struct sim_conn *conn, uint32_t slot);
int sim_event_next(struct sim_conn *conn, uint32_t *ret_port);
bool sim_event_unmask(struct sim_conn *conn, uint32_t slot); /* true: the next had come already */
void sim_handle_learn(struct sim_conn *conn, uint32_t handle, int event_fd);

/* A system call that does nothing, where the real driver would have entered the kernel. */
void sim_one_syscall(void);

static inline void sim_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
