#include "benchdisk.h"
#include "window.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVID          51712u /* xvda */
#define CONNECT_MS     30000
#define SPARE_FRAMES   64u /* of the ring, and those that are never given out */
#define LIST_SHARE     (GUEST_SEGMENTS_MAX + 1) /* the fewest frames that one list names */
#define PAGE_SECTORS   (GUEST_PAGE / GUEST_SECTOR)
#define ORDERS         64u
#define SHADOW_OF(id)  ((id)&0xfffu)
#define DISK_LISTS     (DISK_FRAMES / LIST_SHARE + 1)
#define FRAMES_OF(p)   ((p)->bytes / GUEST_PAGE)
#define RANDOM_SEED(n) (UINT64_C(0x9e3779b97f4a7c15) * ((n) + 1))

/* The orders in which the sectors of a scattered I/O lie in its frame. */
static uint8_t orders[ORDERS][PAGE_SECTORS];

static void orders_create(void)
{
    struct walk dice = {.random_state = RANDOM_SEED(0)};
    unsigned i, k, other;
    uint8_t sector;

    for (i = 0; i < ORDERS; i++) {
        for (k = 0; k < PAGE_SECTORS; k++)
            orders[i][k] = (uint8_t)k;
        for (k = PAGE_SECTORS - 1; k > 0; k--) {
            other = (unsigned)(walk_random(&dice) >> 33) % (k + 1);
            sector = orders[i][k];
            orders[i][k] = orders[i][other];
            orders[i][other] = sector;
        }
    }
}

/* -- memory ----------------------------------------------------------------------------------- */
/* Neighbours in an I/O are no neighbours in memory. All of it has been used before. */
static void frames_create(struct bench_disk *bench)
{
    uint32_t i, other, frame;

    for (i = 0; i < DISK_FRAMES; i++)
        bench->frames[i] = guest_frames_alloc(bench->guest, 1);
    for (i = DISK_FRAMES - 1; i > 0; i--) {
        other = (uint32_t)(walk_random(&bench->walk) >> 33) % (i + 1);
        frame = bench->frames[i];
        bench->frames[i] = bench->frames[other];
        bench->frames[other] = frame;
    }
    for (i = 0; i < DISK_FRAMES; i++) {
        memset(guest_page(bench->guest, bench->frames[i]), 0x5a, GUEST_PAGE);
        bench->refs[i] = guest_grant(bench->guest, bench->frames[i], 0, false);
    }
    for (i = 0; i < DISK_LISTS; i++) {
        bench->list_frames[i] = guest_frames_alloc(bench->guest, 1);
        bench->list_refs[i] = guest_grant(bench->guest, bench->list_frames[i], 0, true);
    }
}

int bench_disk_create(struct bench_disk *bench, const struct bench_wish *wish)
{
    orders_create();
    bench->frames = calloc(DISK_FRAMES, sizeof(uint32_t));
    bench->refs = calloc(DISK_FRAMES, sizeof(uint32_t));
    bench->list_frames = calloc(DISK_LISTS, sizeof(uint32_t));
    bench->list_refs = calloc(DISK_LISTS, sizeof(uint32_t));
    bench->guest = guest_create(wish->domid, DISK_FRAMES + DISK_LISTS + SPARE_FRAMES);
    if (!bench->guest || !bench->frames || !bench->refs || !bench->list_frames || !bench->list_refs)
        return -1;
    bench->walk.random_state = RANDOM_SEED(wish->domid);
    bench->check_every = wish->check_every;
    bench->segments_max = wish->indirect;
    frames_create(bench);
    bench->disk = (struct tool_disk){
        .guest = bench->guest, .devid = DEVID, .kind = wish->kind, .params = wish->params};
    bench->front =
        (struct front){.guest = bench->guest,
                       .disk = &bench->disk,
                       .abi = guest_abi_find("x86_64"),
                       .nr_queues = 1,
                       .whole_ring = wish->ring_order < 0,
                       .ring_order = wish->ring_order < 0 ? 0 : (unsigned)wish->ring_order,
                       .timeout_ms = CONNECT_MS};
    if (wish->params)
        return tool_attach(&bench->disk);
    tool_adopt(&bench->disk);
    return 0;
}

int bench_disk_connect(struct bench_disk *bench)
{
    unsigned offered;

    if (front_connect(&bench->front))
        return -1;
    offered = bench->front.max_indirect > 0 ? (unsigned)bench->front.max_indirect : 0;
    if (bench->segments_max > offered)
        bench->segments_max = offered;
    if (bench->segments_max < GUEST_SEGMENTS_MAX)
        bench->segments_max = GUEST_SEGMENTS_MAX;
    return 0;
}

int bench_disk_close(struct bench_disk *bench)
{
    if (bench->disk.params && tool_unplug(&bench->disk))
        return -1;
    if (front_close(&bench->front))
        return -1;
    return bench->disk.params ? tool_remove(&bench->disk) : 0;
}

void bench_disk_destroy(struct bench_disk *bench)
{
    guest_destroy(bench->guest);
    free(bench->frames);
    free(bench->refs);
    free(bench->list_frames);
    free(bench->list_refs);
}

/* -- requests --------------------------------------------------------------------------------- */
static unsigned frame_index(const struct bench_disk *bench, const struct bench_io *io,
                            uint32_t byte)
{
    return (unsigned)(io - bench->ios) * FRAMES_OF(bench->pattern) + byte / GUEST_PAGE;
}

static uint64_t *stamp_place(const struct bench_disk *bench, const struct bench_io *io,
                             uint32_t byte)
{
    uint8_t *page = guest_page(bench->guest, bench->frames[frame_index(bench, io, byte)]);

    return (uint64_t *)(void *)(page + (io->scattered ? io->scattered[0] * GUEST_SECTOR : 0));
}

static uint32_t list_of(unsigned frame)
{
    return frame / LIST_SHARE;
}

/* Which frames a request names depends on nothing but its place in an I/O: the lists are written
 * once in a run. */
static void lists_write(struct bench_disk *bench)
{
    unsigned io, frame, i, count, frames = FRAMES_OF(bench->pattern);
    struct front_segment segment = {.last = PAGE_SECTORS - 1};
    uint8_t *list;

    for (io = 0; io < bench->depth; io++)
        for (frame = 0; frame < frames; frame += bench->segments_max) {
            count = frames - frame < bench->segments_max ? frames - frame : bench->segments_max;
            if (count <= GUEST_SEGMENTS_MAX)
                continue;
            list = guest_page(bench->guest, bench->list_frames[list_of(io * frames + frame)]);
            for (i = 0; i < count; i++) {
                segment.ref = bench->refs[io * frames + frame + i];
                guest_abi_indirect(list, i, &segment);
            }
        }
}

static int request_push(struct bench_disk *bench, struct bench_io *io)
{
    unsigned left = (bench->pattern->bytes - io->pushed_bytes) / GUEST_PAGE, i;
    unsigned count = left < bench->segments_max ? left : bench->segments_max;
    unsigned frame = frame_index(bench, io, io->pushed_bytes);
    struct front_request req = {.op = io->reads ? OP_READ : OP_WRITE};

    req.sector = (io->first_byte + io->pushed_bytes) / GUEST_SECTOR;
    req.nr_segments = (uint16_t)count;
    if (io->scattered) {
        req.nr_segments = PAGE_SECTORS;
        for (i = 0; i < PAGE_SECTORS; i++)
            req.segments[i] =
                (struct front_segment){bench->refs[frame], io->scattered[i], io->scattered[i]};
    } else if (count > GUEST_SEGMENTS_MAX) {
        req.inner_op = req.op;
        req.op = OP_INDIRECT;
        req.indirect_refs[0] = bench->list_refs[list_of(frame)];
    } else {
        for (i = 0; i < count; i++)
            req.segments[i] = (struct front_segment){bench->refs[frame + i], 0, PAGE_SECTORS - 1};
    }
    if (front_push(&bench->front, 0, &req))
        return -1;
    bench->io_of[SHADOW_OF(req.id)] = (uint16_t)(io - bench->ios);
    io->pushed_bytes += count * GUEST_PAGE;
    io->unanswered++;
    return 0;
}

/* As many requests of those that wait as there is room for; published together. */
static int waiting_push(struct bench_disk *bench, uint64_t *ret_requests)
{
    struct front_queue *queue = &bench->front.queues[0];
    unsigned pushed = 0;
    struct bench_io *io;

    while (bench->nr_waiting > 0 && front_room(queue) > 0) {
        io = &bench->ios[bench->waiting[bench->waiting_first]];
        if (request_push(bench, io))
            return -1;
        pushed++;
        if (io->pushed_bytes < bench->pattern->bytes)
            continue;
        bench->waiting_first = (bench->waiting_first + 1) % PLAYER_DEPTH_MAX;
        bench->nr_waiting--;
    }
    if (pushed > 0)
        front_publish(&bench->front, 0);
    *ret_requests += pushed;
    return 0;
}

/* -- I/Os ------------------------------------------------------------------------------------- */
static void io_begin(struct bench_disk *bench, struct bench_io *io, uint64_t now_ns)
{
    uint32_t byte;

    io->reads = walk_reads(&bench->walk, bench->pattern);
    io->first_byte = walk_next(&bench->walk, bench->pattern);
    io->start_ns = now_ns;
    io->pushed_bytes = 0;
    io->scattered = bench->pattern->scatter ? orders[bench->nr_begun % ORDERS] : NULL;
    bench->nr_begun++;
    bench->in_flight++;
    for (byte = 0; !io->reads && byte < bench->pattern->bytes; byte += PATTERN_BLOCK)
        *stamp_place(bench, io, byte) = pattern_stamp(io->first_byte + byte);
    bench->waiting[(bench->waiting_first + bench->nr_waiting++) % PLAYER_DEPTH_MAX] =
        (uint16_t)(io - bench->ios);
}

static bool io_is_right(const struct bench_disk *bench, const struct bench_io *io)
{
    uint32_t byte;

    for (byte = 0; byte < bench->pattern->bytes; byte += PATTERN_BLOCK)
        if (*stamp_place(bench, io, byte) != pattern_stamp(io->first_byte + byte))
            return false;
    return true;
}

static void io_end(struct bench_disk *bench, const struct bench_io *io, uint64_t now_ns,
                   struct outcome *out)
{
    bench->in_flight--;
    out->ios++;
    histogram_add(&out->latency, now_ns - io->start_ns, 1);
    if (io->reads && bench->check_every > 0 && out->ios % bench->check_every == 0 &&
        !io_is_right(bench, io))
        out->wrong++;
}

int bench_disk_start(struct bench_disk *bench, const struct run *run)
{
    uint64_t now_ns = clock_ns(), requests = 0;
    unsigned i;

    if (run->depth * FRAMES_OF(run->pattern) > DISK_FRAMES) {
        fprintf(stderr, "benchguest: %u I/Os of %u bytes are more than the guest's memory\n",
                run->depth, run->pattern->bytes);
        return -1;
    }
    bench->pattern = run->pattern;
    bench->depth = run->depth;
    bench->in_flight = bench->nr_waiting = 0;
    lists_write(bench);
    for (i = 0; i < bench->depth; i++)
        io_begin(bench, &bench->ios[i], now_ns);
    return waiting_push(bench, &requests);
}

int bench_disk_turn(struct bench_disk *bench, bool more, struct outcome *out)
{
    uint64_t now_ns = clock_ns();
    struct front_response rsp;
    struct bench_io *io;
    int got;

    while ((got = front_poll_queue(&bench->front, 0, &rsp)) > 0) {
        io = &bench->ios[bench->io_of[SHADOW_OF(rsp.id)]];
        if (rsp.status != RSP_OKAY)
            out->errors++;
        if (--io->unanswered > 0 || io->pushed_bytes < bench->pattern->bytes)
            continue;
        io_end(bench, io, now_ns, out);
        if (more)
            io_begin(bench, io, now_ns);
    }
    return got < 0 ? -1 : waiting_push(bench, &out->ring_requests);
}
