/*
 * disklink: the seam between the two halves of a guest's disk.
 *
 * A vbd (the disk as xenstore sees it, on the xenstore thread) and a disk (the disk as data, on a
 * worker) share nothing but this. It holds one *order*, what the vbd wants, and one *report*, what
 * the disk is; each side overwrites its own and reads the other's, under the link's lock, and is
 * told through its mailbox that the other changed. There is no queue: only the latest counts.
 *
 * A *life* is one opening of the disk, numbered by the vbd. It goes
 *
 *      order OPEN ------> report OPENING, then READY (properties are valid)
 *                                          or  LOST (the server cannot be reached or used: reason)
 *                                          or  REFUSED (what an earlier life kept: reason)
 *      order CONNECT ---> report CONNECTED (the rings are served)
 *                                          or  REFUSED (they cannot be mapped or bound: reason)
 *      (given up) ------> report LOST: requests in flight are held, unanswered, until
 *      order FAIL ------> reads and writes are answered ERROR, flushes are kept back
 *      order SUSPEND ---> for a stop of the daemon: wait for the server a little, answer what it
 *                         did, leave the rest to the kept file, unmap: report CLOSED
 *      order CLOSE -----> answer all, drain, flush, unmap, disconnect: report CLOSED, within
 *                         LIMIT_CLOSE_MS whatever the server does. The kept file is no more.
 *      order END -------> as CLOSE, then report ENDED: the worker has forgotten the disk, and the
 *                         vbd may destroy the link. Only when a lost server can do no more writes
 *                         of this disk's, unless it is to be `at_once`.
 *
 * An OPEN with `resume` is for a frontend that is connected to what an earlier daemon served: it is
 * READY at once, by the kept file, whether there is a server or not, and after CONNECT the requests
 * that were in flight are answered. Without a file it is as any other OPEN, but then CONNECT is
 * REFUSED if requests may be in flight.
 *
 * Rules: orders of a life come in that order and may skip; a new OPEN (life + 1) comes only after
 * CLOSED of the life before; nothing comes after END. A report of an older life than the order's
 * is stale, and is read as "not there yet". SUSPEND, CLOSE and END are legal at any time.
 *
 * A server that is lost is the disk's own affair: no report tells of it.
 *
 * A larger export: an order whose `probe` was raised makes the disk ask its server. If the export
 * has grown, or is found to have in a later session, the disk reports the phase it is in again,
 * with the new capacity. Nothing else may change, and nothing shrinks.
 *
 * Law 6 makes FAIL a step of its own: the vbd first shows backend state 5, so that Linux marks the
 * disk dead, and only then does anything in flight come back with an error.
 */
#ifndef BLKGATE_GATEWAY_DISKLINK_H
#define BLKGATE_GATEWAY_DISKLINK_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/blkif.h"
#include "proto/limits.h"

struct config_disk;
struct disklink;
struct mailbox;

/* Fixed for the life of the link. `config` must outlive it. */
struct disklink_spec {
    char name[96];                    /* for the log: "5/xvda (root)" */
    const struct config_disk *config; /* export and its options */
    uint16_t domid;                   /* the frontend's domain */
    uint32_t devid;                   /* the virtual device */
    const char *keep_dir; /* of its kept file (keepdir.h), with the kind; both outlive it */
    const char *kind;
    bool readonly; /* mode `r`, or the config says so */
    uint32_t connect_timeout_ms;
};

enum disk_want {
    DISK_WANT_OPEN,
    DISK_WANT_CONNECT,
    DISK_WANT_FAIL,
    DISK_WANT_SUSPEND,
    DISK_WANT_CLOSE,
    DISK_WANT_END,
};

struct disk_ring {
    uint32_t page_count; /* 1 .. LIMIT_RING_PAGES */
    uint32_t refs[LIMIT_RING_PAGES];
    uint32_t event_channel; /* the frontend's port */
};

struct disk_order {
    uint32_t life;
    enum disk_want want;
    uint32_t probe; /* raised: look whether the export has grown (READY, CONNECTED) */
    bool at_once;   /* END: the daemon stops, nobody will open the export again here */
    /* for OPEN: */
    uint64_t device_nonce; /* this life of the device (blkgate-device) */
    uint32_t entry_count;  /* requests that the rings offered may have in flight */
    bool resume;           /* a frontend is connected to what an earlier daemon served */
    /* for CONNECT: */
    enum blkif_abi abi;
    uint16_t indirect_segments; /* as published; 0: no INDIRECT */
    bool discard;               /* feature-discard was published */
    uint32_t queue_count;       /* 1 .. LIMIT_QUEUES */
    struct disk_ring queue[LIMIT_QUEUES];
};

enum disk_phase {
    DISK_OPENING,
    DISK_READY,
    DISK_CONNECTED,
    DISK_REFUSED,
    DISK_LOST,
    DISK_CLOSED,
    DISK_ENDED,
};

struct disk_properties {
    uint64_t capacity_sectors;
    bool readonly; /* by mode, config or server */
    bool flush;    /* publish feature-flush-cache */
    bool discard;  /* the server trims */
    uint32_t discard_granularity_bytes;
    uint32_t physical_sector_bytes; /* 512 .. 4096 */
};

struct disk_report {
    uint32_t life;
    enum disk_phase phase;
    bool stale; /* CONNECTED: the guest has made its rings anew, and waits for a new life */
    struct disk_properties properties; /* from READY on */
    char reason[LIMIT_REASON_BYTES];   /* LOST, REFUSED: why; CLOSED: "" or what was not flushed */
};

/* The vbd's side. `changed` runs on vbd_box's thread after each new report. The disk side is told
 * through disk_box; the caller hands the link to a worker (worker_place_disk). */
int disklink_create(const struct disklink_spec *spec, struct mailbox *vbd_box,
                    void (*changed)(void *arg), void *arg, struct disklink **ret_link);
void disklink_destroy(struct disklink *link); /* after ENDED, or if never placed; NULL is fine */
void disklink_order(struct disklink *link, const struct disk_order *order);
void disklink_report(struct disklink *link, struct disk_report *ret_report);

/* The disk's side. */
const struct disklink_spec *disklink_spec(const struct disklink *link);
void disklink_attach(struct disklink *link, struct mailbox *disk_box, void (*changed)(void *arg),
                     void *arg);
/* Worker thread: no more calls of `changed`, and reports still reach the vbd. Comes before ENDED is
 * published, which is the disk's last touch of the link: the vbd may destroy it at once. */
void disklink_detach(struct disklink *link);
void disklink_current_order(struct disklink *link, struct disk_order *ret_order);
void disklink_publish(struct disklink *link, const struct disk_report *report);

#endif
