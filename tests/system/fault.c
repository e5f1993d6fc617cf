/* fault: one guest whose server fails, and the precise order of what the guest sees of it.
 *
 *      fault EXPECTATION --disk NAME --domid N [option...]
 *
 * Expectations, each from attach to detach; exit 0 only if all of it held:
 *      lose    The server goes while requests are in flight (by itself, or --stop and --kill its
 *              pid). Nothing but OKAY is answered while xenstored (--xenstored PID) is stopped and
 *              state 5 so cannot be shown; then 5, with a reason; then ERROR for reads and writes;
 *              no flush before the frontend closes; then flushes, last, with BLKIF_FLUSH_LOST.
 *      hang    The server answers nothing more: state 6 within 8 s of ours, answered as above.
 *      fail    --fails read|write: those are answered ERROR, all else OKAY, in state 4.
 *      readonly   Reads and flushes work, writes do not, and info says so.
 *      refuse  State 5 and a reason instead of 4.
 *      serve   It simply works.
 * Every request is answered exactly once, and no ring stays mapped. After lose, hang and refuse:
 *      --again COMMAND   brings the server back; the frontend opens the disk again, and it works.
 *      --flushes-lost    no flush of the batch may be answered OKAY.
 *      --hasty           after state 5 the frontend closes at once, with reads at the server.
 * The first WARM commands (4 writes, 4 reads) of a connection are sent before the batch.
 */
#include "guest.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum {
    FLUSH_LOST = -3,
    WARM = 4,
    BATCH = 18,
    PENDING = 1 << 20, /* not answered yet; no status */
    QUIET_MS = 700,    /* how long nothing may come */
    SHOWN_MS = 10000,
    CLOSE_MS = 8000 + 1500, /* LIMIT_CLOSE_MS, and a slow machine */
};

struct ask {
    uint64_t id;
    uint8_t op;
    int status;
    unsigned order; /* of its answer */
};

static struct tool_disk disk = {.kind = "qdisk", .vdev = "xvda", .devid = 51712};
static struct front front = {.timeout_ms = 20000, .nr_queues = 1, .disk = &disk};
static struct ask asks[BATCH + 8];
static unsigned nr_asks, nr_answers, nr_wrong;
static uint32_t frame;
static uint32_t ref;
static unsigned domid;
static long stop_pid, kill_pid, xenstored_pid;
static const char *again, *fails = "";
static bool flushes_lost, hasty;

#define expect(condition, ...)                             \
    do {                                                   \
        if (!(condition)) {                                \
            fprintf(stderr, "fault: wrong: " __VA_ARGS__); \
            fprintf(stderr, "\n");                         \
            nr_wrong++;                                    \
        }                                                  \
    } while (0)

static void signal_send(long pid, int number)
{
    if (pid > 0 && kill((pid_t)pid, number))
        perror("fault: kill");
}

/* -- requests ------------------------------------------------------------------------------- */

static struct front_request request(uint8_t op, uint64_t sector)
{
    struct front_request req = {.op = op, .sector = sector};

    if (op == OP_FLUSH)
        return req;
    req.nr_segments = 1;
    req.segments[0] = (struct front_segment){.ref = ref, .first = 0, .last = 7};
    return req;
}

static void ask(uint8_t op, uint64_t sector)
{
    struct front_request req = request(op, sector);

    if (nr_asks == sizeof(asks) / sizeof(*asks) || front_push(&front, 0, &req))
        abort();
    asks[nr_asks++] = (struct ask){.id = req.id, .op = op, .status = PENDING};
}

static const char *op_name(uint8_t op)
{
    return op == OP_READ ? "read" : op == OP_WRITE ? "write" : "flush";
}

/* Takes all answers that are there. False: the backend broke the protocol (answered twice, ...). */
static bool answers_take(void)
{
    struct front_response rsp;
    unsigned i;
    int got;

    while ((got = front_poll(&front, &rsp)) > 0)
        for (i = 0; i < nr_asks; i++)
            if (asks[i].id == rsp.id && asks[i].status == PENDING) {
                asks[i].status = rsp.status;
                asks[i].order = ++nr_answers;
            }
    expect(got == 0, "an answer that was not asked for");
    return got == 0;
}

static void answers_wait(int ms)
{
    int64_t end_ms = guest_clock_ms() + ms;

    while (answers_take() && guest_clock_ms() < end_ms)
        guest_wait(front.guest, 10);
}

static unsigned unanswered(bool flushes)
{
    unsigned i, count = 0;

    for (i = 0; i < nr_asks; i++)
        count += asks[i].status == PENDING && (asks[i].op == OP_FLUSH) == flushes;
    return count;
}

static void data_answers_wait(void)
{
    int64_t end_ms = guest_clock_ms() + SHOWN_MS;

    while (unanswered(false) && guest_clock_ms() < end_ms && answers_take())
        guest_wait(front.guest, 10);
    expect(unanswered(false) == 0, "%u reads and writes have no answer", unanswered(false));
}

static void asks_forget(void)
{
    nr_asks = nr_answers = 0;
}

/* WARM writes and WARM reads of what they wrote, one after the other. */
static void warm(bool may_write)
{
    struct front_request req;
    unsigned i, status;
    uint8_t *page = guest_page(front.guest, frame);

    for (i = 0; may_write && i < WARM; i++) {
        memset(page, (int)(0x40 + i), GUEST_PAGE);
        req = request(OP_WRITE, (uint64_t)i * 8);
        status = (unsigned)front_do(&front, &req);
        expect(status == RSP_OKAY, "write %u: %d", i, (int)status);
    }
    for (i = 0; i < WARM; i++) {
        memset(page, 0xee, GUEST_PAGE);
        req = request(OP_READ, (uint64_t)i * 8);
        status = (unsigned)front_do(&front, &req);
        expect(status == RSP_OKAY, "read %u: %d", i, (int)status);
        expect(!may_write || (page[0] == 0x40 + i && page[GUEST_PAGE - 1] == 0x40 + i),
               "read %u: wrong bytes", i);
    }
}

/* A disk that offers no flush may say so. */
static void flush_once(void)
{
    struct front_request req = request(OP_FLUSH, 0);
    int status = front_do(&front, &req);

    expect(status == RSP_OKAY || (status == RSP_NOTSUPP && !front.flush), "flush: %d", status);
}

/* Two flushes, among 8 reads and 8 writes that touch each a page of its own. */
static void batch_push(void)
{
    unsigned i;

    for (i = 0; i < 8; i++) {
        if (i == 2 || i == 6)
            ask(OP_FLUSH, 0);
        ask(OP_WRITE, 64 + i * 16);
        ask(OP_READ, 72 + i * 16);
    }
    front_publish(&front, 0);
}

/* -- what is to hold ------------------------------------------------------------------------ */

static void reason_print(void)
{
    char path[192];
    unsigned length = 0;
    char *text;

    snprintf(path, sizeof(path), "/local/domain/0/error/backend/%s/%u/%u/error", disk.kind, domid,
             disk.devid);
    text = xs_read(disk.guest->xs, XBT_NULL, path, &length);
    expect(text && length > 4, "state 5, and no reason in the error node");
    printf("reason: %s\n", text ? text : "none");
    free(text);
}

static void no_error_yet(void)
{
    unsigned i;

    for (i = 0; i < nr_asks; i++)
        expect(asks[i].status == PENDING || asks[i].status == RSP_OKAY,
               "a %s was answered %d before state 5 could be seen", op_name(asks[i].op),
               asks[i].status);
}

/* After the end: all answered; flushes OKAY before the first failure, or FLUSH_LOST and last. */
static void answers_judge(void)
{
    unsigned first_failure = ~0u, last_data = 0, i;

    for (i = 0; i < nr_asks; i++) {
        const struct ask *a = &asks[i];

        expect(a->status != PENDING, "a %s was never answered", op_name(a->op));
        if (a->op != OP_FLUSH && a->order > last_data)
            last_data = a->order;
        if (a->status != RSP_OKAY && a->order < first_failure)
            first_failure = a->order;
        if (a->op != OP_FLUSH)
            expect(a->status == RSP_OKAY || a->status == RSP_ERROR, "a %s was answered %d",
                   op_name(a->op), a->status);
    }
    for (i = 0; i < nr_asks; i++) {
        const struct ask *a = &asks[i];

        if (a->op != OP_FLUSH || a->status == PENDING)
            continue;
        expect(a->status == FLUSH_LOST || (a->status == RSP_OKAY && !flushes_lost),
               "a flush was answered %d", a->status);
        expect(a->status == FLUSH_LOST ? a->order > last_data : a->order < first_failure,
               "a flush was answered %d as number %u of %u", a->status, a->order, nr_answers);
    }
}

/* 5, 6, and the backend's 6 in time; answers are taken until then. */
static void close_watched(bool by_5)
{
    int64_t start_ms;

    if (by_5) {
        front_state_set(&front, STATE_CLOSING);
        expect(tool_wait_state(&disk, STATE_CLOSING, SHOWN_MS) == 0, "no state 5 after ours");
    }
    start_ms = guest_clock_ms();
    front_state_set(&front, STATE_CLOSED);
    while (tool_state(&disk) != STATE_CLOSED && guest_clock_ms() - start_ms < CLOSE_MS)
        answers_wait(20);
    expect(tool_state(&disk) == STATE_CLOSED, "no state 6 in %d ms", CLOSE_MS);
    printf("closed in %" PRId64 " ms\n", guest_clock_ms() - start_ms);
    answers_wait(100);
    answers_judge();
    expect(front_ring_free(&front) == 0, "the ring is still mapped");
    asks_forget();
}

static void lose(void)
{
    warm(true);
    if (xenstored_pid)
        signal_send(xenstored_pid, SIGSTOP);
    signal_send(stop_pid, SIGSTOP);
    batch_push();
    if (kill_pid)
        answers_wait(300);
    signal_send(kill_pid, SIGKILL);
    answers_wait(QUIET_MS);
    no_error_yet();
    signal_send(xenstored_pid, SIGCONT);
    expect(tool_wait_state(&disk, STATE_CLOSING, SHOWN_MS) == 0, "the loss is not shown");
    reason_print();
    if (hasty) {
        close_watched(false);
        return;
    }
    data_answers_wait();
    ask(OP_READ, 8);
    ask(OP_WRITE, 16);
    ask(OP_FLUSH, 0);
    front_publish(&front, 0);
    data_answers_wait();
    expect(asks[nr_asks - 3].status == RSP_ERROR && asks[nr_asks - 2].status == RSP_ERROR,
           "a lost disk answers %d and %d", asks[nr_asks - 3].status, asks[nr_asks - 2].status);
    answers_wait(200);
    expect(asks[nr_asks - 1].status == PENDING, "a lost disk answers a flush: %d",
           asks[nr_asks - 1].status);
    close_watched(false);
}

static void hang(void)
{
    warm(true);
    signal_send(stop_pid, SIGSTOP);
    batch_push();
    answers_wait(300);
    expect(nr_answers == 0, "the server hangs, and %u requests were answered", nr_answers);
    close_watched(true);
    signal_send(stop_pid, SIGKILL);
}

static void fail(void)
{
    unsigned i;

    batch_push();
    answers_wait(QUIET_MS);
    for (i = 0; i < nr_asks; i++) {
        int right = strcmp(op_name(asks[i].op), fails) == 0 ? RSP_ERROR : RSP_OKAY;

        expect(asks[i].status == right, "a %s was answered %d", op_name(asks[i].op),
               asks[i].status);
    }
    asks_forget();
    expect(tool_state(&disk) == STATE_CONNECTED, "state %d", tool_state(&disk));
    expect(front_close(&front) == 0, "not closed");
}

static void readonly(void)
{
    struct front_request req = request(OP_WRITE, 0);
    int status;

    expect(front.readonly, "info does not say READONLY");
    status = front_do(&front, &req);
    expect(status == RSP_ERROR, "a write was answered %d", status);
    warm(false);
    flush_once();
    expect(tool_state(&disk) == STATE_CONNECTED, "state %d", tool_state(&disk));
    expect(front_close(&front) == 0, "not closed");
}

static void refuse(void)
{
    expect(tool_wait_state(&disk, STATE_CLOSING, SHOWN_MS) == 0, "it was not refused");
    reason_print();
    front_state_set(&front, STATE_CLOSED);
    expect(tool_wait_state(&disk, STATE_CLOSED, CLOSE_MS) == 0, "no state 6");
}

static void serve(void)
{
    expect(!front.readonly, "it is read-only");
    warm(true);
    flush_once();
    expect(front_close(&front) == 0, "not closed");
}

static void serve_again(void)
{
    int status = system(again); /* the script's own words */

    expect(status == 0, "%s: %d", again, status);
    if (front_reopen(&front) || front_connect(&front)) {
        expect(false, "not opened again");
        return;
    }
    serve();
}

static void detach(void)
{
    expect(tool_unplug(&disk) == 0, "not unplugged");
    expect(tool_wait_state(&disk, STATE_CLOSED, CLOSE_MS) == 0, "not closed for the toolstack");
    tool_remove(&disk);
    expect(guest_revoke(disk.guest, ref), "a data page is in use");
    expect(guest_mapped_grants(disk.guest, domid) == 0, "grants are mapped");
}

/* -- arguments ------------------------------------------------------------------------------ */

static int option(int opt, const char *arg)
{
    switch (opt) {
    case 'd': disk.params = arg; return 0;
    case 'n': domid = (unsigned)strtoul(arg, NULL, 10); return 0;
    case 'b': disk.kind = arg; return 0;
    case 's': stop_pid = strtol(arg, NULL, 10); return 0;
    case 'k': kill_pid = strtol(arg, NULL, 10); return 0;
    case 'x': xenstored_pid = strtol(arg, NULL, 10); return 0;
    case 'a': again = arg; return 0;
    case 'f': fails = arg; return 0;
    case 'l': flushes_lost = true; return 0;
    case 'h': hasty = true; return 0;
    case 'r': disk.readonly = true; return 0;
    default: return -1;
    }
}

static int arguments_read(int argc, char **argv)
{
    static const struct option known[] = {
        {"disk", 1, NULL, 'd'},   {"domid", 1, NULL, 'n'}, {"kind", 1, NULL, 'b'},
        {"stop", 1, NULL, 's'},   {"kill", 1, NULL, 'k'},  {"xenstored", 1, NULL, 'x'},
        {"again", 1, NULL, 'a'},  {"fails", 1, NULL, 'f'}, {"flushes-lost", 0, NULL, 'l'},
        {"mode-r", 0, NULL, 'r'}, {"hasty", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int opt;

    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1)
        if (option(opt, optarg))
            return -1;
    return disk.params && domid && optind + 1 == argc ? 0 : -1;
}

static const struct {
    const char *name;
    void (*run)(void);
    bool connects;
} expectations[] = {{"lose", lose, true},      {"hang", hang, true},
                    {"fail", fail, true},      {"readonly", readonly, true},
                    {"refuse", refuse, false}, {"serve", serve, true}};

static void run(unsigned which)
{
    disk.guest = front.guest = guest_create(domid, 128);
    front.abi = guest_abi_find("x86_64");
    if (!front.guest)
        exit(1);
    frame = guest_frames_alloc(front.guest, 1);
    ref = guest_grant(front.guest, frame, 0, false);
    if (tool_attach(&disk) || (expectations[which].connects && front_connect(&front))) {
        expect(false, "not attached");
        return;
    }
    expectations[which].run();
    if (again)
        serve_again();
    detach();
}

int main(int argc, char **argv)
{
    unsigned i;

    if (arguments_read(argc, argv)) {
        fprintf(stderr, "fault: wrong use: its head says how\n");
        return 100;
    }
    for (i = 0; i < sizeof(expectations) / sizeof(*expectations); i++)
        if (strcmp(argv[optind], expectations[i].name) == 0)
            break;
    if (i == sizeof(expectations) / sizeof(*expectations))
        return 100;
    run(i);
    if (disk.guest)
        guest_destroy(disk.guest);
    return nr_wrong > 0;
}
