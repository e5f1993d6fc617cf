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
#include "gateway/keep.h"
#include "gateway/log.h"
#include "gateway/request.h"
#include "gateway/target.h"

/* clang-format off */
#define DISK_STATES(X) \
    X(CLOSED) X(OPENING) X(READY) X(REFUSED) X(CONNECTED) X(LOST) X(FAILING) X(DRAINING) \
    X(FLUSHING) X(SUSPENDING)
/* clang-format on */

enum disk_state {
#define X(name) STATE_##name,
    DISK_STATES(X)
#undef X
        STATE_COUNT
};

/* The session with the server, as far as the disk has come with it (disk_session.c). */
enum disk_session {
    SESSION_DOWN,      /* nothing can be sent; the target tries */
    SESSION_REPLAYING, /* what is kept is written again, and nothing else */
    SESSION_UP,
};

/* A piece of a replay, at the server. */
struct replay_cmd {
    struct nbdcmd cmd;
    struct kept *kept; /* NULL: not in use */
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
    struct keep *keep;
    uint32_t haunted_by; /* CLOSED, OPENING: lost sessions that may still write; not open before */
    bool target_ready;
    bool file_busy; /* OPENING: another daemon has the kept file */
    bool resumed;   /* what an earlier life of the daemon left: its file is open */
    bool must_idle; /* connected by an earlier life, but without its file */
    bool given_up;  /* no request will be sent any more: lost_reason */
    bool stale;     /* the guest has made its rings anew: what it asked before is of no use to it */
    enum target_flush flush_kind;
    struct disk_properties properties;
    char lost_reason[LIMIT_REASON_BYTES];
    char away_reason[LIMIT_REASON_BYTES]; /* why there has been no server since lost_at */
    uint32_t refusals;                    /* of paths, since then */

    struct blkif_limits limits;
    struct queue *queues[LIMIT_QUEUES];
    uint32_t queue_count;
    uint32_t copying_out_count;
    uint32_t descriptors_count; /* requests that have their descriptors in memory */

    struct list requests;    /* all unfinished, by age */
    struct list unread;      /* indirect ones that wait for a buffer for their descriptors */
    struct list reading;     /* indirect ones whose descriptors come with this turn's copy */
    struct list copying_out; /* writes whose data comes with this turn's copy */
    struct list replied;     /* to be answered in this turn */
    size_t memory_bytes;     /* of the slab: this disk's */
    uint8_t *reserve; /* with the rings: a page for descriptors, then data; the oldest request's */

    enum disk_session session;
    uint32_t probe;  /* the order's that was last acted on */
    bool growing;    /* the probe found more: nothing is sent until there is a new session */
    bool flush_sent; /* a guest's is at the server */
    bool own_flush_sent;
    uint32_t flush_failures; /* since one that was good */
    struct nbdcmd own_flush; /* for room; the last of a life */
    uint64_t own_flush_mark;
    double lost_at;              /* the loop's time; 0: there is a server */
    struct ev_timer hold_timer;  /* on-loss = hold TIME */
    struct ev_timer rest_timer;  /* on-error = retry: some requests rest until then */
    struct ev_timer close_timer; /* of a close or a stop */

    struct replay_cmd replay[LIMIT_COMMANDS_IN_FLIGHT];
    uint32_t replay_out;
    struct kept *replay_kept; /* whose part is next; NULL: none is */
    struct journal_part replay_part;

    struct log_limit log_guest, log_server, log_session;
};

/* disk.c */
void disk_activate(struct disk *disk);
void disk_give_up(struct disk *disk, const char *reason); /* service ends here: LOST */
void disk_is_stale(struct disk *disk);
void disk_has_grown(struct disk *disk, uint64_t capacity_sectors);

/* disk_session.c */
extern const struct target_handler disk_target_handler;
void disk_session_reset(struct disk *disk); /* at the begin of a life */
void disk_session_quit(struct disk *disk);  /* and at the end: what is in flight comes back */
void disk_session_hold(struct disk *disk);  /* there is none, and a guest waits */
void disk_session_step(struct disk *disk);
bool disk_flush_by_itself(struct disk *disk);                      /* true: it was sent */
void disk_flush_over(struct disk *disk, uint64_t mark, int error); /* whoever had it sent */
bool disk_may_send(const struct disk *disk);

/* disk_turn.c */
void disk_request_completed(struct disk *disk, struct request *request, int error);
void disk_request_readopted(struct disk *disk, struct request *request,
                            const struct journal_entry *entry);
void disk_request_forget(struct disk *disk, struct request *request);
void disk_on_rested(struct ev_loop *loop, struct ev_timer *timer, int events);
void disk_fail_waiting(struct disk *disk, bool flushes_too);
bool disk_is_quiet(const struct disk *disk); /* nothing is at the server */

#endif
