/*
 * evil: an NBD server (fixed newstyle, simple replies) that breaks the protocol as told, for what
 * real servers will not do on request. One that is late, but correct: late.c.
 *
 *      evil --unix PATH [--size BYTES] [--file PATH] [--fault FAULT[=N]]...
 *
 * --file: its data, which another server had before or has after it; without, memory.
 *
 * Faults that change what it says of itself:
 *      no-flush, no-fua, readonly, min-block=N, max-block=N, silent (accepts, never speaks),
 *      greets (says hello, then no more), no-export (every export is unknown),
 *      trim (offers TRIM, and zeroes), multi-conn (says CAN_MULTI_CONN)
 * Faults at the N-th command of a connection (counted from 1; default 1) and ever after:
 *      close=N         closes the connection instead of replying
 *      eof=N           half a reply header, then closes
 *      half=N          a read's header and half of its data, then closes
 *      tear=N          half of a reply (a read's: half of its data), then nothing more
 *      stall=N         reads on, replies no more; says "stalled" on stderr for each
 *      magic=N         a reply with a wrong magic
 *      cookie=N        a reply to a command that was never sent
 *      twice=N         replies twice
 *      shutdown=N      replies ESHUTDOWN
 * Faults of one kind of command:
 *      read-eio, write-eio, write-enospc, flush-eio   every such command fails
 *      bad-sector=N    reads, writes and trims that touch sector N fail with EIO, the latter two
 *                      after what is before it; several may be named
 *      too-long=N      commands of more than N bytes fail with EINVAL, as do reads and writes of
 *                      more than max-block; says "too long: N bytes" on stderr for each
 *      scarce=N        each N-th command fails with ENOMEM if it is of more than 64 KiB; says
 *                      "no memory: N bytes"
 *
 * And no fault: tell, says each command on stderr, as "read SECTOR SECTORS" (write, trim).
 *
 * Connections are served by threads over one image. It ends with its parent, or by SIGTERM.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

static uint8_t *image;
static uint64_t size = 1 << 20;
static uint32_t min_block, max_block, too_long = UINT32_MAX, scarce;
static atomic_uint commands_in_all; /* counted for scarce */
static bool no_flush, no_fua, readonly, silent, greets, no_export, trim, multi_conn;
static bool read_eio, write_eio, write_enospc, flush_eio, tell;
static uint64_t bad_sectors[4];
static unsigned bad_sector_count;

enum fault { CLOSE, END, HALF, TEAR, STALL, MAGIC, COOKIE, TWICE, SHUTDOWN, FAULTS };
static const char *const fault_names[FAULTS] = {"close", "eof",    "half",  "tear",    "stall",
                                                "magic", "cookie", "twice", "shutdown"};
static uint64_t fault_at[FAULTS]; /* 0: never */

static struct wire_export export(void)
{
    return (struct wire_export){
        .size_bytes = size,
        .flags = (uint16_t)(EXPORT_HAS_FLAGS | (readonly ? EXPORT_READ_ONLY : 0) |
                            (no_flush ? 0 : EXPORT_FLUSH) | (no_fua ? 0 : EXPORT_FUA) |
                            (trim ? EXPORT_TRIM : 0) | (multi_conn ? EXPORT_MULTI_CONN : 0)),
        .unknown = no_export,
        .min_block = min_block,
        .max_block = max_block,
    };
}

static bool fault_now(enum fault fault, uint64_t command)
{
    return fault_at[fault] != 0 && command >= fault_at[fault];
}

/* How much of a range lies before the first bad sector in it. */
static uint32_t good_bytes(uint64_t offset, uint32_t length)
{
    uint64_t good = length;

    for (unsigned i = 0; i < bad_sector_count; i++) {
        uint64_t at = bad_sectors[i] * 512;

        if (at < offset + good && at + 512 > offset)
            good = at > offset ? at - offset : 0;
    }
    return (uint32_t)good;
}

static void tell_command(const struct wire_request *request)
{
    static const char *const names[] = {"read", "write", "disc", "flush", "trim"};
    uint16_t type = ntohs(request->type);

    if (tell && type < sizeof names / sizeof *names)
        fprintf(stderr, "%s %" PRIu64 " %" PRIu32 "\n", names[type], be64toh(request->offset) / 512,
                ntohl(request->length) / 512);
}

/* What a faithful server would answer, in the protocol's error numbers. */
static uint32_t execute(const struct wire_request *request, uint8_t *data)
{
    uint32_t length = ntohl(request->length);
    uint64_t offset = be64toh(request->offset);

    tell_command(request);
    if (length > too_long ||
        (max_block && length > max_block && ntohs(request->type) != CMD_TRIM)) {
        fprintf(stderr, "too long: %" PRIu32 " bytes\n", length);
        return EINVAL;
    }
    if (scarce > 0 && ++commands_in_all % scarce == 0 && length > 64 << 10) {
        fprintf(stderr, "no memory: %" PRIu32 " bytes\n", length);
        return ENOMEM;
    }
    switch (ntohs(request->type)) {
    case CMD_TRIM:
        if (!trim || offset > size || length > size - offset)
            return EINVAL;
        memset(image + offset, 0, good_bytes(offset, length));
        return good_bytes(offset, length) < length ? EIO : 0;
    case CMD_READ:
        if (read_eio || offset > size || length > size - offset)
            return EIO;
        if (good_bytes(offset, length) < length)
            return EIO;
        memcpy(data, image + offset, length);
        return 0;
    case CMD_WRITE:
        if (write_enospc)
            return ENOSPC;
        if (write_eio || readonly || offset > size || length > size - offset)
            return EIO;
        memcpy(image + offset, data, good_bytes(offset, length));
        return good_bytes(offset, length) < length ? EIO : 0;
    case CMD_FLUSH: return flush_eio ? EIO : 0;
    default: return EINVAL;
    }
}

/* False: the connection is over. */
static bool reply(int fd, const struct wire_request *request, uint32_t error, const uint8_t *data,
                  uint64_t command)
{
    struct wire_reply head = {htonl(MAGIC_REPLY), htonl(error), request->cookie};
    uint32_t bytes = ntohs(request->type) == CMD_READ && error == 0 ? ntohl(request->length) : 0;

    if (fault_now(CLOSE, command))
        return false;
    if (fault_now(STALL, command)) {
        fprintf(stderr, "stalled\n");
        return true;
    }
    if (fault_now(END, command)) {
        wire_put(fd, &head, sizeof head / 2);
        return false;
    }
    if (fault_now(HALF, command) && bytes) {
        wire_put(fd, &head, sizeof head);
        wire_put(fd, data, bytes / 2);
        return false;
    }
    if (fault_now(TEAR, command)) {
        wire_put(fd, &head, bytes ? sizeof head : sizeof head / 2);
        wire_put(fd, data, bytes / 2);
        pause();
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
        if (!wire_put(fd, &head, sizeof head) || !wire_put(fd, data, bytes))
            return false;
    }
    return true;
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct wire_export said = export();
    struct wire_request request;
    uint8_t *data = malloc(WIRE_PAYLOAD_MAX);
    uint64_t commands = 0;
    bool structured;

    if (silent || (greets && wire_greet(fd)))
        pause();
    if (!data || !wire_handshake(fd, &said, &structured))
        goto out;
    while (wire_get(fd, &request, sizeof request) && request.magic == htonl(MAGIC_REQUEST)) {
        uint32_t length = ntohl(request.length), error;

        if (ntohs(request.type) == CMD_DISC ||
            (length > WIRE_PAYLOAD_MAX && ntohs(request.type) != CMD_TRIM) ||
            (ntohs(request.type) == CMD_WRITE && !wire_get(fd, data, length)))
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
    fprintf(stderr,
            "usage: evil --unix PATH [--size BYTES] [--file PATH] [--fault FAULT[=N]]...\n");
    exit(100);
}

static void set_fault(const char *text)
{
    static const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"no-flush", &no_flush},
                 {"no-fua", &no_fua},
                 {"readonly", &readonly},
                 {"silent", &silent},
                 {"read-eio", &read_eio},
                 {"write-eio", &write_eio},
                 {"no-export", &no_export},
                 {"write-enospc", &write_enospc},
                 {"flush-eio", &flush_eio},
                 {"trim", &trim},
                 {"greets", &greets},
                 {"multi-conn", &multi_conn},
                 {"tell", &tell}};
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
    else if (strncmp(text, "scarce=", 7) == 0)
        scarce = (uint32_t)number;
    else if (strncmp(text, "bad-sector=", 11) == 0 &&
             bad_sector_count < sizeof bad_sectors / sizeof *bad_sectors)
        bad_sectors[bad_sector_count++] = number;
    else
        usage();
}

static void image_open(const char *file)
{
    int fd =
        file ? open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : memfd_create("evil", MFD_CLOEXEC);

    if (fd < 0 || (lseek(fd, 0, SEEK_END) < (off_t)size && ftruncate(fd, (off_t)size) < 0)) {
        perror("evil: unable to open its file");
        exit(111);
    }
    image = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (image == MAP_FAILED) {
        perror("evil: unable to map its file");
        exit(111);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    const char *path = NULL, *file = NULL;
    int listener;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--unix") == 0)
            path = argv[i + 1];
        else if (strcmp(argv[i], "--file") == 0)
            file = argv[i + 1];
        else if (strcmp(argv[i], "--size") == 0)
            size = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--fault") == 0)
            set_fault(argv[i + 1]);
        else
            usage();
    }
    if (!path || argc % 2 == 0)
        usage();
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing running */
    image_open(file);
    listener = wire_listen_unix(path);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (fd >= 0 && pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
            pthread_detach(thread);
    }
}
