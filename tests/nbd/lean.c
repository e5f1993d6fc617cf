/*
 * lean: an NBD server that spends as little as it can on a request, so that it bounds no benchmark:
 * correct, and nothing else. Servers that break the protocol or are late: evil.c, late.c.
 *
 *      lean --unix PATH | --tcp ADDRESS:PORT  --size BYTES [--null]
 *
 * Fixed newstyle, any export name, many clients over the same bytes, which need no more than one
 * flush (CAN_MULTI_CONN); simple replies; READ, WRITE, FLUSH, TRIM (zeroes), FUA. The bytes are
 * this process's memory. --null: there are none, reads bring zeroes and writes are forgotten.
 *
 * One thread serves all connections. It reads all requests that a socket holds by one call, and
 * answers them by one, straight from the memory. A handshake has a thread of its own, so that a
 * client that stalls in it stops nobody. What a client does wrong ends its connection, and no
 * other. It ends with its parent.
 *
 * 1. Replies are sent in the order of the requests: a reply of a read, which is taken from the
 *    memory when it is sent, is on its way before that of any later write.
 * 2. When replies[] is full, or the socket, nothing more is taken from this client until it reads.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wire.h"

enum {
    INPUT_BYTES = 1 << 16, /* some 4 KiB writes; of large ones most goes where it belongs */
    REPLIES_MAX = 512,     /* each is two parts of one sendmsg, which takes 1024 */
    EVENTS_MAX = 64,
    HANDSHAKE_SECONDS = 10,
};

struct reply {
    struct wire_reply head;
    const uint8_t *data;
    uint32_t data_bytes; /* 0 but for a read */
};

struct conn {
    int fd;
    bool over;       /* it sends nothing more, or nothing that counts */
    uint32_t waited; /* for these events */

    /* A write whose payload is arriving: the reply that it gets, and where the rest goes. */
    struct reply write;
    uint8_t *write_to;
    uint32_t write_left;

    uint32_t first, count; /* of replies[], which is a ring */
    size_t sent_bytes;     /* of the first one */
    size_t start, end;     /* of input */
    struct reply replies[REPLIES_MAX];
    uint8_t input[INPUT_BYTES];
};

static struct {
    uint64_t size_bytes;
    bool null;
    uint8_t *memory; /* of the export; null: WIRE_PAYLOAD_MAX zeroes */
    uint8_t *waste;  /* for what is not kept */
    int epoll;
} server;

static void die(const char *what)
{
    fprintf(stderr, "lean: unable to %s: %s\n", what, strerror(errno));
    exit(111);
}

/* -- requests --------------------------------------------------------------------------------- */
static void reply_add(struct conn *conn, struct reply reply)
{
    conn->replies[(conn->first + conn->count++) % REPLIES_MAX] = reply;
}

static bool in_bounds(uint64_t offset, uint32_t length)
{
    return offset <= server.size_bytes && length <= server.size_bytes - offset;
}

/* Takes what has arrived of the payload; the rest is received where it belongs. */
static void write_begin(struct conn *conn, struct reply reply, uint64_t offset, uint32_t length)
{
    size_t here = conn->end - conn->start;

    if (!in_bounds(offset, length))
        reply.head.error = htonl(ENOSPC);
    conn->write_to = server.null || reply.head.error != 0 ? server.waste : server.memory + offset;
    if (here > length)
        here = length;
    memcpy(conn->write_to, conn->input + conn->start, here);
    conn->start += here;
    conn->write = reply;
    conn->write_to += here;
    conn->write_left = length - (uint32_t)here;
    if (conn->write_left == 0)
        reply_add(conn, reply);
}

static void request_take(struct conn *conn, const struct wire_request *request)
{
    struct reply reply = {.head = {htonl(MAGIC_REPLY), 0, request->cookie}};
    uint64_t offset = be64toh(request->offset);
    uint32_t length = ntohl(request->length);
    uint16_t type = ntohs(request->type);

    if (request->magic != htonl(MAGIC_REQUEST) || type == CMD_DISC ||
        (type <= CMD_WRITE && length > WIRE_PAYLOAD_MAX)) {
        conn->over = true;
        return;
    }
    if (type == CMD_WRITE) {
        write_begin(conn, reply, offset, length);
        return;
    }
    if ((type != CMD_READ && type != CMD_TRIM && type != CMD_FLUSH) ||
        (type != CMD_FLUSH && !in_bounds(offset, length))) {
        reply.head.error = htonl(EINVAL);
    } else if (type == CMD_READ) {
        reply.data = server.null ? server.memory : server.memory + offset;
        reply.data_bytes = length;
    } else if (type == CMD_TRIM && !server.null) {
        memset(server.memory + offset, 0, length);
    }
    reply_add(conn, reply);
}

/* All that is whole in the input. False: there is none, or no room for its reply. */
static bool requests_take(struct conn *conn)
{
    struct wire_request request;
    bool any = false;

    while (!conn->over && conn->write_left == 0 && conn->count < REPLIES_MAX &&
           conn->end - conn->start >= sizeof request) {
        memcpy(&request, conn->input + conn->start, sizeof request);
        conn->start += sizeof request;
        request_take(conn, &request);
        any = true;
    }
    return any;
}

/* -- the socket ------------------------------------------------------------------------------- */
/* The rest of a payload goes where it belongs, and what is behind it into the input, which then
 * is empty. */
static void receive(struct conn *conn)
{
    size_t kept = conn->end - conn->start, got_bytes;
    struct iovec to[2] = {{conn->write_to, conn->write_left},
                          {conn->input + kept, INPUT_BYTES - kept}};
    ssize_t got;

    memmove(conn->input, conn->input + conn->start, kept);
    conn->start = 0;
    conn->end = kept;
    got = conn->write_left > 0 ? readv(conn->fd, to, 2)
                               : recv(conn->fd, to[1].iov_base, to[1].iov_len, 0);
    if (got <= 0) {
        conn->over = got == 0 || (errno != EAGAIN && errno != EINTR);
        return;
    }
    got_bytes = (size_t)got;
    if (conn->write_left > 0) {
        size_t here = got_bytes < conn->write_left ? got_bytes : conn->write_left;

        conn->write_to += here;
        conn->write_left -= (uint32_t)here;
        got_bytes -= here;
        if (conn->write_left == 0)
            reply_add(conn, conn->write);
    }
    conn->end += got_bytes;
}

/* Parts of replies from the first unsent byte on. */
static unsigned parts_gather(struct conn *conn, struct iovec *parts)
{
    size_t skip = conn->sent_bytes;
    unsigned count = 0;

    for (uint32_t i = 0; i < conn->count; i++) {
        struct reply *reply = &conn->replies[(conn->first + i) % REPLIES_MAX];
        size_t head = sizeof reply->head;

        if (skip < head)
            parts[count++] = (struct iovec){(uint8_t *)&reply->head + skip, head - skip};
        skip = skip < head ? 0 : skip - head;
        if (reply->data_bytes > 0)
            parts[count++] =
                (struct iovec){(uint8_t *)(uintptr_t)reply->data + skip, reply->data_bytes - skip};
        skip = 0;
    }
    return count;
}

static void sent(struct conn *conn, size_t bytes)
{
    conn->sent_bytes += bytes;
    while (conn->count > 0) {
        size_t whole = sizeof(struct wire_reply) + conn->replies[conn->first].data_bytes;

        if (conn->sent_bytes < whole)
            return;
        conn->sent_bytes -= whole;
        conn->first = (conn->first + 1) % REPLIES_MAX;
        conn->count--;
    }
}

/* False: the connection is gone. Replies that stay did not fit into the socket. */
static bool replies_send(struct conn *conn)
{
    struct iovec parts[2 * REPLIES_MAX];
    struct msghdr message = {.msg_iov = parts};
    ssize_t bytes;

    if (conn->count == 0)
        return true;
    message.msg_iovlen = parts_gather(conn, parts);
    bytes = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
    if (bytes < 0)
        return errno == EAGAIN || errno == EINTR;
    sent(conn, (size_t)bytes);
    return true;
}

static void conn_end(struct conn *conn)
{
    close(conn->fd);
    free(conn);
}

static void conn_wait(struct conn *conn)
{
    bool reads = !conn->over && conn->count < REPLIES_MAX;
    struct epoll_event event = {.events = (reads ? EPOLLIN : 0u) | (conn->count ? EPOLLOUT : 0u),
                                .data.ptr = conn};

    if (event.events == conn->waited)
        return;
    conn->waited = event.events;
    if (epoll_ctl(server.epoll, EPOLL_CTL_MOD, conn->fd, &event) < 0)
        die("wait for a connection");
}

static void conn_serve(struct conn *conn, uint32_t events)
{
    bool again;

    if ((conn->waited & EPOLLIN) && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        receive(conn);
    do {
        again = requests_take(conn);
        if (!replies_send(conn)) {
            conn_end(conn);
            return;
        }
    } while (again && conn->count == 0);
    if (conn->over && conn->count == 0)
        conn_end(conn);
    else
        conn_wait(conn);
}

/* -- connections ------------------------------------------------------------------------------ */
static void *handshake(void *arg)
{
    const struct wire_export export = {
        .size_bytes = server.size_bytes,
        .flags = EXPORT_HAS_FLAGS | EXPORT_FLUSH | EXPORT_FUA | EXPORT_TRIM | EXPORT_MULTI_CONN,
    };
    struct timeval patience = {.tv_sec = HANDSHAKE_SECONDS};
    int fd = (int)(intptr_t)arg;
    struct epoll_event event = {.events = EPOLLIN};
    struct conn *conn = NULL;
    bool structured;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (wire_handshake(fd, &export, &structured))
        conn = malloc(sizeof(*conn));
    if (!conn) {
        close(fd);
        return NULL;
    }
    memset(conn, 0, offsetof(struct conn, replies));
    conn->fd = fd;
    conn->waited = EPOLLIN;
    event.data.ptr = conn;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        conn_end(conn);
    return NULL;
}

static void conn_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    pthread_t thread;

    if (fd < 0)
        return;
    if (pthread_create(&thread, NULL, handshake, (void *)(intptr_t)fd) != 0)
        close(fd);
    else
        pthread_detach(thread);
}

static _Noreturn void serve(int listener)
{
    struct epoll_event events[EVENTS_MAX], event = {.events = EPOLLIN, .data.ptr = NULL};

    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server.epoll < 0 || epoll_ctl(server.epoll, EPOLL_CTL_ADD, listener, &event) < 0)
        die("wait for connections");
    for (;;) {
        int count = epoll_wait(server.epoll, events, EVENTS_MAX, -1);

        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                conn_serve(events[i].data.ptr, events[i].events);
            else
                conn_accept(listener);
        }
    }
}

/* -- arguments -------------------------------------------------------------------------------- */
static _Noreturn void usage(void)
{
    fprintf(stderr, "usage: lean --unix PATH | --tcp ADDRESS:PORT --size BYTES [--null]\n");
    exit(100);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*end || end == text)
        usage();
    return value;
}

static int listen_tcp(char *text)
{
    char *colon = strrchr(text, ':');

    if (!colon)
        usage();
    *colon = '\0';
    return wire_listen_tcp(text, (uint16_t)number(colon + 1));
}

/* Zeroes that are there: the first use of a page costs nothing later. */
static uint8_t *memory(uint64_t bytes)
{
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED)
        die("allocate");
    return p;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"unix", required_argument, NULL, 'u'},
        {"tcp", required_argument, NULL, 't'},
        {"size", required_argument, NULL, 's'},
        {"null", no_argument, NULL, 'n'},
        {NULL, 0, NULL, 0},
    };
    char *unix_path = NULL, *tcp = NULL;
    int letter;

    while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (letter) {
        case 'u': unix_path = optarg; break;
        case 't': tcp = optarg; break;
        case 's': server.size_bytes = number(optarg); break;
        case 'n': server.null = true; break;
        default: usage();
        }
    }
    if (optind < argc || !unix_path == !tcp || server.size_bytes == 0)
        usage();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    server.memory = memory(server.null ? WIRE_PAYLOAD_MAX : server.size_bytes);
    server.waste = memory(WIRE_PAYLOAD_MAX);
    serve(unix_path ? wire_listen_unix(unix_path) : listen_tcp(tcp));
}
