#include "gateway/parked.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/config.h"
#include "gateway/fence.h"
#include "gateway/log.h"

enum {
    READ_BYTES = 64 << 10,
    READS_PER_TURN = 16, /* before others on this loop get their turn */
};

static void finish(struct parked *parked)
{
    if (parked->fence)
        log_info(parked->place->spec->name,
                 "the lost server can write no more: the fence program is not waited for");
    parked_drop(parked);
    parked->place->over(parked->place->arg, parked);
}

static void on_time(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    finish(timer->data);
}

/* No socket is left: from now on it counts how long a server may go on without one. From now, and
 * not from when this turn of the loop began, which may be a while ago. */
static void start_counting(struct parked *parked, uint32_t fence_time_ms)
{
    ev_now_update(parked->place->loop);
    ev_timer_set(&parked->timer, fence_time_ms / 1000., 0.);
    ev_timer_start(parked->place->loop, &parked->timer);
}

static void socket_ended(struct parked_socket *sock, bool reset)
{
    struct parked *parked = sock->parked;
    const struct config_disk *config = parked->place->spec->config;

    ev_io_stop(parked->place->loop, &sock->io);
    close(sock->fd);
    sock->fd = -1;
    parked->reset |= reset;
    if (--parked->open == 0)
        start_counting(parked, config->drains && !parked->reset ? 0 : config->fence_time_ms);
}

static bool is_unix(int fd)
{
    int domain = 0;
    socklen_t bytes = sizeof domain;

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 && domain == AF_UNIX;
}

/* Replies nobody waits for: read, so that the server gets rid of them and comes to its end. */
static void on_socket(struct ev_loop *loop, struct ev_io *io, int events)
{
    static _Thread_local char sink[READ_BYTES];
    struct parked_socket *sock = io->data;
    ssize_t got = 1;

    (void)loop;
    (void)events;
    for (int i = 0; got > 0 && i < READS_PER_TURN; i++)
        got = recv(sock->fd, sink, sizeof sink, MSG_DONTWAIT);
    /* Only the server itself can end a unix socket; a TCP connection, others can reset. */
    if (got == 0)
        socket_ended(sock, false);
    else if (got < 0 && errno != EAGAIN && errno != EINTR)
        socket_ended(sock, !is_unix(sock->fd));
}

static void start_fence(struct parked *parked);

static void on_fence_time(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    start_fence(timer->data);
}

/* A hook that failed may succeed later: who is to be fenced may have been out of reach, too. */
static void fence_again(struct parked *parked, const char *reason)
{
    log_warning(parked->place->spec->name,
                "the fence program failed (%s) and is tried again; writes to sectors that the lost "
                "server may still write to wait",
                reason);
    ev_timer_set(&parked->fence_timer, LIMIT_FENCE_RETRY_MS / 1000., 0.);
    ev_timer_start(parked->place->loop, &parked->fence_timer);
}

static void on_fenced(void *arg)
{
    struct parked *parked = arg;
    char reason[LIMIT_REASON_BYTES];
    int err = fence_finish(parked->fence, reason, sizeof reason);

    parked->fence = NULL;
    if (err < 0) {
        fence_again(parked, reason);
        return;
    }
    log_info(parked->place->spec->name, "the lost server was fenced");
    finish(parked);
}

static void start_fence(struct parked *parked)
{
    const struct disklink_spec *spec = parked->place->spec;
    int err;

    /* After a crash nobody knows which of several servers it was. */
    if (!spec->config->fence || (parked->crashed && spec->config->export_count > 1))
        return;
    err = fence_start(spec->config, parked->path, parked->endpoints, parked->place->mailbox,
                      on_fenced, parked, &parked->fence);
    if (err < 0)
        fence_again(parked, strerror(-err));
}

/* Did it end, and not by a word of the server's? Who read that error has taken it: the socket says
 * nothing of it any more, and reads as one that was closed. After the server's word, and before
 * ours, it is in CLOSE_WAIT. */
static bool is_broken(int fd)
{
    struct tcp_info info = {0};
    socklen_t bytes = sizeof info;

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0 &&
           info.tcpi_state == TCP_CLOSE;
}

/* From now on a server without room (it is stopped, say) is waited for as long as its host says so:
 * it has everything yet. */
static void be_patient(int fd)
{
    const unsigned no_timeout = 0;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &no_timeout, sizeof no_timeout);
}

void parked_start(struct parked *parked, const struct parked_place *place, unsigned path,
                  const int *sockets, unsigned count)
{
    *parked = (struct parked){
        .used = true, .place = place, .open = count, .path = path, .crashed = count == 0};
    ev_timer_init(&parked->timer, on_time, 0., 0.);
    ev_timer_init(&parked->fence_timer, on_fence_time, 0., 0.);
    parked->timer.data = parked->fence_timer.data = parked;
    for (unsigned i = 0; i < LIMIT_CONNECTIONS; i++) {
        struct parked_socket *sock = &parked->sockets[i];

        sock->parked = parked;
        sock->fd = i < count ? sockets[i] : -1;
        ev_io_init(&sock->io, on_socket, sock->fd, EV_READ);
        sock->io.data = sock;
        if (sock->fd < 0)
            continue;
        parked->reset |= is_broken(sock->fd);
        be_patient(sock->fd);
        shutdown(sock->fd, SHUT_WR);
        ev_io_start(place->loop, &sock->io);
    }
    fence_endpoints(sockets, count, parked->endpoints);
    /* Without sockets nobody saw their end, and `drains` says nothing. */
    if (count == 0)
        start_counting(parked, place->spec->config->fence_time_ms);
    start_fence(parked);
}

void parked_drop(struct parked *parked)
{
    if (!parked->used)
        return;
    for (unsigned i = 0; i < LIMIT_CONNECTIONS; i++) {
        if (parked->sockets[i].fd < 0)
            continue;
        ev_io_stop(parked->place->loop, &parked->sockets[i].io);
        close(parked->sockets[i].fd);
        parked->sockets[i].fd = -1;
    }
    ev_timer_stop(parked->place->loop, &parked->timer);
    ev_timer_stop(parked->place->loop, &parked->fence_timer);
    fence_cancel(parked->fence);
    parked->fence = NULL;
    parked->used = false;
}
