/* simguest's inside: a disk in memory as the model, requests in flight, and who checks them. */
#ifndef LOAD_H
#define LOAD_H

#include "guest.h"

#define LOAD_DEPTH_MAX 256u

/* RW70, READ4K and WRITE4K are aligned 4 KiB requests at random places. SEQ's are as long as the
 * options allow. */
enum load_mix { MIX_RANDOM, MIX_SEQ, MIX_RW70, MIX_SCATTER, MIX_READ4K, MIX_WRITE4K, MIXES };

/* What the model knows of a sector. */
enum knowledge {
    KNOWN,
    DISCARDED, /* it has its old bytes or zeros; which, the next read says */
    UNKNOWN    /* the next read says */
};

struct io {
    bool used;
    struct front_request req; /* sent as INDIRECT if it says so: see io_indirect */
    uint64_t nr_sectors;
    unsigned nr_frames;
    struct front_segment segments[GUEST_INDIRECT_MAX];
    unsigned frame_of[GUEST_INDIRECT_MAX]; /* index into frames[] of each segment */
    uint32_t frames[GUEST_INDIRECT_MAX];   /* the io's own, for ever */
    uint32_t refs[GUEST_INDIRECT_MAX];     /* granted while in flight */
    uint32_t list_frame, list_ref;         /* an indirect request's descriptors */
    uint8_t *before;                       /* what the frames held at submission, copied */
};

struct load_options {
    enum load_mix mix;
    uint64_t requests;
    int64_t run_ms;
    const char *until; /* for as long as there is no such file */
    uint64_t seed, model_sectors;
    unsigned depth, flush_every, discard_every;
    unsigned indirect; /* the most segments of an indirect request; 0: none */
    bool flush_data, discard_all, features;
    uint64_t grown_sectors; /* the disk must grow to this while the load runs; 0: it need not */
    int timeout_ms;
    bool progress, json;
};

struct load {
    struct front *front;
    struct guest *guest;
    struct load_options options;
    uint8_t *model;     /* what each sector of the region holds */
    uint8_t *knowledge; /* of each sector: enum knowledge */
    uint64_t rng, cursor, end_of_last;
    bool writes; /* the last of a mixture did */
    unsigned in_flight, since_flush, since_discard, frames_each, nr_junk;
    struct io *ios;
    bool grown;
    int64_t looked_ms, until_looked_ms;
    bool over; /* the file of `until` was there */
    /* Results. */
    uint64_t nr_requests, nr_bytes, nr_wrong_bytes, nr_errors;
    uint64_t nr_indirect, nr_discards, nr_flush_writes, nr_of_queue[GUEST_QUEUES_MAX];
    int64_t start_ms, end_ms;
};

uint64_t load_random(struct load *load);
unsigned load_below(struct load *load, unsigned n);

int load_init(struct load *load, struct front *front, const struct load_options *options);
void load_free(struct load *load);
/* Each returns -1 when the disk is beyond use (no answer, protocol broken). What is wrong but can
 * be counted is counted. */
int load_fill(struct load *load);    /* random bytes everywhere: from here the model is known */
int load_adopt(struct load *load);   /* instead: what is there is right (a read-only disk) */
int load_discard(struct load *load); /* the whole disk in one request */
int load_run(struct load *load);     /* as the options say */
int load_reread(struct load *load);  /* everything, against the model */
bool load_held(const struct load *load);
/* One io alone, its segments chosen by the caller: for hostile.c and case2005.c. */
int load_single(struct load *load, struct io *io);

/* verify.c */
uint8_t io_op(const struct io *io); /* the inner one of an indirect request */
bool io_writes(const struct io *io);
void io_indirect(struct io *io);                   /* a READ or WRITE, from now on indirect */
void io_prepare(struct load *load, struct io *io); /* fills its frames, grants them */
void io_revoke(struct load *load, struct io *io);
/* Counts bytes of its frames that are neither as before nor what a read may have brought. A segment
 * with frame_of beyond nr_frames brings nothing there. */
enum moved { MOVED_NOTHING, MOVED_PARTLY, MOVED_ALL };
void io_check(struct load *load, struct io *io, enum moved moved);
void io_finish(struct load *load, struct io *io, int status);

int hostile_run(struct load *load);
/* hostile-nodes.c: each leaves the disk connected. */
int hostile_nodes(struct load *load); /* junk where the rings are named */
int hostile_states(struct load *load);
int hostile_reconnect(struct load *load, const char *what);
int case2005_run(struct load *load);

#endif
