/*
 * lockstep --list | lockstep PATTERN DEPTH: the guest, and who moves when.
 *
 * A round: the guest publishes DEPTH requests at once; the worker takes and sends them; the server
 * answers; the worker answers; the guest takes its answers. Only the worker's turns count, and
 * only those of the rounds behind the first few: strace sees where they begin and end by marks,
 * callgrind by the names of functions (counts.sh). What the stand-ins and the server count is
 * printed here, as a line of names and numbers.
 */
#include "lockstep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gateway/worker.h"
#include "guest.h"
#include "simclient.h"

enum {
    DOMID = 7,
    DEPTH_MAX = 128,
    PAGE_SECTORS = GUEST_PAGE / GUEST_SECTOR,
    BLOCKS = 1 << 18, /* of 4 KiB, that random requests go to */
    STRIDE = 162019,  /* by which: odd, and BLOCKS divided by the golden number */
    STEP_TURNS = 2,   /* one learns of what came, the next does it: the worker works, then looks */
    STEPS_MAX = 1000, /* of a round; 2 are usual */
    ROUNDS_MAX = 256, /* that count */
    WARM_PART = 4,    /* of them, as many more before them do not count */
    MARK_BEGIN = -1000,
    MARK_END = -1001,
};

/* Each file system block of 1 KiB is two sectors of a page that are not beside each other. */
static const uint8_t scattered[PAGE_SECTORS] = {3, 6, 0, 5, 1, 7, 2, 4};

static const struct pattern {
    const char *name;
    unsigned percent_read;
    bool random, scatter;
    unsigned pages, requests;
    unsigned depths[5];
} patterns[] = {
    {"4k-randread", 100, true, false, 1, 1024, {1, 8, 32, 128}},
    {"4k-randwrite", 0, true, false, 1, 1024, {1, 8, 32, 128}},
    {"4k-rw70", 70, true, false, 1, 1024, {1, 32}},
    {"4k-seqread", 100, false, false, 1, 1024, {1, 8, 32, 128}},
    {"4k-seqwrite", 0, false, false, 1, 1024, {1, 8, 32, 128}},
    {"scatter-read", 100, false, true, 1, 1024, {1, 32}},
    {"scatter-write", 0, false, true, 1, 1024, {1, 32}},
    {"64k-seqread", 100, false, false, 16, 256, {1, 8, 32}},
    {"64k-seqwrite", 0, false, false, 16, 256, {1, 8, 32}},
    {"1m-seqread", 100, false, false, 256, 64, {1, 8}},
};

/* One of the requests of a round. Its pages are granted for good. */
struct slot {
    uint32_t frame, refs[GUEST_INDIRECT_MAX], list_frame, list_ref;
    bool reads;
    uint64_t sector;
};

static struct lockstep {
    const struct pattern *pattern;
    unsigned depth;
    struct front front;
    struct worker *worker;
    struct server *server;
    struct slot slots[DEPTH_MAX];
    uint64_t requests; /* ever */
    uint64_t dice;
} lockstep = {.dice = 1};

/* -- requests -------------------------------------------------------------------------------- */

static void slot_init(struct slot *slot)
{
    struct guest *guest = lockstep.front.guest;
    unsigned pages = lockstep.pattern->pages;

    slot->frame = guest_frames_alloc(guest, pages + 1);
    slot->list_frame = slot->frame + pages;
    slot->list_ref = guest_grant(guest, slot->list_frame, 0, true);
    for (unsigned i = 0; i < pages; i++)
        slot->refs[i] = guest_grant(guest, slot->frame + i, 0, false);
}

/* Where in the slot's pages the request's i-th sector lies. */
static uint8_t *slot_sector(const struct slot *slot, unsigned i)
{
    unsigned in_page = i % PAGE_SECTORS;

    if (lockstep.pattern->scatter)
        in_page = scattered[in_page];
    return guest_page(lockstep.front.guest, slot->frame + i / PAGE_SECTORS) +
           in_page * GUEST_SECTOR;
}

static unsigned sectors(void)
{
    return lockstep.pattern->pages * PAGE_SECTORS;
}

static bool dice_reads(void)
{
    lockstep.dice = lockstep.dice * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (lockstep.dice >> 33) % 100 < lockstep.pattern->percent_read;
}

/* Random places are never beside each other in a round, nor twice the same. */
static void choose(struct slot *slot)
{
    uint64_t number = lockstep.requests++;

    slot->reads = dice_reads();
    slot->sector =
        lockstep.pattern->random ? number * STRIDE % BLOCKS * PAGE_SECTORS : number * sectors();
}

/* With its bytes to be written, or with others to be read over. */
static void fill(const struct slot *slot)
{
    for (unsigned i = 0; i < sectors(); i++)
        bytes_fill(slot_sector(slot, i), (slot->sector + i + slot->reads) * GUEST_SECTOR,
                   GUEST_SECTOR);
}

static void check(const struct slot *slot)
{
    for (unsigned i = 0; slot->reads && i < sectors(); i++)
        if (!bytes_hold(slot_sector(slot, i), (slot->sector + i) * GUEST_SECTOR, GUEST_SECTOR))
            lockstep_fail("sector %llu was read wrong", (unsigned long long)slot->sector + i);
}

static struct front_segment segment_of(const struct slot *slot, unsigned i)
{
    if (lockstep.pattern->scatter)
        return (struct front_segment){slot->refs[0], scattered[i], scattered[i]};
    return (struct front_segment){slot->refs[i], 0, PAGE_SECTORS - 1};
}

static void push(const struct slot *slot)
{
    unsigned segments = lockstep.pattern->scatter ? PAGE_SECTORS : lockstep.pattern->pages;
    bool indirect = segments > GUEST_SEGMENTS_MAX;
    uint8_t op = slot->reads ? OP_READ : OP_WRITE;
    struct front_request request = {
        .op = indirect ? OP_INDIRECT : op,
        .inner_op = op,
        .nr_segments = (uint16_t)segments,
        .sector = slot->sector,
        .indirect_refs = {slot->list_ref},
    };

    for (unsigned i = 0; i < segments; i++) {
        struct front_segment segment = segment_of(slot, i);

        if (indirect)
            guest_abi_indirect(guest_page(lockstep.front.guest, slot->list_frame), i, &segment);
        else
            request.segments[i] = segment;
    }
    if (front_push(&lockstep.front, 0, &request))
        lockstep_fail("the ring is full");
}

/* -- rounds ---------------------------------------------------------------------------------- */

/* A system call that does nothing, for strace. */
static void mark(int which)
{
    syscall(SYS_close, which);
}

static void step(bool counts)
{
    for (unsigned i = 0; i < STEP_TURNS; i++) {
        if (counts)
            mark(MARK_BEGIN);
        worker_turn(lockstep.worker);
        if (counts)
            mark(MARK_END);
    }
}

/* The number of answers that were there. */
static unsigned take_answers(void)
{
    struct front_response response;
    unsigned answers = 0;
    int got;

    guest_wait(lockstep.front.guest, 0);
    while ((got = front_poll(&lockstep.front, &response)) > 0) {
        if (response.status != RSP_OKAY)
            lockstep_fail("a request was answered %d", response.status);
        answers++;
    }
    if (got < 0)
        lockstep_fail("the worker broke the ring");
    return answers;
}

static void round_run(bool checks, bool counts)
{
    unsigned answers = 0, steps;

    for (unsigned i = 0; i < lockstep.depth; i++) {
        choose(&lockstep.slots[i]);
        if (checks)
            fill(&lockstep.slots[i]);
        push(&lockstep.slots[i]);
    }
    front_publish(&lockstep.front, 0);
    for (steps = 0; answers < lockstep.depth && steps < STEPS_MAX; steps++) {
        step(counts);
        answers += take_answers();
        server_answer(lockstep.server, checks);
    }
    if (answers < lockstep.depth)
        lockstep_fail("%u of %u requests were answered", answers, lockstep.depth);
    for (unsigned i = 0; checks && i < lockstep.depth; i++)
        check(&lockstep.slots[i]);
}

/* Callgrind looks at worker_turn while this runs: it knows it by its name. */
__attribute__((noinline)) static void rounds_that_count(unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++)
        round_run(false, true);
}

static void run(void)
{
    unsigned whole = lockstep.pattern->requests / lockstep.depth;
    unsigned rounds = whole < ROUNDS_MAX ? whole : ROUNDS_MAX, warm = rounds / WARM_PART + 1;
    const struct sim_stats *stats = &lockstep.front.guest->conn->shared->stats;
    uint64_t commands, calls, ops, notifies;

    for (unsigned i = 0; i < warm; i++)
        round_run(true, false);
    commands = server_commands(lockstep.server);
    calls = atomic_load(&stats->grant_copy_calls);
    ops = atomic_load(&stats->grant_copy_ops);
    notifies = atomic_load(&stats->notifies);
    rounds_that_count(rounds);
    printf("requests %u nbd_commands %llu grant_copy_calls %llu copy_ops %llu notifies %llu\n",
           rounds * lockstep.depth,
           (unsigned long long)(server_commands(lockstep.server) - commands),
           (unsigned long long)(atomic_load(&stats->grant_copy_calls) - calls),
           (unsigned long long)(atomic_load(&stats->grant_copy_ops) - ops),
           (unsigned long long)(atomic_load(&stats->notifies) - notifies));
    round_run(true, false);
}

/* -- the scene ------------------------------------------------------------------------------- */

static void list(void)
{
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        for (unsigned d = 0; patterns[i].depths[d] > 0; d++)
            printf("%s %u\n", patterns[i].name, patterns[i].depths[d]);
}

static const struct pattern *pattern_find(const char *name)
{
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (strcmp(patterns[i].name, name) == 0)
            return &patterns[i];
    return NULL;
}

/* The smallest ring that holds them all, as a guest's with so deep a queue is. */
static unsigned ring_order(const struct guest_abi *abi, unsigned slots)
{
    unsigned order = 0;

    while ((GUEST_PAGE << order) / abi->slot_bytes < slots)
        order++;
    return order;
}

static void front_create(void)
{
    static struct tool_disk disk;
    struct front *front = &lockstep.front;

    front->guest = guest_create(DOMID, DEPTH_MAX * GUEST_INDIRECT_MAX / 4);
    front->disk = &disk;
    front->abi = guest_abi_find("x86_64");
    front->ring_order = ring_order(front->abi, lockstep.depth);
    if (!front->guest || front_ring_create(front))
        exit(1);
    for (unsigned i = 0; i < lockstep.depth; i++)
        slot_init(&lockstep.slots[i]);
}

int main(int argc, char **argv)
{
    const char *dir = getenv("BLKGATE_SIM");
    char socket[100], kept[120];

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list();
        return 0;
    }
    if (argc == 3) {
        lockstep.pattern = pattern_find(argv[1]);
        lockstep.depth = (unsigned)strtoul(argv[2], NULL, 10);
    }
    if (!lockstep.pattern || lockstep.depth == 0 || lockstep.depth > DEPTH_MAX || !dir) {
        fprintf(stderr, "usage: lockstep --list | lockstep PATTERN DEPTH\n"
                        "In a simulation (tests/sim/room.sh). DEPTH: 128 at most.\n");
        return 2;
    }
    snprintf(socket, sizeof socket, "%.80s/lockstep.%d", dir, (int)getpid());
    snprintf(kept, sizeof kept, "%s.keep", socket);
    front_create();
    lockstep.server = server_start(socket);
    lockstep.worker = disk_worker();
    disk_connect(lockstep.worker, &lockstep.front, lockstep.server, socket, kept);
    disk_alone();
    run();
    return 0;
}
