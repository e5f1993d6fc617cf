/* The load of steadyguest: see steady.h. */
#include "steady.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE_SECTORS (GUEST_PAGE / GUEST_SECTOR)
#define TRIES        16
#define LOOK_MS      200  /* how often the backend's state is read */
#define REST_MS      2000 /* how long a hot place is rewritten, and how long it is only read then */
#define WAIT_MS      50

/* Chooses the next request; false when there is none now. */
typedef bool next_fn(struct steady *steady, struct steady_io *io);

static uint64_t random_next(struct steady *steady)
{
    uint64_t x = steady->rng;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    steady->rng = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

static unsigned below(struct steady *steady, unsigned n)
{
    return (unsigned)((random_next(steady) >> 33) % n);
}

static int64_t clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int steady_init(struct steady *steady, struct front *front, const struct steady_options *options)
{
    unsigned frames, i, f;

    *steady = (struct steady){.front = front, .guest = front->guest, .options = *options};
    frames = options->indirect > GUEST_SEGMENTS_MAX ? options->indirect : GUEST_SEGMENTS_MAX;
    steady->frames_each = frames;
    steady->rng = options->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    if (steady->options.sectors > front->sectors)
        steady->options.sectors = front->sectors;
    steady->sectors = calloc(steady->options.sectors, sizeof(*steady->sectors));
    steady->ios = calloc(options->depth, sizeof(*steady->ios));
    if (!steady->sectors || !steady->ios || (long)options->indirect > front->max_indirect ||
        (options->discard_every && !front->discard) || !front->flush ||
        steady->options.sectors < (uint64_t)STEADY_PLACES * 8 * frames ||
        steady->options.sectors < options->hot * 2) {
        fprintf(stderr, "steadyguest: no memory, or the disk is too small, has too few indirect "
                        "segments, no flush, or no discard\n");
        return -1;
    }
    for (i = 0; i < options->depth; i++) {
        for (f = 0; f < frames; f++)
            steady->ios[i].frames[f] = guest_frames_alloc(steady->guest, 1);
        steady->ios[i].list_frame = guest_frames_alloc(steady->guest, 1);
    }
    steady->start_ms = steady->answer_ms = guest_clock_ms();
    return 0;
}

void steady_free(struct steady *steady)
{
    free(steady->sectors);
    free(steady->ios);
}

bool steady_held(const struct steady *steady)
{
    return steady->nr_wrong_bytes == 0 && steady->nr_lost == 0 && steady->nr_unanswered == 0 &&
           steady->nr_flush_failures == 0 && !steady->closed && !steady->front->broken &&
           (steady->nr_errors == 0 || steady->options.errors_allowed);
}

/* -- what next ------------------------------------------------------------------------------- */

/* Law 1 of the header. */
static bool is_free(const struct steady *steady, const struct steady_io *io)
{
    const struct steady_sector *is = &steady->sectors[io->sector], *end = is + io->nr_sectors;

    for (; is < end; is++)
        if (is->writer || (io->op != STEADY_READ && is->readers > 0))
            return false;
    return true;
}

/* Direct or indirect, where it may be either. */
static void io_shape(struct steady *steady, struct steady_io *io, enum steady_op op,
                     uint64_t sector, unsigned nr_sectors)
{
    const bool data = op == STEADY_READ || op == STEADY_WRITE;

    io->op = op;
    io->sector = sector;
    io->nr_sectors = nr_sectors;
    io->req = (struct front_request){.op = op == STEADY_FLUSH     ? OP_FLUSH
                                           : op == STEADY_DISCARD ? OP_DISCARD
                                           : op == STEADY_WRITE   ? OP_WRITE
                                                                  : OP_READ};
    io->first = data ? below(steady, PAGE_SECTORS) : 0;
    if (io->first + nr_sectors > steady->frames_each * PAGE_SECTORS)
        io->first = 0;
    io->nr_frames = data ? (io->first + nr_sectors + PAGE_SECTORS - 1) / PAGE_SECTORS : 0;
    if (!data || (io->nr_frames <= GUEST_SEGMENTS_MAX &&
                  (!steady->options.indirect || io->nr_frames > steady->options.indirect ||
                   below(steady, 2))))
        return;
    io->req.inner_op = io->req.op;
    io->req.op = OP_INDIRECT;
}

static uint64_t place_start(const struct steady *steady, unsigned place)
{
    return steady->options.sectors / STEADY_PLACES * place;
}

/* A hot place is rewritten all the time for a while, and only read for a while, so that an old
 * write that is executed late is seen. The places take turns. */
static void choose_hot(struct steady *steady, struct steady_io *io)
{
    const unsigned each = steady->options.hot / STEADY_PLACES;
    const unsigned place = below(steady, STEADY_PLACES), start = below(steady, each);
    const bool resting = (steady_now_ms(steady) / REST_MS + place) % 2 == 1;
    unsigned most = each - start < PAGE_SECTORS ? each - start : PAGE_SECTORS;
    enum steady_op op = STEADY_WRITE;

    if (resting || below(steady, 4) == 0)
        op = STEADY_READ;
    io_shape(steady, io, op, place_start(steady, place) + start, 1 + below(steady, most));
}

/* Short ones, direct ones, and as long as they may be. */
static unsigned cold_sectors(struct steady *steady)
{
    const unsigned kind = below(steady, 20);
    unsigned most = kind < 10   ? PAGE_SECTORS
                    : kind < 17 ? (GUEST_SEGMENTS_MAX - 1) * PAGE_SECTORS
                                : (steady->options.indirect - 1) * PAGE_SECTORS;

    if (steady->options.indirect <= GUEST_SEGMENTS_MAX && kind >= 17)
        return GUEST_SEGMENTS_MAX * PAGE_SECTORS;
    return kind == 19 ? steady->options.indirect * PAGE_SECTORS : 1 + below(steady, most);
}

static uint64_t cold_start(struct steady *steady, unsigned nr_sectors)
{
    return random_next(steady) % (steady->options.sectors - nr_sectors + 1);
}

static void choose(struct steady *steady, struct steady_io *io)
{
    unsigned nr_sectors;

    if (steady->options.hot >= STEADY_PLACES && below(steady, 100) < 60) {
        choose_hot(steady, io);
        return;
    }
    nr_sectors = cold_sectors(steady);
    io_shape(steady, io, below(steady, 2) ? STEADY_READ : STEADY_WRITE,
             cold_start(steady, nr_sectors), nr_sectors);
}

static void choose_discard(struct steady *steady, struct steady_io *io)
{
    unsigned nr_sectors = 1 + below(steady, below(steady, 2) ? 16 : 512);
    uint64_t start = below(steady, 2) ? cold_start(steady, nr_sectors)
                                      : place_start(steady, below(steady, STEADY_PLACES));

    io_shape(steady, io, STEADY_DISCARD, start, nr_sectors);
}

static bool turn_of(unsigned every, unsigned *since)
{
    if (every == 0 || ++*since < every)
        return false;
    *since = 0;
    return true;
}

static bool finished(const struct steady *steady)
{
    const struct steady_options *options = &steady->options;

    return *options->stop || (options->requests && steady->nr_requests >= options->requests) ||
           (options->run_ms && steady_now_ms(steady) >= options->run_ms);
}

static bool next_mixed(struct steady *steady, struct steady_io *io)
{
    const struct steady_options *options = &steady->options;
    unsigned i;

    if (finished(steady) ||
        (options->rate &&
         steady->nr_requests > (uint64_t)options->rate * steady_now_ms(steady) / 1000))
        return false;
    if (turn_of(options->flush_every, &steady->since_flush)) {
        io_shape(steady, io, STEADY_FLUSH, 0, 0);
        return true;
    }
    for (i = 0; i < TRIES; i++) {
        if (options->discard_every && below(steady, options->discard_every) == 0)
            choose_discard(steady, io);
        else
            choose(steady, io);
        if (is_free(steady, io))
            return true;
    }
    return false;
}

static bool next_all(struct steady *steady, struct steady_io *io, enum steady_op op)
{
    const uint64_t most = steady->frames_each * PAGE_SECTORS;
    uint64_t left = steady->options.sectors - steady->cursor;

    if (left == 0)
        return false;
    if (left > most)
        left = most;
    io_shape(steady, io, op, steady->cursor, (unsigned)left);
    steady->cursor += left;
    return true;
}

static bool next_fill(struct steady *steady, struct steady_io *io)
{
    return next_all(steady, io, STEADY_WRITE);
}

static bool next_reread(struct steady *steady, struct steady_io *io)
{
    return next_all(steady, io, STEADY_READ);
}

static bool next_flush(struct steady *steady, struct steady_io *io)
{
    if (steady->cursor++ > 0)
        return false;
    io_shape(steady, io, STEADY_FLUSH, 0, 0);
    return true;
}

/* -- out and back ---------------------------------------------------------------------------- */

static struct steady_io *io_unused(struct steady *steady)
{
    unsigned i;

    for (i = 0; i < steady->options.depth; i++)
        if (!steady->ios[i].used)
            return &steady->ios[i];
    return NULL;
}

static int io_send(struct steady *steady, struct steady_io *io, unsigned queue)
{
    struct steady_sector *is = &steady->sectors[io->sector], *end = is + io->nr_sectors;

    for (; is < end; is++) {
        if (io->op == STEADY_READ)
            is->readers++;
        else
            is->writer = true;
    }
    if (io->op == STEADY_WRITE)
        io->write = ++steady->nr_writes;
    io->covers = steady->nr_answered;
    steady_io_prepare(steady, io);
    io->sent_us = clock_us();
    if (front_push(steady->front, queue, &io->req))
        return -1;
    io->used = true;
    steady->in_flight++;
    steady->nr_requests++;
    steady->nr_indirect += io->req.op == OP_INDIRECT;
    return 0;
}

static int submit(struct steady *steady, next_fn *next)
{
    bool pushed[GUEST_QUEUES_MAX] = {false};
    struct steady_io *io;
    unsigned queue;

    if (steady->in_flight == 0)
        steady->answer_ms = guest_clock_ms();
    while ((io = io_unused(steady))) {
        queue = below(steady, steady->front->nr_queues);
        if (front_room(&steady->front->queues[queue]) == 0 || !next(steady, io))
            break;
        if (io_send(steady, io, queue))
            return -1;
        pushed[queue] = true;
    }
    for (queue = 0; queue < steady->front->nr_queues; queue++)
        if (pushed[queue])
            front_publish(steady->front, queue);
    return 0;
}

static struct steady_io *io_of(struct steady *steady, uint64_t id)
{
    unsigned i;

    for (i = 0; i < steady->options.depth; i++)
        if (steady->ios[i].used && steady->ios[i].req.id == id)
            return &steady->ios[i];
    return NULL;
}

static void failure_count(struct steady *steady, const struct steady_io *io, int status)
{
    static const char *const names[STEADY_OPS] = {"read", "write", "flush", "discard"};

    steady->nr_flush_failures += io->op == STEADY_FLUSH;
    if (steady->nr_errors++ == 0)
        fprintf(stderr, "steadyguest: at %.3f s a %s of %u sectors at %" PRIu64 " failed: %d\n",
                (double)steady_now_ms(steady) / 1000, names[io->op], io->nr_sectors, io->sector,
                status);
}

static void latency_take(struct steady *steady, const struct steady_io *io)
{
    struct steady_latency *latency = &steady->latency[io->op];
    int64_t us = clock_us() - io->sent_us;

    latency->count++;
    if (us <= latency->max_us)
        return;
    latency->max_us = us;
    latency->at_ms = steady_now_ms(steady);
}

static void on_event(void *arg, uint32_t slot)
{
    struct steady *steady = arg;
    unsigned queue;

    for (queue = 0; queue < steady->front->nr_queues; queue++)
        if (steady->front->queues[queue].slot == slot)
            steady->event[queue] = true;
}

static int answer_take(struct steady *steady, const struct front_response *rsp)
{
    struct steady_io *io = io_of(steady, rsp->id);
    const int64_t now_ms = guest_clock_ms();

    if (!io)
        return -1;
    latency_take(steady, io);
    if (rsp->status != RSP_OKAY)
        failure_count(steady, io, rsp->status);
    steady_io_finish(steady, io, rsp->status);
    io->used = false;
    steady->in_flight--;
    if (now_ms - steady->answer_ms > steady->gap_ms)
        steady->gap_ms = now_ms - steady->answer_ms;
    steady->answer_ms = now_ms;
    return 0;
}

static int reap(struct steady *steady)
{
    struct front_response rsp;
    unsigned queue;
    int got = 0;

    for (queue = 0; queue < steady->front->nr_queues; queue++) {
        if (!steady->event[queue])
            continue;
        steady->event[queue] = false;
        while ((got = front_poll_queue(steady->front, queue, &rsp)) > 0)
            if (answer_take(steady, &rsp))
                return -1;
        if (got < 0)
            return -1;
    }
    return 0;
}

static int64_t oldest_ms(const struct steady *steady)
{
    int64_t oldest_us = 0, now_us = clock_us();
    unsigned i;

    for (i = 0; i < steady->options.depth; i++)
        if (steady->ios[i].used && now_us - steady->ios[i].sent_us > oldest_us)
            oldest_us = now_us - steady->ios[i].sent_us;
    return oldest_us / 1000;
}

static void progress(struct steady *steady, int64_t now_ms)
{
    if (now_ms - steady->told_ms < steady->options.tell_ms)
        return;
    steady->told_ms = now_ms;
    printf("%s %" PRId64 " s: %" PRIu64 " requests, %u in flight, the oldest for %" PRId64
           " ms, %" PRIu64 " errors, %" PRIu64 " wrong bytes\n",
           steady->ending ? "rereading" : "load", (now_ms - steady->start_ms) / 1000,
           steady->nr_requests, steady->in_flight, oldest_ms(steady), steady->nr_errors,
           steady->nr_wrong_bytes);
    fflush(stdout);
}

/* Linux gives a disk up when its backend leaves state 4. */
static int look(struct steady *steady, int64_t now_ms)
{
    const int64_t patience_ms = steady->options.patience_ms;
    int state;

    if (now_ms - steady->looked_ms < LOOK_MS)
        return 0;
    steady->looked_ms = now_ms;
    state = tool_state(steady->front->disk);
    if (state != STATE_CONNECTED) {
        fprintf(stderr, "steadyguest: at %.3f s the backend went to state %d\n",
                (double)steady_now_ms(steady) / 1000, state);
        steady->closed = true;
        return -1;
    }
    if (patience_ms == 0 || oldest_ms(steady) < patience_ms)
        return 0;
    fprintf(stderr, "steadyguest: at %.3f s a request is unanswered for %" PRId64 " ms%s\n",
            (double)steady_now_ms(steady) / 1000, oldest_ms(steady),
            front_poll(steady->front, &(struct front_response){0}) > 0
                ? ", and answers are in a ring that nobody notified of"
                : "");
    return -1;
}

static int run(struct steady *steady, next_fn *next)
{
    int64_t now_ms;

    for (;;) {
        if (submit(steady, next))
            return -1;
        if (steady->in_flight == 0 && (next != next_mixed || finished(steady)))
            return 0;
        guest_wait_slots(steady->guest, steady->options.rate ? 1 : WAIT_MS, on_event, steady);
        if (reap(steady))
            return -1;
        now_ms = guest_clock_ms();
        progress(steady, now_ms);
        if (look(steady, now_ms))
            return -1;
    }
}

static int run_all(struct steady *steady, next_fn *next)
{
    int err;

    steady->cursor = 0;
    err = run(steady, next);
    steady->nr_unanswered = steady->in_flight;
    return err;
}

int steady_flush(struct steady *steady)
{
    return run_all(steady, next_flush);
}

/* No part of the load: what is counted and measured begins after it. */
int steady_fill(struct steady *steady)
{
    if (run_all(steady, next_fill) || steady_flush(steady))
        return -1;
    memset(steady->latency, 0, sizeof(steady->latency));
    steady->gap_ms = 0;
    steady->nr_requests = steady->nr_indirect = 0;
    steady->start_ms = guest_clock_ms();
    return 0;
}

int steady_run(struct steady *steady)
{
    return run_all(steady, next_mixed);
}

int steady_reread(struct steady *steady)
{
    steady->ending = true;
    return run_all(steady, next_reread);
}

int steady_image_write(const struct steady *steady)
{
    FILE *file = fopen(steady->options.image, "wb");
    uint8_t bytes[GUEST_SECTOR];
    uint64_t at;
    bool bad = !file;

    for (at = 0; !bad && at < steady->options.sectors; at++) {
        const struct steady_sector *is = &steady->sectors[at];

        steady_stamp(bytes, at, is->write, is->sent_ms);
        bad = is->knowledge != STEADY_KNOWN || fwrite(bytes, GUEST_SECTOR, 1, file) != 1;
    }
    bad |= file && fclose(file) != 0;
    if (!bad)
        return 0;
    fprintf(stderr, "steadyguest: no image: %s cannot be written, or what sectors hold is open\n",
            steady->options.image);
    return -1;
}
