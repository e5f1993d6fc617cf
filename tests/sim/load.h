/* simguest's inside: a disk in memory as the model, requests in flight, and who checks them. */
#ifndef LOAD_H
#define LOAD_H

#include "guest.h"

#define LOAD_DEPTH_MAX 256u

/* RW70, READ4K and WRITE4K are aligned 4 KiB requests at random places. */
enum load_mix { MIX_RANDOM, MIX_SEQ, MIX_RW70, MIX_SCATTER, MIX_READ4K, MIX_WRITE4K, MIXES };

struct io {
    bool used;
    struct front_request req;
    uint64_t nr_sectors;
    unsigned nr_frames;
    unsigned frame_of[GUEST_SEGMENTS_MAX]; /* index into frames[] of each segment */
    uint32_t frames[GUEST_SEGMENTS_MAX];   /* the io's own, for ever */
    uint32_t refs[GUEST_SEGMENTS_MAX];     /* granted while in flight */
    uint8_t *before;                       /* what the frames held at submission, copied */
};

struct load_options {
    enum load_mix mix;
    uint64_t requests;
    int64_t run_ms;
    uint64_t seed, model_sectors;
    unsigned depth, flush_every;
    int timeout_ms;
    bool progress, json;
};

struct load {
    struct front *front;
    struct guest *guest;
    struct load_options options;
    uint8_t *model; /* what each sector of the region holds */
    uint64_t rng, cursor;
    unsigned in_flight, since_flush;
    struct io *ios;
    /* Results. */
    uint64_t nr_requests, nr_bytes, nr_wrong_bytes, nr_errors;
    int64_t start_ms, end_ms;
};

uint64_t load_random(struct load *load);
unsigned load_below(struct load *load, unsigned n);

int load_init(struct load *load, struct front *front, const struct load_options *options);
void load_free(struct load *load);
/* Each returns -1 when the disk is beyond use (no answer, protocol broken). What is wrong but can
 * be counted is counted. */
int load_fill(struct load *load);   /* random bytes everywhere: from here the model is known */
int load_run(struct load *load);    /* as the options say */
int load_reread(struct load *load); /* everything, against the model */
bool load_held(const struct load *load);
/* One io alone, its segments chosen by the caller: for hostile.c and case2005.c. */
int load_single(struct load *load, struct io *io);

/* verify.c */
void io_prepare(struct load *load, struct io *io); /* fills its frames, grants them */
void io_finish(struct load *load, struct io *io, int status);

int hostile_run(struct load *load);
int case2005_run(struct load *load);

#endif
