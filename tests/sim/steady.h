/* steadyguest's inside: a load that goes on through outages of any length, and knows of each
 * sector which write it must hold.
 *
 * 1. A sector has one write (or discard) in flight at most, and no read beside it, as below a file
 *    system: so each read has one right outcome.
 * 2. Every write has a number of its own, and each sector's bytes say sector, number and time: what
 *    is wrong can be named (an older write; whose, and from when).
 * 3. A ring is looked at only after an event of its own: an answer that nobody notifies of is not
 *    found by chance, but missed, as by a real guest.
 */
#ifndef STEADY_H
#define STEADY_H

#include "guest.h"

#include <signal.h>

#define STEADY_DEPTH_MAX 256u
#define STEADY_PLACES    8u /* that are hot; their sectors are spread evenly over these */

enum steady_op { STEADY_READ, STEADY_WRITE, STEADY_FLUSH, STEADY_DISCARD, STEADY_OPS };

enum steady_knowledge {
    STEADY_KNOWN,
    STEADY_DISCARDED, /* the write's bytes or zeros */
    STEADY_UNKNOWN    /* the last write failed */
};

struct steady_sector {
    uint64_t write;    /* the last that was answered: its number */
    uint64_t answered; /* as which of all answers to writes */
    uint32_t sent_ms, answered_ms;
    uint16_t readers; /* in flight */
    uint8_t knowledge;
    bool writer; /* in flight */
};

struct steady_io {
    bool used;
    struct front_request req;
    enum steady_op op;
    uint64_t sector, write;
    unsigned nr_sectors, first; /* first: the place of the first sector in its page */
    unsigned nr_frames;
    struct front_segment segments[GUEST_INDIRECT_MAX];
    uint32_t frames[GUEST_INDIRECT_MAX]; /* the io's own, for ever */
    uint32_t refs[GUEST_INDIRECT_MAX];   /* granted while in flight */
    uint32_t list_frame, list_ref;       /* an indirect request's descriptors */
    uint64_t covers;                     /* a flush: the answers to writes before it was sent */
    uint32_t sent_ms;
    int64_t sent_us;
};

struct steady_options {
    uint64_t requests;   /* 0: no end by their number */
    int64_t run_ms;      /* 0: no end by time */
    int64_t patience_ms; /* for one answer; 0: for ever */
    uint64_t seed, sectors;
    unsigned depth, indirect, hot, flush_every, discard_every;
    int64_t tell_ms;
    unsigned rate; /* requests a second; 0: as fast as they are answered */
    bool errors_allowed;
    const volatile sig_atomic_t *stop; /* set by a signal: the load ends */
    const char *image; /* the region as it must be, in the end, for others to compare */
};

struct steady_latency {
    uint64_t count;
    int64_t max_us, at_ms; /* the longest, and when it was answered */
};

struct steady {
    struct front *front;
    struct guest *guest;
    struct steady_options options;
    struct steady_sector *sectors;
    struct steady_io *ios;
    uint64_t rng, cursor, nr_writes, nr_answered, flushed;
    unsigned in_flight, since_flush, frames_each;
    bool event[GUEST_QUEUES_MAX]; /* came, and its ring was not looked at yet */
    int64_t start_ms, answer_ms, looked_ms, told_ms;
    /* Results. */
    uint64_t nr_requests, nr_indirect, nr_errors, nr_flush_failures;
    uint64_t nr_wrong_bytes, nr_stale_sectors; /* seen by reads; stale: an older write's bytes */
    uint64_t nr_lost, nr_lost_flushed;         /* in the end: sectors without their last write */
    uint64_t nr_unanswered;
    struct steady_latency latency[STEADY_OPS];
    int64_t gap_ms; /* the longest without any answer */
    bool ending;    /* rereading */
    bool closed;    /* the backend gave up */
};

/* Each returns -1 when the disk is beyond use: the protocol broken, state 4 left, patience over. */
int steady_init(struct steady *steady, struct front *front, const struct steady_options *options);
int steady_fill(struct steady *steady);  /* every sector is written, and flushed */
int steady_run(struct steady *steady);   /* as the options say, or until *stop; then all drained */
int steady_flush(struct steady *steady); /* one flush, alone */
int steady_reread(struct steady *steady);
int steady_image_write(const struct steady *steady);
bool steady_held(const struct steady *steady);
void steady_free(struct steady *steady);

/* steady-io.c: one request's bytes. */
void steady_io_prepare(struct steady *steady, struct steady_io *io); /* fills and grants frames */
void steady_io_finish(struct steady *steady, struct steady_io *io, int status);
void steady_stamp(uint8_t *to, uint64_t sector, uint64_t write, uint32_t ms);
uint32_t steady_now_ms(const struct steady *steady);

#endif
