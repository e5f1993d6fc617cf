/*
 * request: one guest request, from the ring slot it came in to the answer.
 *
 *      FREE --taken--> PENDING --read, flush--------------> SENT --reply--> REPLIED --> FREE
 *                         |                                  ^ |               ^
 *                         +--write--> COPYING_OUT (a turn) --+ +--lost--> HELD +
 *
 * A request belongs to its queue (which has as many as its ring has slots) and is on its disk's age
 * list from PENDING until it is answered. Its buffer belongs to libnbd while it is SENT.
 */
#ifndef BLKGATE_GATEWAY_REQUEST_H
#define BLKGATE_GATEWAY_REQUEST_H

#include <stdint.h>

#include "gateway/list.h"
#include "gateway/nbdconn.h"
#include "proto/blkif.h"
#include "proto/plan.h"

struct queue;

enum request_state {
    REQUEST_FREE,
    REQUEST_PENDING, /* waits for older overlapping ones, for room at the server, for a buffer */
    REQUEST_COPYING_OUT, /* a write's data comes with this turn's grant copy */
    REQUEST_SENT,
    REQUEST_HELD, /* its connection went: not answered before backend state 5 is shown */
    REQUEST_REPLIED,
};

struct request {
    struct list age;  /* in disk's unfinished requests, oldest first */
    struct list work; /* in the queue's free list, or in the list of the step it is in */
    struct queue *queue;
    enum request_state state;
    struct blkif_req blkif;
    struct plan_range range;
    void *buffer;          /* page-aligned, from the slab */
    uint8_t *data;         /* in buffer, at the first segment's place in its page */
    uint32_t length_bytes; /* of data */
    int error;             /* 0, or why it is answered ERROR */
    enum blkif_status status;
    uint64_t flush_covers_bytes; /* a flush: what had been written when it was sent */
    struct nbdcmd cmd;
};

#endif
