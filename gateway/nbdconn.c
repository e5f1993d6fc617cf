#include "gateway/nbdconn.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/limits.h"

enum {
    ABORT_STEPS = 1000,    /* one is enough in practice; a bound on a loop over a library */
    LONG_BYTES = 64 << 10, /* more than a socket holds of a reply when its first part arrives */
    CORKED_FROM = 3,       /* a cork is two system calls: so many packets it must save */
};

struct nbdconn {
    struct nbd_handle *nbd;
    struct ev_loop *loop;
    int fd; /* of the same socket as libnbd's own, and outlives that; the one the loop watches */
    struct ev_io io;
    const struct nbdconn_handler *handler;
    void *arg;
    struct list begun; /* in flight, oldest first */
    struct list done;  /* completed, not yet handed out */
    uint32_t in_flight;
    bool is_tcp;
    bool corked;
    uint32_t batch;       /* commands started since the last deliver */
    uint64_t completions; /* ever: how on_io sees that a reply came */
    uint64_t reply_bytes; /* ever */
    bool closing;         /* lost() will not run any more */
    bool dead;
    bool loss_told;
    char reason[LIMIT_REASON_BYTES];
};

static atomic_int dead_socket =
    -1; /* its other end is closed; the whole program's, and to its end */

static int on_complete(void *user_data, int *error)
{
    struct nbdcmd *cmd = user_data;
    struct nbdconn *conn = cmd->conn;

    cmd->error = -*error;
    conn->in_flight--;
    conn->completions++;
    conn->reply_bytes += (cmd->kind == NBDCMD_READ ? cmd->length_bytes : 0);
    list_remove(&cmd->link);
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
    ev_io_set(&conn->io, conn->fd, events);
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

/* Is a long reply expected? It comes in pieces, as the server gets room for them in the socket. */
static bool reply_is_long(const struct nbdconn *conn)
{
    const struct nbdcmd *oldest = nbdconn_oldest(conn);

    return oldest && oldest->kind == NBDCMD_READ && oldest->length_bytes >= LONG_BYTES;
}

/* Reads replies as long as they come, and it is this connection's turn: one libnbd call reads at
 * most one. The next piece of a long one, which is there by the time the last is copied, too: by
 * way of the loop each would cost an epoll_wait more. */
static void read_replies(struct nbdconn *conn)
{
    const uint64_t enough_bytes = conn->reply_bytes + LIMIT_ROUND_BYTES;
    int pieces = LIMIT_PIECES_PER_TURN;

    for (int i = 0; i < LIMIT_REPLIES_PER_TURN && conn->reply_bytes < enough_bytes; i++) {
        uint64_t before = conn->completions;

        notify_read(conn);
        unwedge(conn);
        if (conn->in_flight == 0 || !(nbd_aio_get_direction(conn->nbd) & LIBNBD_AIO_DIRECTION_READ))
            return;
        if (conn->completions == before && (!reply_is_long(conn) || pieces-- == 0))
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

/* A dead peer must not look like a slow one for ever; libnbd sets none of these. */
static bool keep_alive(int fd, unsigned unacknowledged_ms)
{
    const int on = 1, idle_s = 10, interval_s = 5, count = 3;

    /* On unix sockets, which need none of them, these fail. */
    if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s) < 0)
        return false;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms,
                     sizeof unacknowledged_ms);
    return true;
}

/* libnbd sends each command as it is started: a packet each, and on a busy machine a wakeup of the
 * server each. From the third of a batch on they leave together, at the deliver that ends it. */
static void cork(struct nbdconn *conn, bool on)
{
    const int value = on;

    conn->corked = on;
    (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_CORK, &value, sizeof value);
}

static void batch_add(struct nbdconn *conn)
{
    if (++conn->batch == CORKED_FROM && conn->is_tcp)
        cork(conn, true);
}

static void batch_end(struct nbdconn *conn)
{
    conn->batch = 0;
    if (conn->corked)
        cork(conn, false);
}

int nbdconn_prepare(void)
{
    int pair[2], none = -1;

    if (atomic_load(&dead_socket) >= 0)
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    close(pair[1]);
    if (!atomic_compare_exchange_strong(&dead_socket, &none, pair[0]))
        close(pair[0]); /* another thread was faster */
    return 0;
}

int nbdconn_create(struct ev_loop *loop, struct nbd_handle *nbd, unsigned unacknowledged_ms,
                   const struct nbdconn_handler *handler, void *arg, struct nbdconn **ret_conn)
{
    struct nbdconn *conn = calloc(1, sizeof *conn);
    int err = -ENOMEM;

    if (!conn)
        goto fail;
    err = nbdconn_prepare();
    if (err < 0)
        goto fail;
    conn->fd = fcntl(nbd_aio_get_fd(nbd), F_DUPFD_CLOEXEC, 0);
    if (conn->fd < 0) {
        err = -errno;
        goto fail;
    }
    conn->is_tcp = keep_alive(conn->fd, unacknowledged_ms);
    conn->nbd = nbd;
    conn->loop = loop;
    conn->handler = handler;
    conn->arg = arg;
    list_init(&conn->begun);
    list_init(&conn->done);
    ev_io_init(&conn->io, on_io, conn->fd, 0);
    conn->io.data = conn;
    settle(conn);
    *ret_conn = conn;
    return 0;
fail:
    free(conn);
    nbd_close(nbd);
    return err;
}

/* What every command does before and after its libnbd call. */
static nbd_completion_callback begin(struct nbdconn *conn, struct nbdcmd *cmd,
                                     enum nbdcmd_kind kind, uint32_t length_bytes,
                                     uint64_t offset_bytes)
{
    cmd->conn = conn;
    cmd->kind = kind;
    cmd->length_bytes = length_bytes;
    cmd->offset_bytes = offset_bytes;
    cmd->error = -EINPROGRESS;
    cmd->begun = ev_now(conn->loop);
    list_append(&conn->begun, &cmd->link);
    conn->in_flight++;
    batch_add(conn);
    return (nbd_completion_callback){.callback = on_complete, .user_data = cmd};
}

static int began(struct nbdconn *conn, struct nbdcmd *cmd, int64_t cookie)
{
    int err = 0;

    if (cookie < 0) { /* not started: no callback came nor will */
        err = nbd_get_errno() ? -nbd_get_errno() : -EIO;
        remember_reason(conn);
        list_remove(&cmd->link);
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
    return began(conn, cmd,
                 nbd_aio_pread(conn->nbd, buffer, length_bytes, offset_bytes,
                               begin(conn, cmd, NBDCMD_READ, length_bytes, offset_bytes), 0));
}

int nbdconn_write(struct nbdconn *conn, struct nbdcmd *cmd, const void *buffer,
                  uint32_t length_bytes, uint64_t offset_bytes, bool fua)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn, cmd,
                 nbd_aio_pwrite(conn->nbd, buffer, length_bytes, offset_bytes,
                                begin(conn, cmd, NBDCMD_WRITE, length_bytes, offset_bytes),
                                fua ? LIBNBD_CMD_FLAG_FUA : 0));
}

int nbdconn_trim(struct nbdconn *conn, struct nbdcmd *cmd, uint32_t length_bytes,
                 uint64_t offset_bytes)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn, cmd,
                 nbd_aio_trim(conn->nbd, length_bytes, offset_bytes,
                              begin(conn, cmd, NBDCMD_TRIM, length_bytes, offset_bytes), 0));
}

int nbdconn_flush(struct nbdconn *conn, struct nbdcmd *cmd)
{
    if (conn->dead)
        return -ENOTCONN;
    return began(conn, cmd, nbd_aio_flush(conn->nbd, begin(conn, cmd, NBDCMD_FLUSH, 0, 0), 0));
}

void nbdconn_deliver(struct nbdconn *conn)
{
    struct list *node;

    while ((node = list_pop(&conn->done)))
        conn->handler->completed(conn->arg, container_of(node, struct nbdcmd, link));
    batch_end(conn);
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

const struct nbdcmd *nbdconn_oldest(const struct nbdconn *conn)
{
    return list_empty(&conn->begun) ? NULL
                                    : container_of(conn->begun.next, const struct nbdcmd, link);
}

/* Puts the dead socket in the place of libnbd's: that needs no descriptor that is not there. */
static void cut_off(struct nbdconn *conn)
{
    dup3(atomic_load(&dead_socket), nbd_aio_get_fd(conn->nbd), O_CLOEXEC);
}

/* Quirk 4: one uniform death. */
static void drive_to_death(struct nbdconn *conn)
{
    for (int i = 0; i < ABORT_STEPS; i++) {
        if (nbd_aio_is_dead(conn->nbd) || nbd_aio_is_closed(conn->nbd))
            break;
        if (i == 0)
            cut_off(conn);
        if (nbd_aio_get_direction(conn->nbd) & LIBNBD_AIO_DIRECTION_READ)
            nbd_aio_notify_read(conn->nbd);
        else
            nbd_aio_notify_write(conn->nbd);
    }
}

int nbdconn_park(struct nbdconn *conn)
{
    int fd = conn->fd;

    conn->closing = true;
    ev_io_stop(conn->loop, &conn->io);
    drive_to_death(conn);
    nbdconn_deliver(conn);
    nbd_close(conn->nbd);
    free(conn);
    return fd;
}

void nbdconn_destroy(struct nbdconn *conn)
{
    if (!conn)
        return;
    if (conn->in_flight == 0 && nbd_aio_is_ready(conn->nbd))
        nbd_aio_disconnect(conn->nbd, 0);
    close(nbdconn_park(conn));
}
