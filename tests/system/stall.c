/* stall: guests of a server that stops answering. It costs them time to close, others nothing.
 *
 *      stall TRIAL --disk NAME --domid N [--kill PID] [--daemon PID]
 *
 * Trials, each of one guest; exit 0 only if all of it held:
 *      flush   The server fails every flush, and answers nothing that was sent after it, until the
 *              disk is given up. The frontend closes; --kill: the server dies a second later.
 *      broken  The guest breaks its ring while the server holds its reads, then closes as above.
 *      mute    The guest breaks its ring, and notifies once more, but never closes: the daemon has
 *              nothing to do for it, and does nothing.
 *      deep    512 writes at once, on a ring of 16 pages; closes after a second.
 *      hoard   On one worker NAME1 .. NAME20, each with 64 reads of 44 KiB at a server that keeps
 *              them, and NAME0, which must still work.
 *      gorge   The same, with 64 reads of 1 MiB each; NAME0 is to write as much at once.
 *      tangle  NAME1 with all slots of 16 rings in use, by writes of which one may start, and a
 *              notification for each write of NAME0, on the same worker, which goes on: --daemon's
 *              time is not spent on those that wait.
 * After each: state 6 in time, every request answered once, flushes last; no ring stays mapped.
 */
#include "guest.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    FLUSH_LOST = -3,
    HOARDERS = 20,
    HOARDED = 64,
    TANGLED = GUEST_QUEUES_MAX * GUEST_RING_SLOTS,
    TANGLED_CPU_MS = 2000, /* for 100 writes beside it: they took 8 ms, and once 18665 */
    SHOWN_MS = 10000,
    CLOSE_MS = 8000 + 1500, /* LIMIT_CLOSE_MS, and a slow machine */
    IDLE_MS = 1000,
    IDLE_CPU_MS = 200, /* in that time, on a slow machine: it was 1000 */
    KILLED_MS = 4000,  /* well before a close gives up on a server by itself */
};

struct unit {
    struct tool_disk disk;
    struct front front;
    unsigned asked, answered, flushes; /* flushes: unanswered */
};

static struct guest *guest;
static uint32_t frame, refs[GUEST_SEGMENTS_MAX];
static uint32_t list_ref; /* 256 descriptors, all of the first frame */
static struct unit units[HOARDERS + 1];
static const char *name;
static unsigned domid, nr_wrong;
static long kill_pid, daemon_pid;

#define expect(condition, ...)                             \
    do {                                                   \
        if (!(condition)) {                                \
            fprintf(stderr, "stall: wrong: " __VA_ARGS__); \
            fprintf(stderr, "\n");                         \
            nr_wrong++;                                    \
        }                                                  \
    } while (0)

static bool attach_queues(struct unit *unit, const char *params, unsigned index, unsigned order,
                          unsigned queues)
{
    unit->disk = (struct tool_disk){.guest = guest,
                                    .kind = "qdisk",
                                    .vdev = "xvda",
                                    .devid = 51712 + 16 * index,
                                    .params = strdup(params)};
    unit->front = (struct front){.guest = guest,
                                 .disk = &unit->disk,
                                 .abi = guest_abi_find("x86_64"),
                                 .ring_order = order,
                                 .nr_queues = queues,
                                 .timeout_ms = SHOWN_MS};
    if (tool_attach(&unit->disk) == 0 && front_connect(&unit->front) == 0)
        return true;
    expect(false, "%s is not attached", params);
    return false;
}

static bool attach(struct unit *unit, const char *params, unsigned index, unsigned order)
{
    return attach_queues(unit, params, index, order, 1);
}

/* None beside another: each is a command of its own. */
static void ask(struct unit *unit, uint8_t op, unsigned pages)
{
    struct front_request req = {.op = op, .sector = unit->asked % 64 * 16};

    for (; op != OP_FLUSH && req.nr_segments < pages; req.nr_segments++)
        req.segments[req.nr_segments] =
            (struct front_segment){.ref = refs[req.nr_segments], .first = 0, .last = 7};
    if (op == OP_FLUSH)
        req.sector = 0;
    else if (pages > 1)
        req.sector = 0; /* reads of one place */
    if (front_push(&unit->front, 0, &req))
        abort();
    unit->asked++;
    unit->flushes += op == OP_FLUSH;
}

static void answers_take(struct unit *unit)
{
    struct front_response rsp;
    int got;

    while ((got = front_poll(&unit->front, &rsp)) > 0) {
        unit->answered++;
        if (rsp.op != OP_FLUSH)
            continue;
        unit->flushes--;
        expect(unit->asked - unit->answered == unit->flushes, "a flush is not the last");
        expect(rsp.status == FLUSH_LOST, "a flush is answered %d", rsp.status);
    }
    expect(got == 0, "an answer that was not asked for");
}

static void answers_wait(struct unit *unit, int ms)
{
    int64_t end_ms = guest_clock_ms() + ms;

    while (guest_clock_ms() < end_ms) {
        answers_take(unit);
        guest_wait(guest, 10);
    }
}

static void close_in(struct unit *unit, int limit_ms)
{
    int64_t start_ms = guest_clock_ms();

    if (kill_pid) {
        front_state_set(&unit->front, STATE_CLOSED);
        answers_wait(unit, 1000);
        kill((pid_t)kill_pid, SIGKILL);
    }
    front_state_set(&unit->front, STATE_CLOSED);
    while (tool_state(&unit->disk) != STATE_CLOSED && guest_clock_ms() - start_ms < limit_ms)
        answers_wait(unit, 20);
    expect(tool_state(&unit->disk) == STATE_CLOSED, "no state 6 in %d ms", limit_ms);
    answers_take(unit);
    expect(unit->answered == unit->asked, "%u of %u requests are answered", unit->answered,
           unit->asked);
    expect(front_ring_free(&unit->front) == 0, "the ring is still mapped");
    printf("closed in %" PRId64 " ms\n", guest_clock_ms() - start_ms);
}

/* The loss is shown before the frontend closes. */
static void close_lost(struct unit *unit)
{
    expect(tool_wait_state(&unit->disk, STATE_CLOSING, SHOWN_MS) == 0, "the loss is not shown");
    answers_wait(unit, 300);
    close_in(unit, kill_pid ? KILLED_MS : CLOSE_MS);
}

static void trial_flush(void)
{
    if (!attach(&units[0], name, 0, 0))
        return;
    ask(&units[0], OP_WRITE, 1); /* or there is nothing to flush */
    front_publish(&units[0].front, 0);
    answers_wait(&units[0], 300);
    ask(&units[0], OP_FLUSH, 0);
    for (int i = 0; i < 8; i++)
        ask(&units[0], OP_READ, 1);
    front_publish(&units[0].front, 0);
    close_lost(&units[0]);
}

static void trial_broken(void)
{
    struct front_queue *queue = &units[0].front.queues[0];

    if (!attach(&units[0], name, 0, 0))
        return;
    for (int i = 0; i < 8; i++)
        ask(&units[0], OP_READ, 1);
    front_publish(&units[0].front, 0);
    answers_wait(&units[0], 300);
    atomic_store((_Atomic uint32_t *)(void *)queue->ring, queue->req_prod + 1000);
    guest_notify(guest, queue->slot);
    close_lost(&units[0]);
}

static int64_t daemon_cpu_ms(void)
{
    struct timespec used = {0};
    clockid_t clock;

    expect(clock_getcpuclockid((pid_t)daemon_pid, &clock) == 0 && clock_gettime(clock, &used) == 0,
           "process %ld has no clock", daemon_pid);
    return (int64_t)used.tv_sec * 1000 + used.tv_nsec / 1000000;
}

static void trial_mute(void)
{
    struct front_queue *queue = &units[0].front.queues[0];
    int64_t before_ms;

    if (!attach(&units[0], name, 0, 0))
        return;
    atomic_store((_Atomic uint32_t *)(void *)queue->ring, queue->req_prod + 1000);
    guest_notify(guest, queue->slot);
    expect(tool_wait_state(&units[0].disk, STATE_CLOSING, SHOWN_MS) == 0, "the loss is not shown");
    answers_wait(&units[0], 300);
    guest_notify(guest, queue->slot);
    before_ms = daemon_cpu_ms();
    answers_wait(&units[0], IDLE_MS);
    before_ms = daemon_cpu_ms() - before_ms;
    expect(before_ms <= IDLE_CPU_MS, "the daemon used %" PRId64 " ms in %d of doing nothing",
           before_ms, IDLE_MS);
    close_in(&units[0], CLOSE_MS);
}

static void trial_deep(void)
{
    if (!attach(&units[0], name, 0, 4))
        return;
    for (int i = 0; i < 512; i++)
        ask(&units[0], OP_WRITE, 1);
    front_publish(&units[0].front, 0);
    answers_wait(&units[0], 1000);
    front_state_set(&units[0].front, STATE_CLOSING);
    close_in(&units[0], CLOSE_MS);
}

static struct front_request long_request(uint8_t op)
{
    return (struct front_request){.op = OP_INDIRECT,
                                  .inner_op = op,
                                  .nr_segments = GUEST_INDIRECT_MAX,
                                  .indirect_refs = {list_ref}};
}

static void hoard(unsigned index, bool whole)
{
    struct unit *unit = &units[index];
    char hoarder[64];

    snprintf(hoarder, sizeof(hoarder), "%s%u", name, index);
    if (!attach(unit, hoarder, index, 1))
        return;
    for (int i = 0; i < HOARDED; i++) {
        struct front_request req = long_request(OP_READ);

        if (!whole)
            ask(unit, OP_READ, GUEST_SEGMENTS_MAX);
        else if (front_push(&unit->front, 0, &req))
            abort();
    }
    front_publish(&unit->front, 0);
}

static void hoard_beside(bool whole)
{
    struct front_request req = {.op = OP_WRITE, .nr_segments = GUEST_SEGMENTS_MAX};
    char served[64];

    for (unsigned i = 1; i <= HOARDERS; i++)
        hoard(i, whole);
    answers_wait(&units[1], 500);
    snprintf(served, sizeof(served), "%s0", name);
    if (!attach(&units[0], served, 0, 0))
        return;
    for (unsigned i = 0; i < GUEST_SEGMENTS_MAX; i++)
        req.segments[i] = (struct front_segment){.ref = refs[i], .first = 0, .last = 7};
    for (int i = 0; i < 20; i++) {
        if (whole && i % 2)
            req = long_request(OP_WRITE);
        expect(front_do(&units[0].front, &req) == RSP_OKAY, "write %d of the neighbour", i);
    }
    expect(front_close(&units[0].front) == 0, "the neighbour cannot close");
    printf("%u at other servers, and the neighbour is served\n", HOARDERS * HOARDED);
}

static void trial_hoard(void)
{
    hoard_beside(false);
}

static void trial_gorge(void)
{
    hoard_beside(true);
}

/* Half of the requests wait behind the first, half behind the last of those. */
static void tangle(struct unit *unit)
{
    for (unsigned i = 0; i < TANGLED; i++) {
        struct front_request req = {.op = OP_WRITE, .nr_segments = 1};

        req.sector = i < TANGLED / 2 ? 0 : i == TANGLED / 2 ? 4 : 8;
        req.segments[0] = (struct front_segment){.ref = refs[0], .first = 0, .last = 7};
        if (front_push(&unit->front, i / GUEST_RING_SLOTS, &req))
            abort();
        unit->asked++;
    }
    for (unsigned i = 0; i < GUEST_QUEUES_MAX; i++)
        front_publish(&unit->front, i);
}

static void trial_tangle(void)
{
    struct front_request req = {.op = OP_WRITE, .nr_segments = 1};
    char served[64], tangled[64];
    int64_t before_ms;

    snprintf(served, sizeof(served), "%s0", name);
    snprintf(tangled, sizeof(tangled), "%s1", name);
    if (!attach(&units[0], served, 0, 0) ||
        !attach_queues(&units[1], tangled, 1, 4, GUEST_QUEUES_MAX))
        return;
    tangle(&units[1]);
    answers_wait(&units[1], 500);
    req.segments[0] = (struct front_segment){.ref = refs[0], .first = 0, .last = 7};
    before_ms = daemon_cpu_ms();
    for (int i = 0; i < 100; i++) {
        guest_notify(guest, units[1].front.queues[0].slot);
        expect(front_do(&units[0].front, &req) == RSP_OKAY, "write %d of the neighbour", i);
    }
    before_ms = daemon_cpu_ms() - before_ms;
    expect(before_ms <= TANGLED_CPU_MS, "the neighbour's writes took %" PRId64 " ms of CPU time",
           before_ms);
    front_state_set(&units[1].front, STATE_CLOSING);
    close_in(&units[1], CLOSE_MS);
}

static const struct {
    const char *name;
    void (*run)(void);
} trials[] = {{"flush", trial_flush},  {"broken", trial_broken}, {"mute", trial_mute},
              {"deep", trial_deep},    {"hoard", trial_hoard},   {"gorge", trial_gorge},
              {"tangle", trial_tangle}};

static void frames_grant(void)
{
    uint32_t list = guest_frames_alloc(guest, 1);
    struct front_segment seg = {.first = 0, .last = 7};

    frame = guest_frames_alloc(guest, GUEST_SEGMENTS_MAX);
    for (uint32_t i = 0; i < GUEST_SEGMENTS_MAX; i++)
        refs[i] = guest_grant(guest, frame + i, 0, false);
    seg.ref = refs[0];
    for (unsigned i = 0; i < GUEST_INDIRECT_MAX; i++)
        guest_abi_indirect(guest_page(guest, list), i, &seg);
    list_ref = guest_grant(guest, list, 0, true);
}

int main(int argc, char **argv)
{
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--disk") == 0)
            name = argv[i + 1];
        else if (strcmp(argv[i], "--domid") == 0)
            domid = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--kill") == 0)
            kill_pid = strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--daemon") == 0)
            daemon_pid = strtol(argv[i + 1], NULL, 10);
    }
    if (!name || !domid)
        return 100;
    guest = guest_create(domid, 512);
    if (!guest)
        return 1;
    frames_grant();
    for (size_t i = 0; i < sizeof(trials) / sizeof(*trials); i++)
        if (strcmp(argv[1], trials[i].name) == 0)
            trials[i].run();
    guest_destroy(guest);
    return nr_wrong > 0;
}
