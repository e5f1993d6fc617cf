/*
 * parked: what is left of a lost session with a server: sockets over which commands were sent that
 * were never answered, and the question when the last of them can no longer be executed (law 9).
 *
 * No act of a client stops a command that has reached the server's socket: it is executed after a
 * FIN and after a RST, and by qemu-nbd up to seconds after the server closed its own end. What can
 * be known is this: a socket that was closed for writing and is then read to its end says that the
 * server has let go of it. Until then, it may still execute anything (a stopped process, say). Then
 * it may for `fence-time` longer, or not at all if the disk's configuration says `drains = yes`: of
 * nbdkit and nbd-server it is known that they close a connection when its last command is done.
 * That is the server's word. A connection that was broken (reset, or its host not heard of for too
 * long) is at its end, too, but then `drains` says nothing.
 * An operator's `fence =` program that succeeds ends it at once; one that fails is run again.
 *
 *      WAITING --all sockets at their end--> COUNTING --fence-time--> over
 *         \___________ fence program succeeded __/____________________^
 *
 * The embedding struct's memory is the caller's. `over` runs once, from the loop, never from within
 * a call here; after it the parked is free again.
 */
#ifndef BLKGATE_GATEWAY_PARKED_H
#define BLKGATE_GATEWAY_PARKED_H

#include <ev.h>
#include <stdbool.h>

#include "gateway/disklink.h"
#include "gateway/fence.h"
#include "proto/limits.h"

struct mailbox;
struct parked;

struct parked_place {
    struct ev_loop *loop;
    struct mailbox *mailbox;
    const struct disklink_spec *spec;
    void (*over)(void *arg, struct parked *parked);
    void *arg;
};

struct parked_socket {
    struct ev_io io;
    struct parked *parked;
    int fd; /* -1: at its end */
};

/* All fields are private but `used`. */
struct parked {
    bool used;
    const struct parked_place *place;
    struct parked_socket sockets[LIMIT_CONNECTIONS];
    bool crashed; /* no sockets: what an earlier life of ours had sent */
    unsigned open;
    bool reset;    /* one of them did not end in good order */
    unsigned path; /* the server's, among the disk's; for the fence program */
    char endpoints[FENCE_ENDPOINTS_BYTES]; /* ours, of all; the sockets end one by one */
    struct ev_timer timer;
    struct ev_timer fence_timer; /* until a fence program that failed is run again */
    struct fence *fence;
};

/* Takes the sockets over (none: after a crash of ours, which closed them). Cannot fail. */
void parked_start(struct parked *parked, const struct parked_place *place, unsigned path,
                  const int *sockets, unsigned count);

/* Closes what is open; `over` does not run any more. Fine if it is not used. */
void parked_drop(struct parked *parked);

#endif
