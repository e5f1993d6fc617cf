/*
 * request: one guest request, from the ring slot it came in to the answer.
 *
 *                indirect                                      more chunks
 *      FREE --> UNREAD --> READING (a step) --+               +--------+
 *       |                                     v               v        |
 *       +-----------------------------------> PENDING ------> SENT --reply--> REPLIED --> FREE
 *                                             |  ^ read, ^ |  |
 *                                             |  | flush,| |  +--> PENDING: the session was lost,
 *                                             |  |discard| |       or a flush with data is flushed,
 *                                             +--+-------+ |       or it is tried again later
 *                                      write  +--> COPYING_OUT (a step) --> SENT
 *
 * A request belongs to its queue (which has as many as its ring has slots) and is on its disk's age
 * list from the moment it is taken until it is answered. Its buffer belongs to libnbd while SENT.
 *
 * A request longer than the server's largest command, or a discard longer than NBD's 32 bits, goes
 * out in chunks, one after the other: done_bytes is behind it, chunk_bytes at the server.
 */
#ifndef BLKGATE_GATEWAY_REQUEST_H
#define BLKGATE_GATEWAY_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/list.h"
#include "gateway/nbdconn.h"
#include "proto/blkif.h"
#include "proto/plan.h"

struct queue;

enum request_state {
    REQUEST_FREE,
    REQUEST_UNREAD,  /* indirect: waits for a buffer to read its descriptors into */
    REQUEST_READING, /* its descriptors come with this turn's first grant copy */
    REQUEST_PENDING, /* waits for older overlapping ones, for room at the server, for a buffer */
    REQUEST_COPYING_OUT, /* a write's data comes with this turn's grant copy */
    REQUEST_SENT,
    REQUEST_REPLIED,
};

struct request {
    struct list age;  /* in disk's unfinished requests, oldest first */
    struct list work; /* in the queue's free list, or in the list of the step it is in */
    struct queue *queue;
    enum request_state state;
    struct blkif_req blkif;
    const struct blkif_seg *segs; /* blkif.seg, or in `descriptors` */
    void *descriptors;            /* indirect: a page of the slab, a private copy */
    struct plan_range range;
    void *buffer;          /* page-aligned, from the slab; a write's: from the kept file */
    uint8_t *data;         /* in buffer, at the first segment's place in its page */
    uint64_t length_bytes; /* of data, or of the discard */
    uint64_t done_bytes;
    uint32_t chunk_bytes;
    uint32_t chunk_max_bytes; /* a longer chunk failed, for its length perhaps; 0: none did */
    bool too_long;            /* ... with an error that does not pass */
    bool flushed;             /* a flush with data: the flush is done */
    bool copied;              /* a write's bytes are in its buffer */
    bool resting;             /* it failed, and is tried again (on-error = retry) */
    uint32_t entry;           /* in the journal */
    struct kept *kept;        /* a write's or discard's record, once it is sent; else NULL */
    int error;                /* 0, or why it is answered ERROR */
    enum blkif_status status;
    uint64_t flush_mark; /* a flush: what it covers (keep_flush_mark) */
    struct nbdcmd cmd;
};

/* A flush and nothing else: the one that may never be answered with an error (law 6). */
static inline bool request_is_empty_flush(const struct request *request)
{
    return request->blkif.op == BLKIF_FLUSH && request->blkif.segment_count == 0;
}

#endif
