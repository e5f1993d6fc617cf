/* overlap: one guest whose requests overlap while they are in flight, as no file system's do. They
 * take effect in the order of their ring: a read sees the writes and discards before it on the ring
 * and none behind it, however the server reorders.
 *
 *      overlap DISK DOMID REQUESTS SEED
 *
 * The model takes a write when it is put on the ring, and a read notes then what it must bring. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REGION_SECTORS = 8192, /* so that most requests overlap one or two of those in flight */
    PAGES = 24,            /* of one request at most: more than a direct one has */
    DEPTH = 300, /* more indirect ones than the daemon reads the descriptors of at a time */
    TIMEOUT_MS = 30000,
};

struct io {
    bool used;
    struct front_request req;
    struct front_segment segs[PAGES]; /* the i-th in the i-th frame */
    unsigned sectors;
    uint32_t frame, list_frame, list_ref;
    uint8_t want[PAGES * GUEST_PAGE]; /* a read's bytes */
};

static struct guest *guest;
static struct front front;
static struct tool_disk disk;
static struct io ios[DEPTH];
static uint8_t model[REGION_SECTORS * GUEST_SECTOR];
static uint64_t rng;
static unsigned nr_asked, nr_answered, nr_wrong, nr_op[OP_INDIRECT + 1];

static unsigned below(unsigned n)
{
    rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((rng >> 33) % n);
}

static uint8_t op_of(const struct io *io)
{
    return io->req.op == OP_INDIRECT ? io->req.inner_op : io->req.op;
}

static void choose_segments(struct io *io)
{
    unsigned count = 1 + below(PAGES), first;

    for (unsigned i = 0; i < count; i++) {
        first = below(8);
        io->segs[i].first = (uint8_t)first;
        io->segs[i].last = (uint8_t)(first + below(8 - first));
        io->sectors += io->segs[i].last - first + 1u;
    }
    io->req.nr_segments = (uint16_t)count;
    if (count > GUEST_SEGMENTS_MAX || (io->req.op != OP_FLUSH && below(3) == 0)) {
        io->req.inner_op = io->req.op == OP_FLUSH ? OP_WRITE : io->req.op;
        io->req.op = OP_INDIRECT;
        io->req.indirect_refs[0] = io->list_ref;
    }
}

static void choose(struct io *io)
{
    static const uint8_t ops[] = {OP_READ,  OP_READ,  OP_READ,  OP_WRITE,
                                  OP_WRITE, OP_WRITE, OP_FLUSH, OP_DISCARD};

    memset(&io->req, 0, sizeof(io->req));
    io->req.op = ops[below(sizeof(ops))];
    io->sectors = 0;
    if (io->req.op == OP_DISCARD)
        io->req.nr_sectors = io->sectors = 1 + below(128);
    else
        choose_segments(io);
    io->req.sector = below(REGION_SECTORS - io->sectors + 1);
}

/* Between the frames and the model (a write) or what is to come (a read). */
static void io_model(struct io *io)
{
    uint8_t *at = model + io->req.sector * GUEST_SECTOR, *want = io->want;

    if (op_of(io) == OP_DISCARD)
        memset(at, 0, io->sectors * GUEST_SECTOR); /* the servers of this test zero */
    for (unsigned i = 0; i < io->req.nr_segments; i++) {
        const struct front_segment *seg = &io->segs[i];
        size_t bytes = (seg->last - seg->first + 1u) * GUEST_SECTOR;
        uint8_t *data = guest_page(guest, io->frame + i) + seg->first * GUEST_SECTOR;

        if (op_of(io) == OP_READ) {
            memcpy(want, at, bytes);
        } else {
            for (size_t b = 0; b < bytes; b++)
                data[b] = (uint8_t)below(256);
            memcpy(at, data, bytes);
        }
        at += bytes;
        want += bytes;
    }
}

static void io_check(const struct io *io, int status)
{
    const uint8_t *want = io->want;

    if (status != RSP_OKAY && nr_wrong++ < 5)
        fprintf(stderr, "overlap: operation %u is answered %d\n", op_of(io), status);
    for (unsigned i = 0; op_of(io) == OP_READ && i < io->req.nr_segments; i++) {
        const struct front_segment *seg = &io->segs[i];
        size_t bytes = (seg->last - seg->first + 1u) * GUEST_SECTOR;

        if (memcmp(want, guest_page(guest, io->frame + i) + seg->first * GUEST_SECTOR, bytes) &&
            nr_wrong++ < 5)
            fprintf(stderr, "overlap: a read of %u segments brought other bytes (segment %u)\n",
                    io->req.nr_segments, i);
        want += bytes;
    }
}

static void ask(struct io *io)
{
    choose(io);
    io_model(io);
    for (unsigned i = 0; i < io->req.nr_segments; i++) {
        if (io->req.op == OP_INDIRECT)
            guest_abi_indirect(guest_page(guest, io->list_frame), i, &io->segs[i]);
        else
            io->req.segments[i] = io->segs[i];
    }
    if (front_push(&front, 0, &io->req))
        exit(1);
    io->used = true;
    nr_asked++;
    nr_op[io->req.op]++;
}

static void answers_take(void)
{
    struct front_response rsp;
    int got;

    while ((got = front_poll(&front, &rsp)) > 0)
        for (unsigned i = 0; i < DEPTH; i++)
            if (ios[i].used && ios[i].req.id == rsp.id) {
                io_check(&ios[i], rsp.status);
                ios[i].used = false;
                nr_answered++;
            }
    if (got < 0)
        exit(1);
}

static int run(unsigned requests)
{
    int64_t last_ms = guest_clock_ms();
    unsigned before;

    while (nr_answered < requests) {
        for (unsigned i = 0; i < DEPTH && nr_asked < requests; i++)
            if (!ios[i].used && front_room(&front.queues[0]) > 0)
                ask(&ios[i]);
        front_publish(&front, 0);
        before = nr_answered;
        answers_take();
        if (nr_answered != before)
            last_ms = guest_clock_ms();
        else if (guest_clock_ms() - last_ms > TIMEOUT_MS)
            return -1;
        else
            guest_wait(guest, 50);
    }
    return 0;
}

static void frames_make(void)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        ios[i].frame = guest_frames_alloc(guest, PAGES);
        ios[i].list_frame = guest_frames_alloc(guest, 1);
        ios[i].list_ref = guest_grant(guest, ios[i].list_frame, 0, true);
        for (unsigned f = 0; f < PAGES; f++)
            ios[i].segs[f].ref = guest_grant(guest, ios[i].frame + f, 0, false);
    }
}

/* The region as the model begins: zeros. */
static bool region_clear(void)
{
    struct front_request req = {.op = OP_WRITE, .nr_segments = 8};

    for (unsigned i = 0; i < 8; i++)
        req.segments[i] = (struct front_segment){.ref = ios[0].segs[i].ref, .first = 0, .last = 7};
    memset(guest_page(guest, ios[0].frame), 0, 8 * GUEST_PAGE);
    for (req.sector = 0; req.sector < REGION_SECTORS; req.sector += 64)
        if (front_do(&front, &req) != RSP_OKAY)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 100;
    rng = strtoull(argv[4], NULL, 10);
    guest = guest_create((uint32_t)atoi(argv[2]), DEPTH * (PAGES + 1) + 128);
    disk = (struct tool_disk){
        .guest = guest, .devid = 51712, .kind = "qdisk", .params = argv[1], .vdev = "xvda"};
    front = (struct front){.guest = guest,
                           .disk = &disk,
                           .abi = guest_abi_find("x86_64"),
                           .ring_order = 4,
                           .nr_queues = 1,
                           .timeout_ms = TIMEOUT_MS};
    if (!guest || tool_attach(&disk) || front_connect(&front))
        return 1;
    frames_make();
    if (!region_clear() || run((unsigned)atoi(argv[3])) || front_close(&front))
        nr_wrong++;
    printf("%u requests (%u indirect, %u discards, %u flushes with data), %u wrong\n", nr_answered,
           nr_op[OP_INDIRECT], nr_op[OP_DISCARD], nr_op[OP_FLUSH], nr_wrong);
    guest_destroy(guest);
    return nr_wrong > 0;
}
