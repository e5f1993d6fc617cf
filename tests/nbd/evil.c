/*
 * evil: an NBD server (fixed newstyle, simple replies, data in memory) that misbehaves as told, for
 * what real servers will not do on request.
 *
 *      evil --unix PATH [--size BYTES] [--fault FAULT[=N]]...
 *
 * Faults that change what it says of itself:
 *      no-flush, no-fua, readonly, min-block=N, max-block=N, silent (accepts, never speaks),
 *      no-export (every export is unknown), trim (offers TRIM, and zeroes)
 * Faults at the N-th command of a connection (counted from 1; default 1) and ever after:
 *      close=N         closes the connection instead of replying
 *      eof=N           half a reply header, then closes
 *      half=N          a read's header and half of its data, then closes
 *      stall=N         reads on, replies no more; says "stalled" on stderr for each
 *      magic=N         a reply with a wrong magic
 *      cookie=N        a reply to a command that was never sent
 *      twice=N         replies twice
 *      shutdown=N      replies ESHUTDOWN
 * Faults of one kind of command:
 *      read-eio, write-eio, write-enospc, flush-eio   every such command fails
 *      too-long=N      commands of more than N bytes fail with EINVAL, as do reads and writes of
 *                      more than max-block; says "too long: N bytes" on stderr for each
 *
 * Connections are served by threads over one image. It ends with its parent, or by SIGTERM.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* From the NBD protocol (doc/proto.md). */
enum {
    FLAG_FIXED_NEWSTYLE = 1,
    FLAG_NO_ZEROES = 2,
    OPT_EXPORT_NAME = 1,
    OPT_ABORT = 2,
    OPT_INFO = 6,
    OPT_GO = 7,
    REP_ACK = 1,
    REP_INFO = 3,
    INFO_EXPORT = 0,
    INFO_BLOCK_SIZE = 3,
    CMD_READ = 0,
    CMD_WRITE = 1,
    CMD_DISC = 2,
    CMD_FLUSH = 3,
    CMD_TRIM = 4,
    EXPORT_HAS_FLAGS = 1,
    EXPORT_READ_ONLY = 2,
    EXPORT_FLUSH = 4,
    EXPORT_FUA = 8,
    EXPORT_TRIM = 32,
};
#define REP_ERR_UNSUP   (1u | 1u << 31)
#define REP_ERR_UNKNOWN (6u | 1u << 31)
#define MAGIC_OPT       0x49484156454F5054ull
#define MAGIC_OPT_REPLY 0x3e889045565a9ull
#define MAGIC_REQUEST   0x25609513u
#define MAGIC_REPLY     0x67446698u

struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed));

struct reply {
    uint32_t magic, error;
    uint64_t cookie;
} __attribute__((packed));

static uint8_t *image;
static uint64_t size = 1 << 20;
static uint32_t min_block, max_block, too_long = UINT32_MAX;
static bool no_flush, no_fua, readonly, silent, no_export, trim;
static bool read_eio, write_eio, write_enospc, flush_eio;

enum fault { CLOSE, END, HALF, STALL, MAGIC, COOKIE, TWICE, SHUTDOWN, FAULTS };
static const char *const fault_names[FAULTS] = {"close", "eof",    "half",  "stall",
                                                "magic", "cookie", "twice", "shutdown"};
static uint64_t fault_at[FAULTS]; /* 0: never */

static bool get(int fd, void *to, size_t bytes)
{
    ssize_t got;

    for (; bytes > 0; to = (uint8_t *)to + got, bytes -= (size_t)got) {
        got = read(fd, to, bytes);
        if (got <= 0)
            return false;
    }
    return true;
}

static bool put(int fd, const void *from, size_t bytes)
{
    ssize_t sent;

    for (; bytes > 0; from = (const uint8_t *)from + sent, bytes -= (size_t)sent) {
        sent = send(fd, from, bytes, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
    }
    return true;
}

static uint16_t export_flags(void)
{
    return (uint16_t)(EXPORT_HAS_FLAGS | (readonly ? EXPORT_READ_ONLY : 0) |
                      (no_flush ? 0 : EXPORT_FLUSH) | (no_fua ? 0 : EXPORT_FUA) |
                      (trim ? EXPORT_TRIM : 0));
}

static bool option_reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t bytes)
{
    struct {
        uint64_t magic;
        uint32_t option, type, bytes;
    } __attribute__((packed))
    head = {htobe64(MAGIC_OPT_REPLY), htonl(option), htonl(type), htonl(bytes)};

    return put(fd, &head, sizeof head) && put(fd, data, bytes);
}

static bool reply_info(int fd, uint32_t option)
{
    uint32_t preferred = min_block > 4096                ? min_block
                         : max_block && max_block < 4096 ? max_block
                                                         : 4096;
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) export = {htons(INFO_EXPORT), htobe64(size), htons(export_flags())};
    struct {
        uint16_t type;
        uint32_t min, preferred, max;
    } __attribute__((packed)) block = {htons(INFO_BLOCK_SIZE), htonl(min_block ? min_block : 1),
                                       htonl(preferred), htonl(max_block ? max_block : 1 << 25)};

    if (!option_reply(fd, option, REP_INFO, &export, sizeof export))
        return false;
    if ((min_block || max_block) && !option_reply(fd, option, REP_INFO, &block, sizeof block))
        return false;
    return option_reply(fd, option, REP_ACK, NULL, 0);
}

/* True once transmission begins. */
static bool handshake(int fd)
{
    struct {
        uint64_t magic, opt;
        uint16_t flags;
    } __attribute__((packed)) hello = {htobe64(0x4e42444d41474943ull), htobe64(MAGIC_OPT),
                                       htons(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)};
    struct {
        uint64_t magic;
        uint32_t option, bytes;
    } __attribute__((packed)) option;
    uint8_t data[5000];
    uint32_t flags;

    if (!put(fd, &hello, sizeof hello) || !get(fd, &flags, sizeof flags))
        return false;
    while (get(fd, &option, sizeof option)) {
        uint32_t type = ntohl(option.option), bytes = ntohl(option.bytes);

        if (bytes > sizeof data || !get(fd, data, bytes))
            return false;
        if (type == OPT_GO || type == OPT_INFO) {
            if (no_export) {
                if (!option_reply(fd, type, REP_ERR_UNKNOWN, NULL, 0))
                    return false;
            } else if (!reply_info(fd, type)) {
                return false;
            } else if (type == OPT_GO) {
                return true;
            }
        } else if (type == OPT_ABORT || type == OPT_EXPORT_NAME) {
            return false;
        } else if (!option_reply(fd, type, REP_ERR_UNSUP, NULL, 0)) {
            return false;
        }
    }
    return false;
}

static bool fault_now(enum fault fault, uint64_t command)
{
    return fault_at[fault] != 0 && command >= fault_at[fault];
}

/* What a faithful server would answer, in the protocol's error numbers. */
static uint32_t execute(const struct request *request, uint8_t *data)
{
    uint32_t length = ntohl(request->length);
    uint64_t offset = be64toh(request->offset);

    if (length > too_long ||
        (max_block && length > max_block && ntohs(request->type) != CMD_TRIM)) {
        fprintf(stderr, "too long: %" PRIu32 " bytes\n", length);
        return EINVAL;
    }
    switch (ntohs(request->type)) {
    case CMD_TRIM:
        if (!trim || offset > size || length > size - offset)
            return EINVAL;
        memset(image + offset, 0, length);
        return 0;
    case CMD_READ:
        if (read_eio || offset > size || length > size - offset)
            return EIO;
        memcpy(data, image + offset, length);
        return 0;
    case CMD_WRITE:
        if (write_enospc)
            return ENOSPC;
        if (write_eio || readonly || offset > size || length > size - offset)
            return EIO;
        memcpy(image + offset, data, length);
        return 0;
    case CMD_FLUSH: return flush_eio ? EIO : 0;
    default: return EINVAL;
    }
}

/* False: the connection is over. */
static bool reply(int fd, const struct request *request, uint32_t error, const uint8_t *data,
                  uint64_t command)
{
    struct reply head = {htonl(MAGIC_REPLY), htonl(error), request->cookie};
    uint32_t bytes = ntohs(request->type) == CMD_READ && error == 0 ? ntohl(request->length) : 0;

    if (fault_now(CLOSE, command))
        return false;
    if (fault_now(STALL, command)) {
        fprintf(stderr, "stalled\n");
        return true;
    }
    if (fault_now(END, command)) {
        put(fd, &head, sizeof head / 2);
        return false;
    }
    if (fault_now(HALF, command) && bytes) {
        put(fd, &head, sizeof head);
        put(fd, data, bytes / 2);
        return false;
    }
    if (fault_now(MAGIC, command))
        head.magic = ~head.magic;
    if (fault_now(COOKIE, command))
        head.cookie = ~head.cookie;
    if (fault_now(SHUTDOWN, command)) {
        head.error = htonl(108); /* NBD_ESHUTDOWN */
        bytes = 0;
    }
    for (int i = fault_now(TWICE, command) ? 2 : 1; i > 0; i--) {
        if (!put(fd, &head, sizeof head) || !put(fd, data, bytes))
            return false;
    }
    return true;
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct request request;
    uint8_t *data = malloc(1 << 25);
    uint64_t commands = 0;

    if (silent)
        pause();
    if (!data || !handshake(fd))
        goto out;
    while (get(fd, &request, sizeof request) && request.magic == htonl(MAGIC_REQUEST)) {
        uint32_t length = ntohl(request.length), error;

        if (ntohs(request.type) == CMD_DISC ||
            (length > 1 << 25 && ntohs(request.type) != CMD_TRIM) ||
            (ntohs(request.type) == CMD_WRITE && !get(fd, data, length)))
            break;
        error = execute(&request, data);
        if (!reply(fd, &request, error, data, ++commands))
            break;
    }
out:
    free(data);
    close(fd);
    return NULL;
}

static void usage(void)
{
    fprintf(stderr, "usage: evil --unix PATH [--size BYTES] [--fault FAULT[=N]]...\n");
    exit(100);
}

static void set_fault(const char *text)
{
    static const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"no-flush", &no_flush},   {"no-fua", &no_fua},
                 {"readonly", &readonly},   {"silent", &silent},
                 {"read-eio", &read_eio},   {"write-eio", &write_eio},
                 {"no-export", &no_export}, {"write-enospc", &write_enospc},
                 {"flush-eio", &flush_eio}, {"trim", &trim}};
    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) : strlen(text);
    uint64_t number = equals ? strtoull(equals + 1, NULL, 10) : 1;

    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (strcmp(text, flags[i].name) == 0) {
            *flags[i].flag = true;
            return;
        }
    }
    for (int i = 0; i < FAULTS; i++) {
        if (strlen(fault_names[i]) == length && strncmp(text, fault_names[i], length) == 0) {
            fault_at[i] = number;
            return;
        }
    }
    if (strncmp(text, "min-block=", 10) == 0)
        min_block = (uint32_t)number;
    else if (strncmp(text, "max-block=", 10) == 0)
        max_block = (uint32_t)number;
    else if (strncmp(text, "too-long=", 9) == 0)
        too_long = (uint32_t)number;
    else
        usage();
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = NULL;
    int listener;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--unix") == 0)
            path = argv[i + 1];
        else if (strcmp(argv[i], "--size") == 0)
            size = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--fault") == 0)
            set_fault(argv[i + 1]);
        else
            usage();
    }
    if (!path || argc % 2 == 0 || strlen(path) >= sizeof address.sun_path)
        usage();
    strcpy(address.sun_path, path);
    image = calloc(1, size ? size : 1);
    unlink(path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!image || listener < 0 || bind(listener, (void *)&address, sizeof address) < 0 ||
        listen(listener, 16) < 0) {
        perror("evil: unable to listen");
        return 111;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing running */
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (fd >= 0 && pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
            pthread_detach(thread);
    }
}
