/*
 * wire: the server's side of the NBD protocol (fixed newstyle) that evil and late share: listening,
 * the handshake, the layouts of transmission. What a server then does with a command is its own.
 *
 * All calls block. Numbers in the layouts are big-endian. From the NBD protocol, doc/proto.md.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum wire_command {
    CMD_READ = 0,
    CMD_WRITE = 1,
    CMD_DISC = 2,
    CMD_FLUSH = 3,
    CMD_TRIM = 4,
    CMD_WRITE_ZEROES = 6,
};
enum { CMD_FLAG_FUA = 1 };

enum wire_export_flag {
    EXPORT_HAS_FLAGS = 1,
    EXPORT_READ_ONLY = 2,
    EXPORT_FLUSH = 4,
    EXPORT_FUA = 8,
    EXPORT_TRIM = 32,
    EXPORT_WRITE_ZEROES = 64,
    EXPORT_MULTI_CONN = 256,
};

enum {
    WIRE_PAYLOAD_MAX = 1 << 25, /* portable clients send no more; the rest are disconnected */
    CHUNK_DONE = 1,             /* flag of a structured reply's last chunk */
    CHUNK_NONE = 0,
    CHUNK_DATA = 1,
    CHUNK_ERROR = 32769,
};
#define MAGIC_REQUEST    0x25609513u
#define MAGIC_REPLY      0x67446698u
#define MAGIC_STRUCTURED 0x668e33efu

struct wire_request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed));

struct wire_reply {
    uint32_t magic, error;
    uint64_t cookie;
} __attribute__((packed));

struct wire_chunk {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t length;
} __attribute__((packed));

/* What a server says of itself in a handshake. */
struct wire_export {
    uint64_t size_bytes;
    uint16_t flags;                /* of enum wire_export_flag */
    bool unknown;                  /* no export name is right */
    bool can_structured;           /* structured replies, for clients that ask */
    uint32_t min_block, max_block; /* bytes; both 0: says nothing of block sizes */
};

/* All of it; false: the connection is over. What was queued before a reset is still got. */
bool wire_get(int fd, void *to, size_t bytes);
bool wire_put(int fd, const void *from, size_t bytes);

/* A listening socket; unix (replacing what is there) or 127.0.0.1 at a port. Exits on failure. */
int wire_listen_unix(const char *path);
int wire_listen_tcp(const char *address, uint16_t port);

bool wire_greet(int fd);
/* Greets and answers options. True once transmission begins; *ret_structured: by such replies. */
bool wire_handshake(int fd, const struct wire_export *export, bool *ret_structured);

#endif
