/* A server: simple replies, one client, no memory. What a read brings is known from its place,
 * and what a write brings is looked at and forgotten. */
#include "lockstep.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "wire.h"

enum {
    SOCKET_BYTES = 64 << 20,        /* more than can be under way: nothing comes in parts */
    DESCRIPTORS = 1024,             /* more than are open */
    ROOM_BYTES = 2 * SOCKET_BYTES,  /* for what has come and is not a whole command yet */
    REPLY_BYTES = WIRE_PAYLOAD_MAX, /* the longest */
};

struct server {
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    pthread_t greeter;
    int listener, fd;
    uint8_t *in, *out;
    size_t in_bytes;
    bool holds_flushes, holds_one;
    struct wire_request held;
    uint64_t commands, bytes;
};

static uint64_t word_at(uint64_t at_bytes)
{
    return (at_bytes + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

void bytes_fill(void *to, uint64_t at_bytes, size_t bytes)
{
    uint64_t *word = to;

    for (size_t i = 0; i < bytes / sizeof *word; i++)
        word[i] = word_at(at_bytes + i * sizeof *word);
}

bool bytes_hold(const void *from, uint64_t at_bytes, size_t bytes)
{
    uint64_t word;

    for (size_t i = 0; i < bytes / sizeof word; i++) {
        memcpy(&word, (const uint8_t *)from + i * sizeof word, sizeof word);
        if (word != word_at(at_bytes + i * sizeof word))
            return false;
    }
    return true;
}

static void *greet(void *arg)
{
    const struct wire_export export = {
        .size_bytes = LOCKSTEP_EXPORT_BYTES,
        .flags = EXPORT_HAS_FLAGS | EXPORT_FLUSH | EXPORT_FUA | EXPORT_TRIM,
    };
    struct server *server = arg;
    bool structured;

    server->fd = accept(server->listener, NULL, NULL);
    if (server->fd < 0 || !wire_handshake(server->fd, &export, &structured) || structured)
        lockstep_fail("the handshake with the daemon's client failed");
    return NULL;
}

struct server *server_start(const char *path)
{
    struct server *server = calloc(1, sizeof *server);

    if (!server)
        lockstep_fail("no memory for the server");
    strncpy(server->path, path, sizeof server->path - 1);
    server->listener = wire_listen_unix(path);
    server->in = malloc(ROOM_BYTES);
    server->out = calloc(1, REPLY_BYTES);
    if (!server->in || !server->out || pthread_create(&server->greeter, NULL, greet, server))
        lockstep_fail("no memory for the server");
    return server;
}

/* On a unix socket the sender's buffer is what holds the bytes. */
static void room_make(int fd)
{
    const int bytes = SOCKET_BYTES;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
        lockstep_fail("the size of a socket's buffer cannot be set: %s (run as root)",
                      strerror(errno));
}

/* The client's end of the connection is in this process, too. */
static bool is_client(const struct server *server, int fd)
{
    struct sockaddr_un peer = {0};
    socklen_t bytes = sizeof peer;

    return getpeername(fd, (struct sockaddr *)&peer, &bytes) == 0 && peer.sun_family == AF_UNIX &&
           strncmp(peer.sun_path, server->path, sizeof peer.sun_path) == 0;
}

void server_ready(struct server *server)
{
    unsigned clients = 0;

    pthread_join(server->greeter, NULL);
    room_make(server->fd);
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (!is_client(server, fd))
            continue;
        room_make(fd);
        clients++;
    }
    if (clients == 0)
        lockstep_fail("the client's socket was not found");
}

/* Whatever has come. */
static void receive(struct server *server)
{
    ssize_t got;

    do {
        got = recv(server->fd, server->in + server->in_bytes, ROOM_BYTES - server->in_bytes,
                   MSG_DONTWAIT);
        if (got == 0)
            lockstep_fail("the daemon's client hung up");
        if (got > 0)
            server->in_bytes += (size_t)got;
    } while (got > 0);
}

static void reply(struct server *server, const struct wire_request *request, size_t data_bytes)
{
    struct wire_reply head = {.magic = htonl(MAGIC_REPLY), .cookie = request->cookie};
    struct iovec parts[2] = {{&head, sizeof head}, {server->out, data_bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = data_bytes > 0 ? 2 : 1};
    ssize_t sent = sendmsg(server->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (sent != (ssize_t)(sizeof head + data_bytes))
        lockstep_fail("a reply of %zu bytes could not be sent whole", data_bytes);
}

/* Returns how long the command is; 0: not all of it has come. */
static size_t command_answer(struct server *server, const uint8_t *at, size_t bytes, bool checks)
{
    struct wire_request request;
    uint64_t offset_bytes;
    size_t length, whole = sizeof request;
    uint16_t type;

    if (bytes < sizeof request)
        return 0;
    memcpy(&request, at, sizeof request);
    type = ntohs(request.type);
    length = ntohl(request.length);
    offset_bytes = be64toh(request.offset);
    if (ntohl(request.magic) != MAGIC_REQUEST || offset_bytes + length > LOCKSTEP_EXPORT_BYTES ||
        length > REPLY_BYTES || (type > CMD_WRITE && type != CMD_FLUSH && type != CMD_TRIM))
        lockstep_fail("the daemon sent what is no command: type %u, %zu bytes", type, length);
    whole += type == CMD_WRITE ? length : 0;
    if (bytes < whole)
        return 0;
    if (type == CMD_FLUSH && server->holds_flushes) { /* blkgated has one at a time */
        server->held = request;
        server->holds_one = true;
        return whole;
    }
    if (type == CMD_WRITE && checks && !bytes_hold(at + sizeof request, offset_bytes, length))
        lockstep_fail("wrong bytes were written at %llu", (unsigned long long)offset_bytes);
    if (type == CMD_READ && checks)
        bytes_fill(server->out, offset_bytes, length);
    reply(server, &request, type == CMD_READ ? length : 0);
    server->commands++;
    server->bytes += length;
    return whole;
}

void server_answer_some(struct server *server, unsigned commands, bool checks)
{
    size_t at = 0, length;

    receive(server);
    while (commands-- > 0 &&
           (length = command_answer(server, server->in + at, server->in_bytes - at, checks)) > 0)
        at += length;
    memmove(server->in, server->in + at, server->in_bytes - at);
    server->in_bytes -= at;
}

void server_hold_flushes(struct server *server)
{
    server->holds_flushes = true;
}

void server_release_flush(struct server *server)
{
    server->holds_flushes = false;
    if (server->holds_one)
        reply(server, &server->held, 0);
    server->holds_one = false;
}

void server_answer(struct server *server, bool checks)
{
    server_answer_some(server, UINT_MAX, checks);
}

uint64_t server_commands(const struct server *server)
{
    return server->commands;
}

uint64_t server_bytes(const struct server *server)
{
    return server->bytes;
}
