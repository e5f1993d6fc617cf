/* Legal load with many requests in flight.
 *
 * 1. Two requests in flight never overlap unless both read, so that each has one right outcome.
 * 2. A slot of ios[] owns its frames; they are granted only while its request is in flight. */
#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_SECTORS (GUEST_PAGE / GUEST_SECTOR)
#define TRIES        16

/* Chooses the next request; false when there is none (now, or any more). */
typedef bool next_fn(struct load *load, struct io *io);

uint64_t load_random(struct load *load)
{
    uint64_t x = load->rng;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    load->rng = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

unsigned load_below(struct load *load, unsigned n)
{
    return (unsigned)((load_random(load) >> 33) % n);
}

int load_init(struct load *load, struct front *front, const struct load_options *options)
{
    unsigned i, f;

    memset(load, 0, sizeof(*load));
    load->front = front;
    load->guest = front->guest;
    load->options = *options;
    load->rng = options->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    if (load->options.model_sectors > front->sectors)
        load->options.model_sectors = front->sectors;
    load->frames_each = GUEST_SEGMENTS_MAX;
    if (load->options.indirect > GUEST_SEGMENTS_MAX)
        load->frames_each = load->options.indirect;
    load->model = calloc(load->options.model_sectors, GUEST_SECTOR);
    load->knowledge = calloc(load->options.model_sectors, 1);
    load->ios = calloc(load->options.depth, sizeof(*load->ios));
    if (!load->model || !load->knowledge || !load->ios ||
        load->options.model_sectors < (uint64_t)load->frames_each * PAGE_SECTORS) {
        fprintf(stderr, "simguest: no memory, or the disk is smaller than one request\n");
        return -1;
    }
    for (i = 0; i < load->options.depth; i++) {
        load->ios[i].before = calloc(load->frames_each, GUEST_PAGE);
        if (!load->ios[i].before)
            return -1;
        for (f = 0; f < load->frames_each; f++)
            load->ios[i].frames[f] = guest_frames_alloc(load->guest, 1);
        load->ios[i].list_frame = guest_frames_alloc(load->guest, 1);
    }
    load->start_ms = guest_clock_ms();
    return 0;
}

void load_free(struct load *load)
{
    unsigned i;

    for (i = 0; load->ios && i < load->options.depth; i++)
        free(load->ios[i].before);
    free(load->ios);
    free(load->model);
    free(load->knowledge);
}

bool load_held(const struct load *load)
{
    return load->nr_wrong_bytes == 0 && load->nr_errors == 0;
}

static bool overlaps_in_flight(const struct load *load, const struct io *io)
{
    const struct io *other;
    unsigned i;

    for (i = 0; i < load->options.depth; i++) {
        other = &load->ios[i];
        if (!other->used || other == io || other->nr_sectors == 0 ||
            (io_op(other) == OP_READ && io_op(io) == OP_READ))
            continue;
        if (other->req.sector < io->req.sector + io->nr_sectors &&
            io->req.sector < other->req.sector + other->nr_sectors)
            return true;
    }
    return false;
}

static void io_clear(struct io *io, uint8_t op)
{
    memset(&io->req, 0, sizeof(io->req));
    io->req.op = op;
    io->nr_sectors = 0;
    io->nr_frames = 0;
}

static void segment_add(struct io *io, unsigned frame, unsigned first, unsigned last)
{
    unsigned i = io->req.nr_segments++;

    io->frame_of[i] = frame;
    io->segments[i].first = (uint8_t)first;
    io->segments[i].last = (uint8_t)last;
    io->nr_sectors += last - first + 1;
    if (frame >= io->nr_frames)
        io->nr_frames = frame + 1;
}

/* Whole pages in order: fill, reread, and the `seq` mix. Indirect requests of them are as long as
 * they may be. */
static bool next_pages(struct load *load, struct io *io, uint8_t op, bool indirect)
{
    uint64_t left = load->options.model_sectors - load->cursor;
    unsigned max = indirect ? load->options.indirect : GUEST_SEGMENTS_MAX, last;

    io_clear(io, op);
    io->req.sector = load->cursor;
    while (left > 0 && io->req.nr_segments < max) {
        last = left < PAGE_SECTORS ? (unsigned)left - 1 : PAGE_SECTORS - 1;
        segment_add(io, io->req.nr_segments, 0, last);
        left -= last + 1;
    }
    if (indirect)
        io_indirect(io);
    if (io->nr_sectors == 0 || overlaps_in_flight(load, io))
        return false;
    load->cursor += io->nr_sectors;
    return true;
}

static bool indirect_half(struct load *load)
{
    return load->options.indirect && load_below(load, 2);
}

static bool next_fill(struct load *load, struct io *io)
{
    return next_pages(load, io, OP_WRITE, indirect_half(load));
}

static bool next_reread(struct load *load, struct io *io)
{
    return next_pages(load, io, OP_READ, indirect_half(load));
}

/* Anywhere; every other time right behind the last one that was placed, so that neighbours meet. */
static void choose_place(struct load *load, struct io *io)
{
    uint64_t places = load->options.model_sectors - io->nr_sectors + 1;

    if (load_below(load, 2) && load->end_of_last < places)
        io->req.sector = load->end_of_last;
    else
        io->req.sector = load_random(load) % places;
    load->end_of_last = io->req.sector + io->nr_sectors;
}

/* Any scatter list: frames repeat and come in any order, parts of them too. */
static void scatter(struct load *load, struct io *io, unsigned nr, bool small)
{
    unsigned frames = 1 + load_below(load, nr), first, last;

    while (io->req.nr_segments < nr) {
        first = load_below(load, PAGE_SECTORS);
        last = first + load_below(load, PAGE_SECTORS - first);
        if (small && load_below(load, 4))
            last = first;
        if (!small && load_below(load, 3) == 0)
            first = 0, last = PAGE_SECTORS - 1;
        segment_add(io, load_below(load, frames), first, last);
    }
    io->nr_frames = frames; /* some may be granted and not named */
    choose_place(load, io);
}

/* Mostly what a file system sends; also as few as a direct request has, and as many as are offered.
 */
static unsigned indirect_segments(struct load *load)
{
    unsigned max = load->options.indirect, kind = load_below(load, 20);

    if (kind < 10 && max > GUEST_SEGMENTS_MAX)
        max = GUEST_SEGMENTS_MAX;
    else if (kind < 19 && max > 32)
        max = 32;
    return 1 + load_below(load, max);
}

static void choose(struct load *load, struct io *io)
{
    static const unsigned percent_read[MIXES] = {
        [MIX_RANDOM] = 50, [MIX_SCATTER] = 50, [MIX_RW70] = 70, [MIX_READ4K] = 100};
    enum load_mix mix = load->options.mix;

    if (load_below(load, 2)) /* else as the last one: alike, neighbours may be merged */
        load->writes = !load->front->readonly && load_below(load, 100) >= percent_read[mix];
    io_clear(io, load->writes ? OP_WRITE : OP_READ);
    if (mix == MIX_RW70 || mix == MIX_READ4K || mix == MIX_WRITE4K) {
        segment_add(io, 0, 0, PAGE_SECTORS - 1);
        io->req.sector =
            load_random(load) % (load->options.model_sectors / PAGE_SECTORS) * PAGE_SECTORS;
    } else if (load->options.indirect && load_below(load, 3) == 0) {
        scatter(load, io, indirect_segments(load), mix == MIX_SCATTER);
        io_indirect(io);
    } else {
        scatter(load, io,
                mix == MIX_SCATTER ? GUEST_SEGMENTS_MAX : 1 + load_below(load, GUEST_SEGMENTS_MAX),
                mix == MIX_SCATTER);
    }
}

/* Up to 256 KiB, at any sector: neither end need be the server's. */
static void choose_discard(struct load *load, struct io *io)
{
    io_clear(io, OP_DISCARD);
    io->req.nr_sectors = 1 + load_below(load, load_below(load, 2) ? 16 : 512);
    io->nr_sectors = io->req.nr_sectors;
    io->req.sector = load_random(load) % (load->options.model_sectors - io->nr_sectors + 1);
}

static void choose_flush(struct load *load, struct io *io)
{
    io_clear(io, OP_FLUSH);
    if (load->options.flush_data && load_below(load, 2))
        scatter(load, io, 1 + load_below(load, GUEST_SEGMENTS_MAX), false);
}

/* Is it the turn of what comes once in `every` requests? */
static bool turn_of(unsigned every, unsigned *since)
{
    if (every == 0 || ++*since <= every)
        return false;
    *since = 0;
    return true;
}

typedef void choose_fn(struct load *load, struct io *io);

static choose_fn *choose_kind(struct load *load)
{
    if (load->front->flush && turn_of(load->options.flush_every, &load->since_flush))
        return choose_flush;
    if (load->front->discard && turn_of(load->options.discard_every, &load->since_discard))
        return choose_discard;
    return choose;
}

static bool finished(struct load *load)
{
    int64_t now_ms;

    if (load->options.requests)
        return load->nr_requests >= load->options.requests;
    if (load->options.until) {
        now_ms = guest_clock_ms();
        if (!load->over && now_ms - load->until_looked_ms >= 50) {
            load->until_looked_ms = now_ms;
            load->over = access(load->options.until, F_OK) == 0;
        }
        return load->over;
    }
    return guest_clock_ms() - load->start_ms >= load->options.run_ms;
}

static bool next_mixed(struct load *load, struct io *io)
{
    choose_fn *choose_it;
    unsigned i;

    if (finished(load))
        return false;
    if (load->options.mix == MIX_SEQ) {
        if (load->cursor >= load->options.model_sectors)
            load->cursor = 0;
        return next_pages(load, io, (load->nr_requests >> 8) & 1 ? OP_READ : OP_WRITE,
                          load->options.indirect > 0);
    }
    choose_it = choose_kind(load);
    for (i = 0; i < TRIES; i++) {
        choose_it(load, io);
        if (!overlaps_in_flight(load, io))
            return true;
    }
    return false;
}

static struct io *io_unused(struct load *load)
{
    unsigned i;

    for (i = 0; i < load->options.depth; i++)
        if (!load->ios[i].used)
            return &load->ios[i];
    return NULL;
}

static void count(struct load *load, const struct io *io, unsigned queue)
{
    load->nr_requests++;
    load->nr_indirect += io->req.op == OP_INDIRECT;
    load->nr_discards += io->req.op == OP_DISCARD;
    load->nr_flush_writes += io->req.op == OP_FLUSH && io->req.nr_segments > 0;
    load->nr_of_queue[queue]++;
}

static int io_submit(struct load *load, struct io *io, unsigned queue)
{
    io_prepare(load, io);
    if (front_push(load->front, queue, &io->req))
        return -1;
    io->used = true;
    load->in_flight++;
    count(load, io, queue);
    return 0;
}

static int submit(struct load *load, next_fn *next)
{
    bool pushed[GUEST_QUEUES_MAX] = {false};
    unsigned queue;
    struct io *io;

    while ((io = io_unused(load))) {
        queue = load_below(load, load->front->nr_queues);
        if (front_room(&load->front->queues[queue]) == 0 || !next(load, io))
            break;
        if (io_submit(load, io, queue))
            return -1;
        pushed[queue] = true;
    }
    for (queue = 0; queue < load->front->nr_queues; queue++)
        if (pushed[queue])
            front_publish(load->front, queue);
    return 0;
}

static struct io *io_of(struct load *load, uint64_t id)
{
    unsigned i;

    for (i = 0; i < load->options.depth; i++)
        if (load->ios[i].used && load->ios[i].req.id == id)
            return &load->ios[i];
    return NULL;
}

/* The number of answers taken, or -1. */
static int reap(struct load *load)
{
    struct front_response rsp;
    int got, count = 0;
    struct io *io;

    while ((got = front_poll(load->front, &rsp)) > 0) {
        io = io_of(load, rsp.id);
        if (!io)
            return -1;
        if (rsp.status != RSP_OKAY) {
            if (load->nr_errors++ == 0)
                fprintf(stderr, "simguest: operation %u at sector %" PRIu64 " failed: %d\n",
                        io_op(io), io->req.sector, rsp.status);
        }
        io_finish(load, io, rsp.status);
        io->used = false;
        load->in_flight--;
        count++;
    }
    return got < 0 ? -1 : count;
}

static void progress(const struct load *load, int64_t now_ms)
{
    static int64_t last_ms;
    static uint64_t last_requests, last_bytes;
    double seconds = (double)(now_ms - last_ms) / 1000;

    if (!load->options.progress || now_ms - last_ms < 1000)
        return;
    if (last_ms)
        printf("%7.1f s  %8.0f IOPS  %8.1f MB/s  %u in flight  %" PRIu64 " wrong bytes  %" PRIu64
               " errors\n",
               (double)(now_ms - load->start_ms) / 1000,
               (double)(load->nr_requests - last_requests) / seconds,
               (double)(load->nr_bytes - last_bytes) / seconds / 1e6, load->in_flight,
               load->nr_wrong_bytes, load->nr_errors);
    fflush(stdout);
    last_ms = now_ms;
    last_requests = load->nr_requests;
    last_bytes = load->nr_bytes;
}

/* Takes up a disk that has grown meanwhile; its new sectors hold what the first read finds. */
static int growth_take(struct load *load, uint64_t sectors)
{
    uint64_t before = load->options.model_sectors;
    uint8_t *model = realloc(load->model, sectors * GUEST_SECTOR);
    uint8_t *knowledge = realloc(load->knowledge, sectors);

    load->model = model ? model : load->model;
    load->knowledge = knowledge ? knowledge : load->knowledge;
    if (!model || !knowledge || sectors < before)
        return -1;
    memset(knowledge + before, UNKNOWN, sectors - before);
    load->front->sectors = load->options.model_sectors = sectors;
    load->grown = true;
    return 0;
}

/* The backend's nodes, ten times a second, if the disk is to grow: state 4 all the time. */
static int growth_look(struct load *load, int64_t now_ms)
{
    const char *dir = load->front->disk->backend;
    long sectors;

    if (!load->options.grown_sectors || now_ms - load->looked_ms < 100)
        return 0;
    load->looked_ms = now_ms;
    sectors = guest_xs_read_number(load->guest, dir, "sectors", -1);
    if (tool_state(load->front->disk) != STATE_CONNECTED ||
        (sectors != (long)load->front->sectors && sectors != (long)load->options.grown_sectors)) {
        fprintf(stderr, "simguest: while it grows the backend says state %d, %ld sectors\n",
                tool_state(load->front->disk), sectors);
        return -1;
    }
    return sectors == (long)load->front->sectors ? 0 : growth_take(load, (uint64_t)sectors);
}

static int run(struct load *load, next_fn *next)
{
    int64_t last_ms = guest_clock_ms(), now_ms;
    int answers;

    for (;;) {
        if (submit(load, next))
            return -1;
        answers = reap(load);
        now_ms = guest_clock_ms();
        progress(load, now_ms);
        if (answers < 0 || growth_look(load, now_ms))
            return -1;
        if (answers > 0)
            last_ms = now_ms;
        if (load->in_flight == 0 && answers == 0)
            return 0;
        if (answers > 0 || guest_wait(load->guest, 200))
            continue;
        if (now_ms - last_ms > load->options.timeout_ms) {
            fprintf(stderr, "simguest: %u requests unanswered for %d ms\n", load->in_flight,
                    load->options.timeout_ms);
            return -1;
        }
    }
}

int load_fill(struct load *load)
{
    load->cursor = 0;
    return run(load, next_fill);
}

int load_reread(struct load *load)
{
    load->cursor = 0;
    return run(load, next_reread);
}

int load_adopt(struct load *load)
{
    memset(load->knowledge, UNKNOWN, load->options.model_sectors);
    return load_reread(load);
}

int load_discard(struct load *load)
{
    struct io *io = &load->ios[0];

    io_clear(io, OP_DISCARD);
    io->nr_sectors = io->req.nr_sectors = load->front->sectors;
    return load_single(load, io);
}

/* Every queue must have had its share, and a disk that was to grow must have grown. */
static int run_check(const struct load *load)
{
    unsigned queue;

    for (queue = 0; queue < load->front->nr_queues; queue++)
        if (load->nr_requests > 100 * load->front->nr_queues && load->nr_of_queue[queue] == 0) {
            fprintf(stderr, "simguest: queue %u had no request\n", queue);
            return -1;
        }
    if (!load->options.grown_sectors || load->grown)
        return 0;
    fprintf(stderr, "simguest: the disk has not grown\n");
    return -1;
}

int load_run(struct load *load)
{
    int err;

    load->cursor = 0;
    load->nr_requests = load->nr_bytes = 0;
    load->nr_indirect = load->nr_discards = load->nr_flush_writes = 0;
    memset(load->nr_of_queue, 0, sizeof(load->nr_of_queue));
    load->start_ms = guest_clock_ms();
    err = run(load, next_mixed);
    load->end_ms = guest_clock_ms();
    return err ? err : run_check(load);
}

int load_single(struct load *load, struct io *io)
{
    int status;

    io_prepare(load, io);
    status = front_do(load->front, &io->req);
    load->nr_requests++;
    if (status == 1)
        return -1;
    if (status != RSP_OKAY)
        load->nr_errors++;
    io_finish(load, io, status);
    return 0;
}
