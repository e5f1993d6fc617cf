/*
 * command: what a disk sends to the server as one NBD command, and the requests that it serves:
 * one, or several that lie side by side on the disk.
 *
 *      free --> begun --write: its bytes are copied out of the guest--> at the server --+
 *       ^         +--read, discard, and what is sent again ----------------^   |  |     |
 *       |                                                       more chunks ---+  |     |
 *       |                                                                         v     v
 *       +-- the last member is answered <-- all are replied to <-- done     dissolved, split
 *
 * Dissolved: the session was lost, or there is no record for it now: its requests are READY again,
 * and those of one record will be one command again. Split: one of its requests is bad, for its
 * guest memory or at the server; nobody knows which, so each is tried alone, and only the bad one
 * is answered ERROR (law 4). They keep their age and their place in the plan all the while.
 *
 * What is longer than the server's largest command, or a discard longer than NBD's 32 bits, goes
 * out in chunks, one after the other: done_bytes is behind it, chunk_bytes at the server. A
 * discard's record is of what was to be one chunk: it is done when all of that is, in however many.
 *
 * A disk has as many as can be at the server, and as many again for those that are being answered.
 */
#ifndef BLKGATE_GATEWAY_COMMAND_H
#define BLKGATE_GATEWAY_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/list.h"
#include "gateway/nbdconn.h"
#include "proto/blkif.h"

struct kept;

struct command {
    struct nbdcmd cmd;
    struct command *next_free;
    struct list collected; /* a write: its bytes come with this turn's copy */
    struct list members;   /* requests, by place */
    uint32_t unanswered;   /* of them */
    enum blkif_op op;      /* READ, WRITE or DISCARD */
    void *buffer;          /* a read's, of the slab */
    size_t buffer_bytes;
    uint8_t *data; /* in buffer; a write's: in the kept file, held by the members */
    uint64_t offset_bytes, length_bytes;
    uint64_t done_bytes;
    uint32_t chunk_bytes;
    uint32_t chunk_max_bytes; /* a longer chunk failed, for its length perhaps; 0: none did */
    uint32_t learnt_bytes;    /* ... and with an error that does not pass; 0: none */
    struct kept *kept;        /* a write's or discard's record, from the first sending on */
};

#endif
