/*
 * nbdconn: one libnbd handle on a worker's loop. Every quirk of libnbd 1.14 .. 1.22 lives here:
 *
 *  1. Completion callbacks can run inside any libnbd call, under the handle's mutex (calling the
 *     handle from one deadlocks). So they only queue; nbdconn_deliver hands them out afterwards.
 *  2. After each call that can move the state machine, direction and liveness are looked at anew;
 *     a dead handle has already closed its fd, so the watcher stops at once.
 *  3. notify_read on an idle handle with nothing to read leaves it in a state in which new commands
 *     are queued and never sent; a second notify_read heals it.
 *  4. nbd_close does not complete what is in flight (before 1.18): the handle is first driven to
 *     its death, which completes everything with ENOTCONN. Not by shutting its socket down: what
 *     the server still does can only be seen on a socket that is open (see parked.h). So we hold a
 *     second descriptor of it, and put a dead socket in the place of libnbd's own; one dead socket
 *     for all, made in advance, as there may be no descriptor left when it is needed.
 *  5. A server's error value is per command; a socket's error is only in nbd_get_error, at once,
 *     on the same thread.
 *  6. Auto-retired callbacks skip libnbd's own check for short reads with structured replies:
 *     resolve asked for simple ones, which cannot be short.
 *
 * Each command completes exactly once, with 0, the server's error, or -ENOTCONN when the connection
 * went (with the server having done it, or doing it later, or not). lost() runs once, after the
 * last completion. Neither runs from within a call that starts a command: both only from
 * nbdconn_deliver, which the loop's watcher and the owner call. A command's buffer belongs to
 * libnbd until its completion.
 */
#ifndef BLKGATE_GATEWAY_NBDCONN_H
#define BLKGATE_GATEWAY_NBDCONN_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/list.h"

struct ev_loop;
struct nbd_handle;
struct nbdconn;

enum nbdcmd_kind {
    NBDCMD_READ,
    NBDCMD_WRITE,
    NBDCMD_TRIM,
    NBDCMD_FLUSH, /* has no range */
};

/* Embedded in what is waiting for it; the caller's until it is started. */
struct nbdcmd {
    struct list link; /* private: among those in flight, oldest first, then among those completed */
    struct nbdconn *conn;
    double begun; /* the loop's time when it was started */
    uint64_t offset_bytes;
    uint32_t length_bytes;
    enum nbdcmd_kind kind;
    int error; /* at completion: 0 or -errno */
};

struct nbdconn_handler {
    void (*completed)(void *arg, struct nbdcmd *cmd);
    void (*lost)(void *arg, const char *reason);
};

/* Makes what all connections share, if it is not there: by whoever wants to know at the start that
 * there was a descriptor for it. -errno: there was not. Any thread. */
int nbdconn_prepare(void);

/* Takes over a READY handle (also on failure, when it is closed). A TCP connection is lost when
 * nothing of what was sent is acknowledged for so long; to TCP that is also a peer that
 * acknowledges that it has no room (tcp(7), TCP_USER_TIMEOUT), as one does that is stopped or slow.
 */
int nbdconn_create(struct ev_loop *loop, struct nbd_handle *nbd, unsigned unacknowledged_ms,
                   const struct nbdconn_handler *handler, void *arg, struct nbdconn **ret_conn);

/* -errno: the command was not started and will not complete. */
int nbdconn_read(struct nbdconn *conn, struct nbdcmd *cmd, void *buffer, uint32_t length_bytes,
                 uint64_t offset_bytes);
int nbdconn_write(struct nbdconn *conn, struct nbdcmd *cmd, const void *buffer,
                  uint32_t length_bytes, uint64_t offset_bytes, bool fua);
int nbdconn_trim(struct nbdconn *conn, struct nbdcmd *cmd, uint32_t length_bytes,
                 uint64_t offset_bytes);
int nbdconn_flush(struct nbdconn *conn, struct nbdcmd *cmd);

/* Hands out completions and the loss, if any, and sends off what was started: to be called after
 * it. At any time but from a handler. */
void nbdconn_deliver(struct nbdconn *conn);

uint32_t nbdconn_in_flight(const struct nbdconn *conn);

/* The oldest command in flight; NULL: there is none. */
const struct nbdcmd *nbdconn_oldest(const struct nbdconn *conn);

/*
 * Ends the connection as far as we are concerned: what is in flight completes with -ENOTCONN before
 * it returns, lost() does not run. Its socket, which is still open both ways, is the caller's.
 */
int nbdconn_park(struct nbdconn *conn);

/* As nbdconn_park, but closes the socket. With nothing in flight the server is told first
 * (NBD_CMD_DISC). */
void nbdconn_destroy(struct nbdconn *conn); /* NULL is fine */

#endif
