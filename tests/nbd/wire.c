#include "wire.h"

#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    FLAG_FIXED_NEWSTYLE = 1,
    FLAG_NO_ZEROES = 2,
    OPT_EXPORT_NAME = 1,
    OPT_ABORT = 2,
    OPT_INFO = 6,
    OPT_GO = 7,
    OPT_STRUCTURED_REPLY = 8,
    REP_ACK = 1,
    REP_INFO = 3,
    INFO_EXPORT = 0,
    INFO_BLOCK_SIZE = 3,
    PREFERRED_BLOCK = 4096,
    OPTION_BYTES_MAX = 5000, /* a name has 4096 */
};
#define REP_ERR_UNSUP   (1u | 1u << 31)
#define REP_ERR_UNKNOWN (6u | 1u << 31)
#define MAGIC_HELLO     0x4e42444d41474943ull
#define MAGIC_OPT       0x49484156454F5054ull
#define MAGIC_OPT_REPLY 0x3e889045565a9ull

bool wire_get(int fd, void *to, size_t bytes)
{
    ssize_t got;

    for (; bytes > 0; to = (uint8_t *)to + got, bytes -= (size_t)got) {
        got = read(fd, to, bytes);
        if (got <= 0)
            return false;
    }
    return true;
}

bool wire_put(int fd, const void *from, size_t bytes)
{
    ssize_t sent;

    for (; bytes > 0; from = (const uint8_t *)from + sent, bytes -= (size_t)sent) {
        sent = send(fd, from, bytes, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
    }
    return true;
}

static int listen_at(int fd, const void *address, socklen_t bytes)
{
    if (fd < 0 || bind(fd, address, bytes) < 0 || listen(fd, SOMAXCONN) < 0) {
        perror("unable to listen");
        exit(111);
    }
    return fd;
}

int wire_listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "unable to listen: the path is too long\n");
        exit(100);
    }
    strcpy(address.sun_path, path);
    unlink(path);
    return listen_at(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), &address, sizeof address);
}

int wire_listen_tcp(const char *host, uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fprintf(stderr, "unable to listen: %s is no IPv4 address\n", host);
        exit(100);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* connections inherit it */
    return listen_at(fd, &address, sizeof address);
}

static bool reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t bytes)
{
    struct {
        uint64_t magic;
        uint32_t option, type, bytes;
    } __attribute__((packed))
    head = {htobe64(MAGIC_OPT_REPLY), htonl(option), htonl(type), htonl(bytes)};

    return wire_put(fd, &head, sizeof head) && wire_put(fd, data, bytes);
}

static uint32_t preferred_block(const struct wire_export *export)
{
    if (export->min_block > PREFERRED_BLOCK)
        return export->min_block;
    return export->max_block && export->max_block < PREFERRED_BLOCK ? export->max_block
                                                                    : PREFERRED_BLOCK;
}

static bool reply_info(int fd, uint32_t option, const struct wire_export *export)
{
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed))
    size = {htons(INFO_EXPORT), htobe64(export->size_bytes), htons(export->flags)};
    struct {
        uint16_t type;
        uint32_t min, preferred, max;
    } __attribute__((packed))
    block = {htons(INFO_BLOCK_SIZE), htonl(export->min_block ? export->min_block : 1),
             htonl(preferred_block(export)),
             htonl(export->max_block ? export->max_block : WIRE_PAYLOAD_MAX)};

    if (!reply(fd, option, REP_INFO, &size, sizeof size))
        return false;
    if ((export->min_block || export->max_block) &&
        !reply(fd, option, REP_INFO, &block, sizeof block))
        return false;
    return reply(fd, option, REP_ACK, NULL, 0);
}

/* EXPORT_NAME has no error reply: an unknown export is a closed connection. */
static bool begin_old(int fd, const struct wire_export *export, bool no_zeroes)
{
    struct {
        uint64_t size;
        uint16_t flags;
        uint8_t zeroes[124];
    } __attribute__((packed)) begin = {htobe64(export->size_bytes), htons(export->flags), {0}};

    return !export->unknown &&
           wire_put(fd, &begin, sizeof begin - (no_zeroes ? sizeof begin.zeroes : 0));
}

bool wire_greet(int fd)
{
    struct {
        uint64_t magic, opt;
        uint16_t flags;
    } __attribute__((packed))
    hello = {htobe64(MAGIC_HELLO), htobe64(MAGIC_OPT), htons(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)};

    return wire_put(fd, &hello, sizeof hello);
}

bool wire_handshake(int fd, const struct wire_export *export, bool *ret_structured)
{
    struct {
        uint64_t magic;
        uint32_t option, bytes;
    } __attribute__((packed)) option;
    uint8_t data[OPTION_BYTES_MAX];
    bool structured = false, going = false;
    uint32_t flags;

    if (!wire_greet(fd) || !wire_get(fd, &flags, sizeof flags))
        return false;
    while (!going) {
        uint32_t type, bytes, answer = REP_ERR_UNSUP;

        if (!wire_get(fd, &option, sizeof option))
            return false;
        type = ntohl(option.option);
        bytes = ntohl(option.bytes);
        if (type == OPT_ABORT || bytes > sizeof data || !wire_get(fd, data, bytes))
            return false;
        if (type == OPT_EXPORT_NAME) {
            *ret_structured = structured;
            return begin_old(fd, export, ntohl(flags) & FLAG_NO_ZEROES);
        }
        if (type == OPT_STRUCTURED_REPLY && export->can_structured) {
            structured = true;
            answer = REP_ACK;
        }
        if ((type == OPT_GO || type == OPT_INFO) && !export->unknown) {
            if (!reply_info(fd, type, export))
                return false;
            going = type == OPT_GO;
            continue;
        }
        if (type == OPT_GO || type == OPT_INFO)
            answer = REP_ERR_UNKNOWN;
        if (!reply(fd, type, answer, NULL, 0))
            return false;
    }
    *ret_structured = structured;
    return true;
}
