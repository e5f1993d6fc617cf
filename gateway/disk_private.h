/*
 * disk_private: what the files that are a disk share: disk.c (its life), disk_session.c (its
 * server), disk_turn.c (the steps of a turn), disk_command.c (what is at the server).
 */
#ifndef BLKGATE_GATEWAY_DISK_PRIVATE_H
#define BLKGATE_GATEWAY_DISK_PRIVATE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/disk.h"
#include "gateway/command.h"
#include "gateway/disklink.h"
#include "gateway/grants.h"
#include "gateway/keep.h"
#include "gateway/log.h"
#include "gateway/request.h"
#include "gateway/target.h"
#include "proto/plan.h"

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

/* A piece of a replay, at the server; all of it, or as much as the server takes in one command. */
struct replay_cmd {
    struct nbdcmd cmd;
    struct kept *kept;        /* NULL: not in use */
    struct journal_part part; /* what is not done of it */
    uint32_t chunk_bytes;     /* ... and at the server */
    uint32_t chunk_max_bytes; /* a longer chunk failed, for its length perhaps */
};

struct disk {
    struct list active; /* in home->active: has something to do in the next round */
    struct list place;  /* in a list of the worker's */
    struct list starved;
    struct list unarmed; /* in home->unarmed */
    struct disk_home *home;
    struct disklink *link;
    const struct disklink_spec *spec;
    const char *name;
    enum disk_state state;
    uint32_t life;

    struct target *target;
    struct keep *keep;
    uint32_t haunted_by; /* CLOSED, OPENING: lost sessions that may still write; not open before */
    bool order_waits;    /* there is one that was not looked at, or could not be done yet */
    bool target_ready;
    bool file_busy; /* OPENING: another daemon has the kept file */
    bool resumed;   /* what an earlier life of the daemon left: its file is open */
    bool settling;  /* OPENING: what is kept must be flushed, as this life needs a larger file */
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
    uint32_t descriptors_count; /* requests that have their descriptors in memory */

    struct list requests;   /* all unfinished, by age */
    struct list *unplanned; /* in it: the first that is not in the plan; or its head */
    struct list unread;     /* indirect ones that wait for a buffer for their descriptors */
    struct list reading;    /* indirect ones whose descriptors come with this turn's copy */
    struct list flushes;    /* those that a flush is to be done for, by age */
    struct list again, ready, unkept, pressed; /* READY: see disk_turn.c */
    struct list waiting, haunted, resting;
    struct list replied;    /* to be answered in this turn */
    struct plan plan;       /* of up to LIMIT_PLAN_REQUESTS, the oldest */
    uint32_t started_bytes; /* in this round */
    size_t memory_bytes;    /* of the slab: this disk's */
    uint8_t *reserve; /* with the rings: a page for descriptors, then data; the oldest request's */

    uint32_t command_count, commands_used; /* of `commands`, those that ever were */
    struct command *free_commands;
    struct list collected; /* whose bytes come with this turn's copy */
    uint32_t collected_count;
    uint32_t commands_out; /* at the server, and collected */
    uint32_t came_back;    /* of them, while requests waited: each lets one go */
    struct merge {
        uint32_t max_bytes;    /* of a command for several requests */
        uint32_t enough_bytes; /* nothing waits to be longer than this */
        uint32_t pipeline;     /* with so many commands at each connection, short ones wait */
    } merge;

    enum disk_session session;
    uint32_t probe;        /* the order's that was last acted on */
    bool growing;          /* the probe found more: nothing is sent until there is a new session */
    struct request *flush; /* a guest's, at the server */
    struct nbdcmd flush_cmd;
    bool own_flush_sent;
    uint32_t flush_failures; /* since one that was good */
    struct nbdcmd own_flush; /* for room; the last of a life */
    uint64_t own_flush_mark;
    double lost_at;              /* the loop's time; 0: there is a server */
    struct ev_timer hold_timer;  /* on-loss = hold TIME */
    struct ev_timer rest_timer;  /* on-error = retry: some requests rest until then */
    struct ev_timer close_timer; /* of a close or a stop */

    struct replay_cmd *replay; /* LIMIT_COMMANDS_IN_FLIGHT of them, since the first replay */
    uint32_t replay_out;
    struct kept *replay_kept; /* whose part is next; NULL: none is */
    struct journal_part replay_part;

    struct log_limit log_guest, log_server, log_session;

    struct command commands[];
};

/* disk.c */
void disk_activate(struct disk *disk);
void disk_give_up(struct disk *disk, const char *reason); /* service ends here: LOST */
void disk_is_stale(struct disk *disk);
void disk_has_grown(struct disk *disk, uint64_t capacity_sectors);

/* disk_rings.c */
/* Opens and starts those of the order. -errno and a reason: some may be open, some requests taken.
 */
int disk_rings_start(struct disk *disk, const struct disk_order *order, char *reason,
                     size_t reason_bytes);
void disk_rings_close(struct disk *disk); /* no request is left */

/* disk_session.c */
extern const struct target_handler disk_target_handler;
void disk_session_reset(struct disk *disk); /* at the begin of a life */
void disk_session_quit(struct disk *disk);  /* and at the end: what is in flight comes back */
void disk_session_hold(struct disk *disk);  /* there is none, and a guest waits */
void disk_session_step(struct disk *disk);
void disk_settle(struct disk *disk); /* OPENING: replays and flushes what is kept, step by step */
bool disk_flush_by_itself(struct disk *disk);                      /* true: it was sent */
void disk_flush_over(struct disk *disk, uint64_t mark, int error); /* whoever had it sent */
bool disk_may_send(const struct disk *disk);

/* disk_turn.c */
void disk_request_replied(struct disk *disk, struct request *request, int error);
void disk_request_rests(struct disk *disk, struct request *request);
int disk_request_readopted(struct disk *disk, struct request *request,
                           const struct journal_entry *entry);
void disk_requests_readopted(struct disk *disk); /* all of them */
void disk_request_forget(struct disk *disk, struct request *request);
void disk_flush_completed(struct disk *disk, int error); /* a guest's */
void disk_unhaunt(struct disk *disk);                    /* look again at what waits for ghosts */
void disk_on_rested(struct ev_loop *loop, struct ev_timer *timer, int events);
/* Of a frontend that is still there, once, before a close: whether or not an event told of it. */
void disk_take_last(struct disk *disk);
void disk_fail_waiting(struct disk *disk, bool flushes_too);
void disk_copy(struct disk *disk, struct request *request, enum grants_direction direction);
void disk_drop_descriptors(struct disk *disk, struct request *request); /* twice is fine */
void *disk_get_memory(struct disk *disk, bool oldest, size_t bytes, uint8_t *reserve);
void disk_put_memory(struct disk *disk, void *memory, size_t bytes, const uint8_t *reserve);

/* disk_command.c */
void disk_commands_reset(struct disk *disk);    /* with the rings */
bool disk_has_command(const struct disk *disk); /* a free one */
/* What would be one command: the request and, if they are ready too, others beside it. */
void disk_gather(struct disk *disk, struct request *request, struct plan_run *ret_run);
/* Starts it, the request alone if there is no more memory; false: no memory or no record now. */
bool disk_command_start(struct disk *disk, struct request *request, const struct plan_run *run);
/* The grant copies of those collected are made: sends them. */
void disk_commands_send(struct disk *disk);
void disk_command_completed(struct disk *disk, struct command *command, int error);
/* One of its requests is answered. */
void disk_command_answered(struct disk *disk, struct request *request);
bool disk_is_quiet(const struct disk *disk); /* nothing is at the server */
/* May that have failed for its length? And what is to be tried then. */
bool disk_may_be_too_long(uint32_t chunk_bytes, int error);
uint32_t disk_shorter(uint32_t chunk_bytes);

#endif
