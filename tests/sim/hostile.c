/* A guest that breaks the rules, one at a time, and stays a customer: each illegal request must be
 * answered with an error and touch nothing, and the good request after it must work. */
#include "load.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define OTHER_DOMID 1234
#define LIST_LONG   20u /* segments of an indirect request here: in FRAMES frames, a sector each */
#define FRAMES      5u
#define EXTRA       FRAMES /* a frame that no good segment names */

enum trick {
    NO_SEGMENTS,
    TWELVE_SEGMENTS,
    MANY_SEGMENTS,
    FIRST_ABOVE_LAST,
    LAST_ABOVE_SEVEN,
    BEYOND_END,
    SECTOR_WRAPS,
    UNKNOWN_OP,
    RESERVED_OP,
    BARRIER,
    FLUSH_TWELVE,
    FLUSH_LAST_ABOVE_SEVEN,
    FLUSH_BEYOND_END,
    FLUSH_JUNK_REF,
    DISCARD_NOTHING,
    DISCARD_BEYOND_END,
    DISCARD_WRAPS,
    JUNK_REF,
    REVOKED_REF,
    FOREIGN_REF,
    READ_INTO_READONLY,
    WRITE_JUNK_REF,
    WRITE_REVOKED_REF,
    LIST_EMPTY,
    LIST_TOO_LONG,
    LIST_HUGE,
    LIST_OF_OTHER_OP,
    LIST_JUNK_REF,
    LIST_REVOKED_REF,
    LIST_FOREIGN_REF,
    LISTED_FIRST_ABOVE_LAST,
    LISTED_LAST_ABOVE_SEVEN,
    LISTED_BEYOND_END,
    LISTED_JUNK_REF,
    LISTED_REVOKED_REF,
    LISTED_WRITE_JUNK_REF,
    LIST_CHANGES_READ,
    LIST_CHANGES_WRITE,
    READONLY_WRITE, /* from here on legal, but of a disk attached read-only */
    READONLY_LIST,
    READONLY_FLUSH,
    READONLY_DISCARD,
    TRICKS
};

/* The good request that is spoilt. */
enum base { DIRECT, FLUSH, DISCARD, INDIRECT };
enum { ANY = -1 };

static const struct {
    const char *name;
    enum base base;
    int op; /* READ, WRITE, or ANY of the two */
    int status;
} tricks[TRICKS] = {
    [NO_SEGMENTS] = {"no segments", DIRECT, ANY, RSP_ERROR},
    [TWELVE_SEGMENTS] = {"12 segments", DIRECT, ANY, RSP_ERROR},
    [MANY_SEGMENTS] = {"255 segments", DIRECT, ANY, RSP_ERROR},
    [FIRST_ABOVE_LAST] = {"first > last", DIRECT, ANY, RSP_ERROR},
    [LAST_ABOVE_SEVEN] = {"last > 7", DIRECT, ANY, RSP_ERROR},
    [BEYOND_END] = {"sector beyond the end", DIRECT, ANY, RSP_ERROR},
    [SECTOR_WRAPS] = {"sector wraps", DIRECT, ANY, RSP_ERROR},
    [UNKNOWN_OP] = {"unknown operation", DIRECT, ANY, RSP_NOTSUPP},
    [RESERVED_OP] = {"reserved operation", DIRECT, ANY, RSP_NOTSUPP},
    [BARRIER] = {"write barrier", DIRECT, OP_WRITE, RSP_NOTSUPP},
    [FLUSH_TWELVE] = {"flush with 12 segments", FLUSH, ANY, RSP_ERROR},
    [FLUSH_LAST_ABOVE_SEVEN] = {"flush with last > 7", FLUSH, ANY, RSP_ERROR},
    [FLUSH_BEYOND_END] = {"flush with data beyond the end", FLUSH, ANY, RSP_ERROR},
    [FLUSH_JUNK_REF] = {"flush with a junk grant", FLUSH, ANY, RSP_ERROR},
    [DISCARD_NOTHING] = {"discard of nothing", DISCARD, ANY, RSP_ERROR},
    [DISCARD_BEYOND_END] = {"discard beyond the end", DISCARD, ANY, RSP_ERROR},
    [DISCARD_WRAPS] = {"discard that wraps", DISCARD, ANY, RSP_ERROR},
    [JUNK_REF] = {"junk grant", DIRECT, OP_READ, RSP_ERROR},
    [REVOKED_REF] = {"revoked grant", DIRECT, OP_READ, RSP_ERROR},
    [FOREIGN_REF] = {"another domain's grant", DIRECT, OP_READ, RSP_ERROR},
    [READ_INTO_READONLY] = {"read into a read-only grant", DIRECT, OP_READ, RSP_ERROR},
    [WRITE_JUNK_REF] = {"write from a junk grant", DIRECT, OP_WRITE, RSP_ERROR},
    [WRITE_REVOKED_REF] = {"write from a revoked grant", DIRECT, OP_WRITE, RSP_ERROR},
    [LIST_EMPTY] = {"no indirect segments", INDIRECT, ANY, RSP_ERROR},
    [LIST_TOO_LONG] = {"one indirect segment too many", INDIRECT, ANY, RSP_ERROR},
    [LIST_HUGE] = {"65535 indirect segments", INDIRECT, ANY, RSP_ERROR},
    [LIST_OF_OTHER_OP] = {"indirect and neither read nor write", INDIRECT, ANY, RSP_ERROR},
    [LIST_JUNK_REF] = {"junk grant of descriptors", INDIRECT, ANY, RSP_ERROR},
    [LIST_REVOKED_REF] = {"revoked grant of descriptors", INDIRECT, ANY, RSP_ERROR},
    [LIST_FOREIGN_REF] = {"another domain's descriptors", INDIRECT, ANY, RSP_ERROR},
    [LISTED_FIRST_ABOVE_LAST] = {"indirect, first > last", INDIRECT, ANY, RSP_ERROR},
    [LISTED_LAST_ABOVE_SEVEN] = {"indirect, last > 7", INDIRECT, ANY, RSP_ERROR},
    [LISTED_BEYOND_END] = {"indirect, beyond the end", INDIRECT, ANY, RSP_ERROR},
    [LISTED_JUNK_REF] = {"indirect, junk grant", INDIRECT, OP_READ, RSP_ERROR},
    [LISTED_REVOKED_REF] = {"indirect, revoked grant", INDIRECT, OP_READ, RSP_ERROR},
    [LISTED_WRITE_JUNK_REF] = {"indirect write from a junk grant", INDIRECT, OP_WRITE, RSP_ERROR},
    [LIST_CHANGES_READ] = {"descriptors change meanwhile", INDIRECT, OP_READ, RSP_OKAY},
    [LIST_CHANGES_WRITE] = {"descriptors of a write change", INDIRECT, OP_WRITE, RSP_OKAY},
    [READONLY_WRITE] = {"read-only: write", DIRECT, OP_WRITE, RSP_ERROR},
    [READONLY_LIST] = {"read-only: indirect write", INDIRECT, OP_WRITE, RSP_ERROR},
    [READONLY_FLUSH] = {"read-only: flush with data", FLUSH, ANY, RSP_ERROR},
    [READONLY_DISCARD] = {"read-only: discard", DISCARD, ANY, RSP_ERROR},
};

/* -- good requests ------------------------------------------------------------------------- */

static void good_direct(struct load *load, struct io *io, uint8_t op)
{
    unsigned i;

    io->req.op = op;
    io->req.nr_segments = 3;
    io->nr_frames = 2;
    io->nr_sectors = 6;
    io->req.sector = load_random(load) % (load->options.model_sectors - 6);
    for (i = 0; i < 3; i++) {
        io->frame_of[i] = i & 1;
        io->segments[i].first = (uint8_t)(2 * i);
        io->segments[i].last = (uint8_t)(2 * i + 1);
    }
}

/* Names the even sectors of its frames, so that the odd ones tell what goes astray. */
static void good_indirect(struct load *load, struct io *io, uint8_t op)
{
    unsigned i;

    io->req.op = op;
    io->req.nr_segments = LIST_LONG;
    io->nr_frames = FRAMES;
    io->nr_sectors = LIST_LONG;
    io->req.sector = load_random(load) % (load->options.model_sectors - 2 * LIST_LONG);
    for (i = 0; i < LIST_LONG; i++) {
        io->frame_of[i] = i % FRAMES;
        io->segments[i].first = io->segments[i].last = (uint8_t)(i / FRAMES * 2);
    }
    io_indirect(io);
}

static void good_request(struct load *load, struct io *io, enum base base, int op)
{
    uint8_t chosen = load->front->readonly || load_below(load, 2) ? OP_READ : OP_WRITE;

    if (op != ANY)
        chosen = (uint8_t)op;
    memset(&io->req, 0, sizeof(io->req));
    io->nr_frames = 0;
    switch (base) {
    case DIRECT: good_direct(load, io, chosen); break;
    case FLUSH: good_direct(load, io, OP_FLUSH); break;
    case INDIRECT: good_indirect(load, io, chosen); break;
    case DISCARD:
        io->req.op = OP_DISCARD;
        io->req.nr_sectors = io->nr_sectors = 1 + load_below(load, 64);
        io->req.sector = load_random(load) % (load->options.model_sectors - 64);
        break;
    }
}

/* -- spoiling what io_prepare made --------------------------------------------------------- */

static void segment_set(struct load *load, struct io *io, unsigned i)
{
    if (io->req.op == OP_INDIRECT)
        guest_abi_indirect(guest_page(load->guest, io->list_frame), i, &io->segments[i]);
    else
        io->req.segments[i] = io->segments[i];
}

static void spoil_segment(struct load *load, struct io *io, unsigned first, unsigned last)
{
    unsigned i = load_below(load, io->req.nr_segments);

    io->segments[i].first = (uint8_t)first;
    io->segments[i].last = (uint8_t)last;
    segment_set(load, io, i);
}

/* The good ones beside it may be filled; EXTRA, which only a mistake could reach, may not. */
static void spoil_ref(struct load *load, struct io *io, uint32_t ref)
{
    unsigned i = load_below(load, io->req.nr_segments);

    io->segments[i].ref = ref;
    io->frame_of[i] = EXTRA;
    segment_set(load, io, i);
}

static uint32_t junk_ref(struct load *load)
{
    return (uint32_t)load_random(load) | 0x80000000u;
}

static uint32_t revoked_ref(struct load *load, const struct io *io)
{
    uint32_t ref = guest_grant(load->guest, io->frames[EXTRA], 0, false);

    guest_revoke(load->guest, ref);
    return ref;
}

static void spoil_slot(struct load *load, struct io *io, enum trick trick)
{
    struct front_request *req = &io->req;
    uint64_t end = load->front->sectors;

    switch (trick) {
    case NO_SEGMENTS:
    case LIST_EMPTY: req->nr_segments = 0; break;
    case TWELVE_SEGMENTS:
    case FLUSH_TWELVE: req->nr_segments = 12; break;
    case MANY_SEGMENTS: req->nr_segments = 255; break;
    case LIST_TOO_LONG: req->nr_segments = (uint16_t)(load->front->max_indirect + 1); break;
    case LIST_HUGE: req->nr_segments = 65535; break;
    case BEYOND_END:
    case FLUSH_BEYOND_END: req->sector = end - load_below(load, 6); break;
    case SECTOR_WRAPS: req->sector = UINT64_MAX - load_below(load, 6); break;
    case UNKNOWN_OP: req->op = (uint8_t)(7 + load_below(load, 249)); break;
    case RESERVED_OP: req->op = OP_RESERVED; break;
    case BARRIER: req->op = OP_BARRIER; break;
    case LIST_OF_OTHER_OP:
        req->inner_op = (uint8_t)(2 + load_below(load, 7));
        req->inner_op = req->inner_op == 8 ? 255 : req->inner_op;
        break;
    case DISCARD_NOTHING: req->nr_sectors = 0; break;
    case DISCARD_BEYOND_END: req->sector = end - req->nr_sectors + 1; break;
    case DISCARD_WRAPS: req->nr_sectors = UINT64_MAX - load_below(load, 64); break;
    default: break;
    }
}

static void spoil_list(struct load *load, struct io *io, enum trick trick, uint32_t *ret_ref)
{
    struct front_request *req = &io->req;

    switch (trick) {
    case FIRST_ABOVE_LAST:
    case LISTED_FIRST_ABOVE_LAST: spoil_segment(load, io, 7, 6); break;
    case LAST_ABOVE_SEVEN:
    case FLUSH_LAST_ABOVE_SEVEN:
    case LISTED_LAST_ABOVE_SEVEN: spoil_segment(load, io, 0, 8 + load_below(load, 248)); break;
    case LISTED_BEYOND_END: /* as many sectors as segments would just fit */
        req->sector = load->front->sectors - LIST_LONG;
        spoil_segment(load, io, 0, 1);
        break;
    case JUNK_REF:
    case FLUSH_JUNK_REF:
    case WRITE_JUNK_REF:
    case LISTED_JUNK_REF:
    case LISTED_WRITE_JUNK_REF: spoil_ref(load, io, junk_ref(load)); break;
    case REVOKED_REF:
    case WRITE_REVOKED_REF:
    case LISTED_REVOKED_REF: spoil_ref(load, io, revoked_ref(load, io)); break;
    case FOREIGN_REF:
        *ret_ref = guest_grant(load->guest, io->frames[EXTRA], OTHER_DOMID, false);
        spoil_ref(load, io, *ret_ref);
        break;
    case READ_INTO_READONLY:
        *ret_ref = guest_grant(load->guest, io->frames[EXTRA], 0, true);
        spoil_ref(load, io, *ret_ref);
        break;
    case LIST_JUNK_REF: req->indirect_refs[0] = junk_ref(load); break;
    case LIST_REVOKED_REF: req->indirect_refs[0] = revoked_ref(load, io); break;
    case LIST_FOREIGN_REF:
        *ret_ref = guest_grant(load->guest, io->list_frame, OTHER_DOMID, true);
        req->indirect_refs[0] = *ret_ref;
        break;
    default: break;
    }
}

/* -- descriptors that change while they are read ------------------------------------------- */

struct rewriter {
    _Atomic bool stop;
    _Atomic uint64_t *list;
    uint64_t good[LIST_LONG];
    uint64_t seed;
};

/* Each descriptor: itself, twice as long (in two of the frames), or junk. */
static void *rewrite(void *arg)
{
    struct rewriter *rewriter = arg;
    uint64_t x = rewriter->seed | 1, value;
    unsigned i;

    for (i = 0; !atomic_load(&rewriter->stop); i = (i + 1) % LIST_LONG) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        value = rewriter->good[i];
        if (x % 3 == 0 && i % FRAMES < 2)
            value += UINT64_C(1) << 40; /* last */
        else if (x % 61 == 1)
            value = x;
        atomic_store(&rewriter->list[i], value);
    }
    return NULL;
}

static int do_while_rewritten(struct load *load, struct io *io)
{
    struct rewriter rewriter = {.seed = load_random(load)};
    pthread_t thread;
    unsigned i;
    int status;

    rewriter.list = (_Atomic uint64_t *)(void *)guest_page(load->guest, io->list_frame);
    for (i = 0; i < LIST_LONG; i++)
        rewriter.good[i] = atomic_load(&rewriter.list[i]);
    if (pthread_create(&thread, NULL, rewrite, &rewriter))
        return 1;
    status = front_do(load->front, &io->req);
    atomic_store(&rewriter.stop, true);
    pthread_join(thread, NULL);
    return status;
}

/* What any of the descriptors' versions names: the even sectors, and in two frames all. */
static bool rewritten_named(unsigned frame, unsigned sector)
{
    return frame < 2 || sector % 2 == 0;
}

static bool is_of_range(const struct load *load, const struct io *io, const uint8_t *bytes)
{
    uint64_t at;

    for (at = io->req.sector; at < io->req.sector + 2 * LIST_LONG; at++)
        if (load->knowledge[at] != KNOWN ||
            memcmp(bytes, load->model + at * GUEST_SECTOR, GUEST_SECTOR) == 0)
            return true;
    return false;
}

/* The sum of the lengths is anybody's guess, so each sector may be any of the range's. */
static void rewritten_check(struct load *load, struct io *io, bool wrote)
{
    unsigned frame, sector;

    for (frame = 0; frame < io->nr_frames; frame++)
        for (sector = 0; sector < GUEST_PAGE / GUEST_SECTOR; sector++) {
            size_t at = (size_t)sector * GUEST_SECTOR;
            const uint8_t *bytes = guest_page(load->guest, io->frames[frame]) + at;

            if (memcmp(bytes, io->before + (size_t)frame * GUEST_PAGE + at, GUEST_SECTOR) != 0 &&
                (wrote || !rewritten_named(frame, sector) || !is_of_range(load, io, bytes)))
                load->nr_wrong_bytes += GUEST_SECTOR;
        }
    if (wrote)
        memset(load->knowledge + io->req.sector, UNKNOWN, 2 * LIST_LONG);
}

/* -- playing ------------------------------------------------------------------------------- */

static bool is_race(enum trick trick)
{
    return trick == LIST_CHANGES_READ || trick == LIST_CHANGES_WRITE;
}

static bool may_play(const struct load *load, enum trick trick)
{
    if (trick >= READONLY_WRITE && !load->front->readonly)
        return false;
    if (trick == LIST_CHANGES_WRITE && load->front->readonly)
        return false;
    return tricks[trick].base != INDIRECT || load->front->max_indirect >= (long)LIST_LONG;
}

/* A disk that has no discard (a read-only one is another matter) says so. */
static bool status_right(const struct load *load, enum trick trick, int status)
{
    if (is_race(trick))
        return status == RSP_OKAY || status == RSP_ERROR;
    if (tricks[trick].base == DISCARD && !load->front->discard && !load->front->readonly)
        return status == RSP_NOTSUPP;
    return status == tricks[trick].status;
}

/* Frames of a spoilt read may hold what its good segments were given; never anything else. */
static void spoilt_check(struct load *load, struct io *io, enum trick trick)
{
    uint8_t extra[GUEST_PAGE];

    memset(extra, 0x6b, sizeof(extra));
    if (memcmp(guest_page(load->guest, io->frames[EXTRA]), extra, GUEST_PAGE) != 0)
        load->nr_wrong_bytes += GUEST_PAGE;
    if (is_race(trick))
        rewritten_check(load, io, tricks[trick].op == OP_WRITE);
    else
        io_check(load, io, tricks[trick].op == OP_READ ? MOVED_PARTLY : MOVED_NOTHING);
    io_revoke(load, io);
}

static int trick_play(struct load *load, enum trick trick)
{
    struct io *io = &load->ios[0];
    uint64_t wrong = load->nr_wrong_bytes;
    uint32_t extra_ref = 0;
    int status;

    good_request(load, io, tricks[trick].base, tricks[trick].op);
    memset(guest_page(load->guest, io->frames[EXTRA]), 0x6b, GUEST_PAGE);
    io_prepare(load, io);
    spoil_list(load, io, trick, &extra_ref); /* before the slot's own count is spoilt */
    spoil_slot(load, io, trick);
    status = is_race(trick) ? do_while_rewritten(load, io) : front_do(load->front, &io->req);
    if (status == 1)
        return -1;
    spoilt_check(load, io, trick);
    if (!status_right(load, trick, status) || load->nr_wrong_bytes != wrong) {
        fprintf(stderr, "simguest: %s: answered %d, %" PRIu64 " wrong bytes\n", tricks[trick].name,
                status, load->nr_wrong_bytes - wrong);
        load->nr_errors++;
    }
    if (extra_ref)
        guest_revoke(load->guest, extra_ref);
    good_request(load, io, DIRECT, ANY);
    return load_single(load, io);
}

static int producer_jumps(struct load *load)
{
    struct front_queue *queue = &load->front->queues[load_below(load, load->front->nr_queues)];
    _Atomic uint32_t *req_prod = (_Atomic uint32_t *)(void *)queue->ring;

    atomic_fetch_add(req_prod, 100000 + load_below(load, 1u << 30));
    guest_notify(load->guest, queue->slot);
    guest_wait(load->guest, 20);
    return hostile_reconnect(load, "a req_prod far ahead");
}

static bool time_left(const struct load *load, uint64_t round)
{
    if (load->options.requests)
        return round < load->options.requests;
    return guest_clock_ms() - load->start_ms < load->options.run_ms;
}

int hostile_run(struct load *load)
{
    uint64_t round;
    int err = 0;

    load->start_ms = guest_clock_ms();
    for (round = 0; err == 0 && time_left(load, round); round++) {
        if (may_play(load, (enum trick)(round % TRICKS)))
            err = trick_play(load, (enum trick)(round % TRICKS));
        if (!err && round % 97 == 96)
            err = producer_jumps(load);
        if (!err && round % 61 == 60)
            err = hostile_nodes(load);
        if (!err && round % 131 == 130)
            err = hostile_states(load);
    }
    load->end_ms = guest_clock_ms();
    return err;
}
