/* A guest that breaks the rules, one at a time, and stays a customer: each illegal request must be
 * answered with an error and touch nothing, and the good request after it must work. */
#include "load.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

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
    NESTED_INDIRECT,
    HUGE_INDIRECT,
    JUNK_REF,
    REVOKED_REF,
    FOREIGN_REF,
    READ_INTO_READONLY,
    TRICKS
};

static const char *const trick_names[TRICKS] = {"no segments",
                                                "12 segments",
                                                "255 segments",
                                                "first > last",
                                                "last > 7",
                                                "sector beyond the end",
                                                "sector wraps",
                                                "unknown operation",
                                                "reserved operation",
                                                "indirect in indirect",
                                                "65535 indirect segments",
                                                "junk grant",
                                                "revoked grant",
                                                "another domain's grant",
                                                "read into a read-only grant"};

#define OTHER_DOMID 1234

static void good_request(struct load *load, struct io *io)
{
    unsigned i;

    memset(&io->req, 0, sizeof(io->req));
    io->req.op = load_below(load, 2) ? OP_READ : OP_WRITE;
    io->req.nr_segments = 3;
    io->nr_frames = 2;
    io->nr_sectors = 6;
    io->req.sector = load_random(load) % (load->options.model_sectors - 6);
    for (i = 0; i < 3; i++) {
        io->frame_of[i] = i & 1;
        io->req.segments[i].first = (uint8_t)(2 * i);
        io->req.segments[i].last = (uint8_t)(2 * i + 1);
    }
}

/* Spoils a prepared request. Tricks with grants replace segment 1's by *ret_ref. */
static void spoil(struct load *load, struct io *io, enum trick trick, uint32_t *ret_ref)
{
    struct front_request *req = &io->req;
    struct guest *guest = load->guest;

    switch (trick) {
    case NO_SEGMENTS: req->nr_segments = 0; break;
    case TWELVE_SEGMENTS: req->nr_segments = 12; break;
    case MANY_SEGMENTS: req->nr_segments = 255; break;
    case FIRST_ABOVE_LAST: req->segments[1].first = 7; break;
    case LAST_ABOVE_SEVEN: req->segments[1].last = (uint8_t)(8 + load_below(load, 248)); break;
    case BEYOND_END: req->sector = load->front->sectors - load_below(load, 6); break;
    case SECTOR_WRAPS: req->sector = UINT64_MAX - load_below(load, 6); break;
    case UNKNOWN_OP: req->op = (uint8_t)(7 + load_below(load, 249)); break;
    case RESERVED_OP: req->op = OP_RESERVED; break;
    case NESTED_INDIRECT: req->op = req->inner_op = OP_INDIRECT; break;
    case HUGE_INDIRECT:
        req->inner_op = req->op;
        req->op = OP_INDIRECT;
        req->nr_segments = 65535;
        break;
    case JUNK_REF: req->segments[1].ref = (uint32_t)load_random(load) | 0x80000000u; break;
    case REVOKED_REF:
        req->segments[1].ref = guest_grant(guest, io->frames[2], 0, false);
        guest_revoke(guest, req->segments[1].ref);
        break;
    case FOREIGN_REF:
        *ret_ref = req->segments[1].ref = guest_grant(guest, io->frames[2], OTHER_DOMID, false);
        break;
    case READ_INTO_READONLY:
        *ret_ref = req->segments[1].ref = guest_grant(guest, io->frames[2], 0, true);
        req->op = OP_READ;
        break;
    case TRICKS: break;
    }
}

/* Frames of a spoilt read may hold what its good segments were given; never anything else. */
static void spoilt_check(struct load *load, struct io *io, enum trick trick, const uint8_t *third)
{
    bool partly = io->req.op == OP_READ && trick >= JUNK_REF;
    unsigned i;

    for (i = 0; i < io->nr_frames; i++)
        if (!partly && memcmp(guest_page(load->guest, io->frames[i]),
                              io->before + (size_t)i * GUEST_PAGE, GUEST_PAGE) != 0)
            load->nr_wrong_bytes++;
    if (memcmp(guest_page(load->guest, io->frames[2]), third, GUEST_PAGE) != 0)
        load->nr_wrong_bytes++;
    for (i = 0; i < io->nr_frames; i++)
        if (!guest_revoke(load->guest, io->refs[i]))
            load->nr_errors++;
}

static int trick_play(struct load *load, enum trick trick)
{
    struct io *io = &load->ios[0];
    uint8_t third[GUEST_PAGE];
    uint32_t extra = 0;
    int status;

    good_request(load, io);
    memset(guest_page(load->guest, io->frames[2]), 0x6b, GUEST_PAGE);
    memset(third, 0x6b, sizeof(third));
    if (trick >= JUNK_REF)
        io->req.op = OP_READ; /* a write with a bad grant may or may not have reached the model */
    io_prepare(load, io);
    spoil(load, io, trick, &extra);
    status = front_do(load->front, &io->req);
    if (status == 1)
        return -1;
    if (status != RSP_ERROR && status != RSP_NOTSUPP) {
        fprintf(stderr, "simguest: %s: answered %d\n", trick_names[trick], status);
        load->nr_errors++;
    }
    spoilt_check(load, io, trick, third);
    if (extra)
        guest_revoke(load->guest, extra);
    good_request(load, io);
    return load_single(load, io);
}

/* Says nothing before the ring is replaced: whether the backend stops it or answers is its own. */
static int reconnect(struct load *load, const char *what)
{
    if (front_close(load->front) || front_reopen(load->front) || front_connect(load->front)) {
        fprintf(stderr, "simguest: no reconnection after %s\n", what);
        return -1;
    }
    return 0;
}

static int producer_jumps(struct load *load)
{
    struct front_queue *queue = &load->front->queues[0];
    _Atomic uint32_t *req_prod = (_Atomic uint32_t *)(void *)queue->ring;

    atomic_fetch_add(req_prod, 100000 + load_below(load, 1u << 30));
    guest_notify(load->guest, queue->slot);
    guest_wait(load->guest, 20);
    return reconnect(load, "a req_prod far ahead");
}

static int states_flap(struct load *load)
{
    static const int states[] = {4, 3, 1, 4, 0, 9, 4, 5, 4, 1, 6, 3};
    unsigned i;

    for (i = 0; i < 40; i++)
        if (front_state_set(load->front, states[load_below(load, 12)]))
            return -1;
    return reconnect(load, "flapping states");
}

/* Junk where the ring is published, in a fresh connection; then the proper values. */
static int nodes_junk(struct load *load)
{
    static const struct {
        const char *key, *value;
    } junk[] = {{"ring-ref", ""},
                {"ring-ref", "12x"},
                {"ring-ref", "4294967296"},
                {"ring-ref", "99999"},
                {"event-channel", "-1"},
                {"event-channel", "4095"},
                {"event-channel", "18446744073709551617"},
                {"protocol", "vax-abi"}};
    unsigned pick = load_below(load, sizeof(junk) / sizeof(junk[0]));
    struct front *front = load->front;
    const char *dir = front->disk->frontend;

    if (front_close(front) || front_reopen(front) || front_ring_create(front) ||
        front_ring_publish(front) ||
        guest_xs_write(load->guest, XBT_NULL, dir, junk[pick].key, "%s", junk[pick].value) ||
        front_state_set(front, STATE_INITIALISED))
        return -1;
    guest_wait(load->guest, 100);
    front_state_set(front, STATE_CLOSING);
    front_state_set(front, STATE_CLOSED);
    if (tool_wait_state(front->disk, STATE_CLOSED, front->timeout_ms) || front_ring_free(front) ||
        front_reopen(front) || front_connect(front)) {
        fprintf(stderr, "simguest: no connection after %s = '%s'\n", junk[pick].key,
                junk[pick].value);
        return -1;
    }
    return 0;
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
        err = trick_play(load, (enum trick)(round % TRICKS));
        if (!err && round % 97 == 96)
            err = producer_jumps(load);
        if (!err && round % 61 == 60)
            err = nodes_junk(load);
        if (!err && round % 131 == 130)
            err = states_flap(load);
    }
    load->end_ms = guest_clock_ms();
    return err;
}
