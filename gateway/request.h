/*
 * request: one guest request, from the ring slot it came in to the answer.
 *
 *      FREE --> UNREAD --> READING --> PENDING (or at once, if not indirect)
 *                                        |  nothing older is in its way, and its flush is done
 *                                        v
 *                       +-----------> READY <-------> WAITING, HAUNTED, RESTING
 *     the session was   |             |   |
 *     lost; it is to be |             |   +-- read, discard --> SENT
 *     tried alone       |             +------ write --> COPYING_OUT (a step) --> SENT
 *                       +---------------------------------------------------------|
 *                                                                     reply       v
 *                                                             FREE <-- answered REPLIED
 *
 * A request belongs to its queue (which has as many as its ring has slots) and is on its disk's age
 * list from the moment it is taken until it is answered. It goes to the server in a command
 * (command.h), alone or with others beside it on the disk.
 *
 * A write's bytes are in the kept file from COPYING_OUT on, and stay there, however often it is
 * sent, until it is answered.
 */
#ifndef BLKGATE_GATEWAY_REQUEST_H
#define BLKGATE_GATEWAY_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/list.h"
#include "proto/blkif.h"
#include "proto/plan.h"

struct command;
struct kept;
struct queue;

enum request_state {
    REQUEST_FREE,
    REQUEST_UNREAD,  /* indirect: waits for a buffer to read its descriptors into */
    REQUEST_READING, /* its descriptors come with this turn's first grant copy */
    REQUEST_PENDING, /* something older is in its way; or it is a flush, or is to be flushed first
                      */
    REQUEST_READY,   /* may start: waits for room at the server, for memory */
    REQUEST_WAITING, /* may start, but its neighbour is at the server: grows meanwhile */
    REQUEST_HAUNTED, /* a lost session may still write there */
    REQUEST_RESTING, /* it failed, and is tried again (on-error = retry) */
    REQUEST_COPYING_OUT, /* a write's data comes with this turn's grant copy */
    REQUEST_SENT,
    REQUEST_REPLIED,
};

struct request {
    struct list age;  /* in disk's unfinished requests, oldest first */
    struct list work; /* in the list of its state, or in its command's */
    struct request *next_free;
    struct queue *queue;
    enum request_state state;
    struct blkif_req blkif;
    const struct blkif_seg *segs; /* blkif.seg, or in `descriptors` */
    void *descriptors;            /* indirect: a page of the slab, a private copy */
    struct plan_item plan;        /* its range; not in the plan if that is empty, or too far back */
    struct command *command;      /* from COPYING_OUT or SENT on */
    uint8_t *data;                /* in its command's buffer; a write's: in the kept file */
    uint64_t length_bytes;        /* of data, or of the discard */
    uint64_t done_bytes;          /* of the discard: chunks are done for good */
    bool flushed;                 /* a flush with data: the flush is done */
    bool copied;                  /* a write's bytes are in the kept file, for good */
    bool alone;                   /* never again in one command with others */
    uint32_t entry;               /* in the journal */
    struct kept *kept;            /* a write's or discard's record, once it is sent; else NULL */
    struct list kept_link;        /* in kept->requests */
    uint64_t twin;                /* the id of one by which it was sent with others before; or 0 */
    int error;                    /* 0, or why it is answered ERROR */
    enum blkif_status status;
    uint64_t flush_mark; /* a flush: what it covers (keep_flush_mark) */
};

/* A flush and nothing else: the one that may never be answered with an error (law 6). */
static inline bool request_is_empty_flush(const struct request *request)
{
    return request->blkif.op == BLKIF_FLUSH && request->blkif.segment_count == 0;
}

/* Are its bytes in the kept file, rather than in the slab? */
static inline bool request_writes_data(const struct request *request)
{
    return request->blkif.op == BLKIF_WRITE ||
           (request->blkif.op == BLKIF_FLUSH && request->blkif.segment_count > 0);
}

#endif
