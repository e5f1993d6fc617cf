/*
 * disk_private: what disk.c (a disk's life) and disk_turn.c (the steps of a turn) share.
 */
#ifndef BLKGATE_GATEWAY_DISK_PRIVATE_H
#define BLKGATE_GATEWAY_DISK_PRIVATE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/disk.h"
#include "gateway/disklink.h"
#include "gateway/log.h"
#include "gateway/request.h"
#include "gateway/target.h"

#define DISK_STATES(X) \
    X(CLOSED) X(OPENING) X(READY) X(REFUSED) X(CONNECTED) X(LOST) X(FAILING) X(DRAINING) X(FLUSHING)

enum disk_state {
#define X(name) STATE_##name,
    DISK_STATES(X)
#undef X
        STATE_COUNT
};

struct disk {
    struct list active; /* in home->active: has something to do in the next round */
    struct list place;  /* in a list of the worker's */
    struct list starved;
    struct disk_home *home;
    struct disklink *link;
    const struct disklink_spec *spec;
    const char *name;
    enum disk_state state;
    uint32_t life;

    struct target *target;
    bool target_ready;
    bool given_up;    /* no request will be sent any more: lost_reason */
    bool server_gone; /* and why: the server, not the guest; no flush will do any more either */
    char lost_reason[LIMIT_REASON_BYTES];
    enum target_flush flush_kind;
    struct disk_properties properties;

    struct blkif_limits limits;
    struct queue *queues[LIMIT_QUEUES];
    uint32_t queue_count;

    struct list requests;    /* all unfinished, by age */
    struct list unread;      /* indirect ones that wait for a buffer for their descriptors */
    struct list reading;     /* indirect ones whose descriptors come with this turn's copy */
    struct list copying_out; /* writes whose data comes with this turn's copy */
    uint32_t copying_out_count;
    struct list replied; /* to be answered in this turn */
    size_t memory_bytes; /* of the slab: this disk's */
    uint8_t *reserve; /* with the rings: a page for descriptors, then data; the oldest request's */
    uint32_t descriptors_count; /* requests that have their descriptors there */

    /* Both only grow. A flush covers what was written when it was sent. */
    uint64_t written_bytes;
    uint64_t flushed_bytes;

    /* Our own flush: the last one of a life, and the one before a change of connection. */
    struct nbdcmd own_flush;
    uint64_t own_flush_covers_bytes;
    bool own_flush_sent;
    struct ev_timer close_timer;

    uint32_t probe; /* the order's that was last acted on */
    bool growing;   /* the probe found more: nothing is sent until the target has switched */

    struct log_limit log_guest, log_server;
};

/* disk.c */
void disk_activate(struct disk *disk);
void disk_give_up(struct disk *disk, const char *reason);     /* service ends here: LOST */
void disk_lose_server(struct disk *disk, const char *reason); /* ... and by the server's fault */

/* disk_turn.c */
void disk_request_completed(struct disk *disk, struct request *request, int error);
void disk_fail_waiting(struct disk *disk, bool flushes_too);
bool disk_is_quiet(const struct disk *disk); /* nothing is at the server */

#endif
