#include "gateway/nbdconn.h"

#include <errno.h>
#include <ev.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/limits.h"

enum { ABORT_STEPS = 1000 }; /* one is enough in practice; a bound on a loop over a library */

struct nbdconn {
    struct nbd_handle *nbd;
    struct ev_loop *loop;
    struct ev_io io;
    const struct nbdconn_handler *handler;
    void *arg;
    struct list done; /* completed, not yet handed out */
    uint32_t in_flight;
    uint64_t completions; /* ever: how on_io sees that a reply came */
    bool closing;         /* lost() will not run any more */
    bool dead;
    bool loss_told;
    char reason[LIMIT_REASON_BYTES];
};

static int on_complete(void *user_data, int *error)
{
    struct nbdcmd *cmd = user_data;
    struct nbdconn *conn = cmd->conn;

    cmd->error = -*error;
    conn->in_flight--;
    conn->completions++;
    list_append(&conn->done, &cmd->link);
    return 1; /* retired: its cookie is never asked for */
}

static void remember_reason(struct nbdconn *conn)
{
    const char *text = nbd_get_error();

    if (conn->reason[0] == '\0' && text)
        snprintf(conn->reason, sizeof conn->reason, "%s", text);
}

/* Quirk 2: to be called after every call that may have moved the handle. */
static void settle(struct nbdconn *conn)
{
    unsigned direction;
    int events = 0;

    if (conn->dead)
        return;
    if (nbd_aio_is_dead(conn->nbd) || nbd_aio_is_closed(conn->nbd)) {
        conn->dead = true;
        ev_io_stop(conn->loop, &conn->io);
        return;
    }
    direction = nbd_aio_get_direction(conn->nbd);
    if (direction & LIBNBD_AIO_DIRECTION_READ)
        events |= EV_READ;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        events |= EV_WRITE;
    if (events == (conn->io.events & (EV_READ | EV_WRITE)) && ev_is_active(&conn->io))
        return;
    ev_io_stop(conn->loop, &conn->io);
    ev_io_set(&conn->io, nbd_aio_get_fd(conn->nbd), events);
    if (events)
        ev_io_start(conn->loop, &conn->io);
}

static void notify_read(struct nbdconn *conn)
{
    if (nbd_aio_notify_read(conn->nbd) < 0)
        remember_reason(conn);
}

/* Quirk 3. */
static void unwedge(struct nbdconn *conn)
{
    if (nbd_aio_is_processing(conn->nbd) &&
        nbd_aio_get_direction(conn->nbd) == LIBNBD_AIO_DIRECTION_READ)
        notify_read(conn);
}

/* Reads replies as long as they come: one libnbd call reads at most one. */
static void read_replies(struct nbdconn *conn)
{
    uint64_t before;

    for (int i = 0; i < LIMIT_REPLIES_PER_TURN; i++) {
        before = conn->completions;
        notify_read(conn);
        unwedge(conn);
        if (conn->completions == before || conn->in_flight == 0 ||
            !(nbd_aio_get_direction(conn->nbd) & LIBNBD_AIO_DIRECTION_READ))
            return;
    }
}

static void on_io(struct ev_loop *loop, struct ev_io *io, int events)
{
    struct nbdconn *conn = io->data;
    unsigned direction = nbd_aio_get_direction(conn->nbd);

    (void)loop;
    /* Only one of the two: the first may change the state that the other was meant for. */
    if ((events & EV_READ) && (direction & LIBNBD_AIO_DIRECTION_READ))
        read_replies(conn);
    else if ((events & EV_WRITE) && (direction & LIBNBD_AIO_DIRECTION_WRITE) &&
             nbd_aio_notify_write(conn->nbd) < 0)
        remember_reason(conn);
    settle(conn);
    nbdconn_deliver(conn);
}

int nbdconn_create(struct ev_loop *loop, struct nbd_handle *nbd,
                   const struct nbdconn_handler *handler, void *arg, struct nbdconn **ret_conn)
{
    struct nbdconn *conn = calloc(1, sizeof *conn);

    if (!conn) {
        nbd_close(nbd);
        return -ENOMEM;
    }
    conn->nbd = nbd;
    conn->loop = loop;
    conn->handler = handler;
    conn->arg = arg;
    list_init(&conn->done);
    ev_io_init(&conn->io, on_io, nbd_aio_get_fd(nbd), 0);
    conn->io.data = conn;
    settle(conn);
    *ret_conn = conn;
    return 0;
}

/* What every command does before and after its libnbd call. */
static nbd_completion_callback begin(struct nbdconn *conn, struct nbdcmd *cmd)
{
    cmd->conn = conn;
    cmd->error = -EINPROGRESS;
    conn->in_flight++;
    return (nbd_completion_callback){.callback = on_complete, .user_data = cmd};
}

static int began(struct nbdconn *conn, int64_t cookie)
{
    int err = 0;

    if (cookie < 0) { /* not started: no callback came nor will */
        err = nbd_get_errno() ? -nbd_get_errno() : -EIO;
        remember_reason(conn);
        conn->in_flight--;
    } else if (!nbd_aio_is_dead(conn->nbd) && !nbd_aio_is_closed(conn->nbd)) {
        unwedge(conn);
    }
    settle(conn);
    /* The connection died of this very call: as if it had been dead before. */
    return err < 0 && conn->dead ? -ENOTCONN : err;
}

int nbdconn_read(struct nbdconn *conn, struct nbdcmd *cmd, void *buffer, uint32_t length_bytes,
                 uint64_t offset_bytes)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn,
                 nbd_aio_pread(conn->nbd, buffer, length_bytes, offset_bytes, begin(conn, cmd), 0));
}

int nbdconn_write(struct nbdconn *conn, struct nbdcmd *cmd, const void *buffer,
                  uint32_t length_bytes, uint64_t offset_bytes, bool fua)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn, nbd_aio_pwrite(conn->nbd, buffer, length_bytes, offset_bytes,
                                      begin(conn, cmd), fua ? LIBNBD_CMD_FLAG_FUA : 0));
}

int nbdconn_trim(struct nbdconn *conn, struct nbdcmd *cmd, uint32_t length_bytes,
                 uint64_t offset_bytes)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn, nbd_aio_trim(conn->nbd, length_bytes, offset_bytes, begin(conn, cmd), 0));
}

int nbdconn_flush(struct nbdconn *conn, struct nbdcmd *cmd)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn, nbd_aio_flush(conn->nbd, begin(conn, cmd), 0));
}

void nbdconn_deliver(struct nbdconn *conn)
{
    struct list *node;

    while ((node = list_pop(&conn->done)))
        conn->handler->completed(conn->arg, container_of(node, struct nbdcmd, link));
    if (conn->dead && !conn->loss_told && !conn->closing) {
        conn->loss_told = true;
        conn->handler->lost(conn->arg,
                            conn->reason[0] ? conn->reason : "the server closed the connection");
    }
}

uint32_t nbdconn_in_flight(const struct nbdconn *conn)
{
    return conn->in_flight;
}

/* Quirk 4: one uniform death. */
static void abort_connection(struct nbdconn *conn)
{
    for (int i = 0; i < ABORT_STEPS; i++) {
        if (nbd_aio_is_dead(conn->nbd) || nbd_aio_is_closed(conn->nbd))
            break;
        if (i == 0)
            shutdown(nbd_aio_get_fd(conn->nbd), SHUT_RDWR);
        if (nbd_aio_get_direction(conn->nbd) & LIBNBD_AIO_DIRECTION_READ)
            nbd_aio_notify_read(conn->nbd);
        else
            nbd_aio_notify_write(conn->nbd);
    }
}

void nbdconn_destroy(struct nbdconn *conn)
{
    if (!conn)
        return;
    conn->closing = true;
    ev_io_stop(conn->loop, &conn->io);
    if (conn->in_flight == 0 && nbd_aio_is_ready(conn->nbd))
        nbd_aio_disconnect(conn->nbd, 0);
    else
        abort_connection(conn);
    nbdconn_deliver(conn);
    nbd_close(conn->nbd);
    free(conn);
}
