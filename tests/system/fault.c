/* fault: one guest whose server fails, and the precise order of what the guest sees of it.
 *
 *      fault EXPECTATION --disk NAME --domid N [option...]
 *
 * Expectations, each from attach to detach; exit 0 only if all of it held:
 *      lose    The server goes for longer than the disk is held for it (by itself, or --stop and
 *              --kill its pid; --gone its socket). Nothing but OKAY is answered while xenstored
 *              (--xenstored PID) is stopped and state 5 so cannot be shown; then 5, with a reason;
 *              then ERROR for reads and writes; no flush before the frontend closes; then flushes,
 *              last, with BLKIF_FLUSH_LOST.
 *      ride    It goes like that, and is back (--again) in time: the guest sees OKAY for all of it,
 *              state 4, and the bytes that it wrote.
 *      hang    The server answers nothing more: state 6 within 8 s of ours, answered as above.
 *      fail    --fails read|write: those are answered ERROR, all else OKAY, in state 4.
 *      readonly   Reads and flushes work, writes do not, and info says so.
 *      refuse  State 5 and a reason instead of 4.
 *      serve   It simply works.
 * Every request is answered exactly once, and no ring stays mapped. With lose, ride and hang:
 *      --gone PATH       the server's socket; removed before the batch, so that nobody finds it.
 * After lose, hang and refuse:
 *      --again COMMAND   brings the server back; the frontend opens the disk again, and it works.
 *      --flushes-lost    no flush of the batch may be answered OKAY.
 *      --hasty           after state 5 the frontend closes at once, with reads at the server.
 * The first PROBE_WARM commands (4 writes, 4 reads) of a connection are sent before the batch.
 */
#include "../process.h"
#include "probe.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum {
    FLUSH_LOST = -3,
    BATCH = 18,
    PENDING = 1 << 20, /* not answered yet; no status */
    QUIET_MS = 700,    /* how long nothing may come */
    LOSE_MS = 1700,    /* until a disk is given up that is held for 1 s */
    SHOWN_MS = 10000,
};

struct ask {
    uint64_t id;
    uint8_t op;
    int status;
    unsigned order; /* of its answer */
};

static struct probe probe = {.disk = {.kind = "qdisk", .vdev = "xvda", .devid = 51712}};
static struct ask asks[BATCH + 8];
static unsigned nr_asks, nr_answers;
static long stop_pid, kill_pid, xenstored_pid;
static const char *again, *gone, *fails = "";
static bool flushes_lost, hasty;

static void signal_send(long pid, int number)
{
    bool sent;

    if (pid <= 0)
        return;
    sent = number == SIGSTOP ? process_stop((pid_t)pid) : kill((pid_t)pid, number) == 0;
    expect(&probe, sent, "no signal to %ld", pid);
}

/* -- requests ------------------------------------------------------------------------------- */

static void ask(uint8_t op, uint64_t sector)
{
    struct front_request req = probe_request(&probe, op, sector);

    if (nr_asks == sizeof(asks) / sizeof(*asks) || front_push(&probe.front, 0, &req))
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

    while ((got = front_poll(&probe.front, &rsp)) > 0)
        for (i = 0; i < nr_asks; i++)
            if (asks[i].id == rsp.id && asks[i].status == PENDING) {
                asks[i].status = rsp.status;
                asks[i].order = ++nr_answers;
            }
    expect(&probe, got == 0, "an answer that was not asked for");
    return got == 0;
}

static void answers_wait(int ms)
{
    int64_t end_ms = guest_clock_ms() + ms;

    while (answers_take() && guest_clock_ms() < end_ms)
        guest_wait(probe.front.guest, 10);
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
        guest_wait(probe.front.guest, 10);
    expect(&probe, unanswered(false) == 0, "%u reads and writes have no answer", unanswered(false));
}

static void asks_forget(void)
{
    nr_asks = nr_answers = 0;
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
    front_publish(&probe.front, 0);
}

/* -- what is to hold ------------------------------------------------------------------------ */

static void reason_print(void)
{
    char path[192];
    unsigned length = 0;
    char *text;

    snprintf(path, sizeof(path), "/local/domain/0/error/backend/%s/%u/%u/error", probe.disk.kind,
             probe.domid, probe.disk.devid);
    text = xs_read(probe.disk.guest->xs, XBT_NULL, path, &length);
    expect(&probe, text && length > 4, "state 5, and no reason in the error node");
    printf("reason: %s\n", text ? text : "none");
    free(text);
}

static void no_error_yet(void)
{
    unsigned i;

    for (i = 0; i < nr_asks; i++)
        expect(&probe, asks[i].status == PENDING || asks[i].status == RSP_OKAY,
               "a %s was answered %d before state 5 could be seen", op_name(asks[i].op),
               asks[i].status);
}

/* After the end: all answered; flushes OKAY before the first failure, or FLUSH_LOST and last. */
static void answers_judge(void)
{
    unsigned first_failure = ~0u, last_data = 0, i;

    for (i = 0; i < nr_asks; i++) {
        const struct ask *a = &asks[i];

        expect(&probe, a->status != PENDING, "a %s was never answered", op_name(a->op));
        if (a->op != OP_FLUSH && a->order > last_data)
            last_data = a->order;
        if (a->status != RSP_OKAY && a->order < first_failure)
            first_failure = a->order;
        if (a->op != OP_FLUSH)
            expect(&probe, a->status == RSP_OKAY || a->status == RSP_ERROR, "a %s was answered %d",
                   op_name(a->op), a->status);
    }
    for (i = 0; i < nr_asks; i++) {
        const struct ask *a = &asks[i];

        if (a->op != OP_FLUSH || a->status == PENDING)
            continue;
        expect(&probe, a->status == FLUSH_LOST || (a->status == RSP_OKAY && !flushes_lost),
               "a flush was answered %d", a->status);
        expect(&probe, a->status == FLUSH_LOST ? a->order > last_data : a->order < first_failure,
               "a flush was answered %d as number %u of %u", a->status, a->order, nr_answers);
    }
}

/* 5, 6, and the backend's 6 in time; answers are taken until then. */
static void close_watched(bool by_5)
{
    int64_t start_ms;

    if (by_5) {
        front_state_set(&probe.front, STATE_CLOSING);
        expect(&probe, tool_wait_state(&probe.disk, STATE_CLOSING, SHOWN_MS) == 0,
               "no state 5 after ours");
    }
    start_ms = guest_clock_ms();
    front_state_set(&probe.front, STATE_CLOSED);
    while (tool_state(&probe.disk) != STATE_CLOSED && guest_clock_ms() - start_ms < PROBE_CLOSE_MS)
        answers_wait(20);
    expect(&probe, tool_state(&probe.disk) == STATE_CLOSED, "no state 6 in %d ms", PROBE_CLOSE_MS);
    printf("closed in %" PRId64 " ms\n", guest_clock_ms() - start_ms);
    answers_wait(100);
    answers_judge();
    expect(&probe, front_ring_free(&probe.front) == 0, "the ring is still mapped");
    asks_forget();
}

static void batch_into_the_fault(void)
{
    signal_send(stop_pid, SIGSTOP);
    if (gone)
        expect(&probe, unlink(gone) == 0, "%s: not removed", gone);
    batch_push();
    if (kill_pid)
        answers_wait(300);
    signal_send(kill_pid, SIGKILL);
}

static void lose(void)
{
    probe_io(&probe, true);
    if (xenstored_pid)
        signal_send(xenstored_pid, SIGSTOP);
    batch_into_the_fault();
    answers_wait(LOSE_MS);
    no_error_yet();
    signal_send(xenstored_pid, SIGCONT);
    expect(&probe, tool_wait_state(&probe.disk, STATE_CLOSING, SHOWN_MS) == 0,
           "the loss is not shown");
    reason_print();
    if (hasty) {
        close_watched(false);
        return;
    }
    data_answers_wait();
    ask(OP_READ, 8);
    ask(OP_WRITE, 16);
    ask(OP_FLUSH, 0);
    front_publish(&probe.front, 0);
    data_answers_wait();
    expect(&probe, asks[nr_asks - 3].status == RSP_ERROR && asks[nr_asks - 2].status == RSP_ERROR,
           "a lost disk answers %d and %d", asks[nr_asks - 3].status, asks[nr_asks - 2].status);
    answers_wait(200);
    expect(&probe, asks[nr_asks - 1].status == PENDING, "a lost disk answers a flush: %d",
           asks[nr_asks - 1].status);
    close_watched(false);
}

static void come_back(void)
{
    int status = again ? system(again) : 0; /* the script's own words */

    expect(&probe, status == 0, "%s: %d", again, status);
    again = NULL;
}

static void ride(void)
{
    probe_io(&probe, true);
    batch_into_the_fault();
    answers_wait(QUIET_MS);
    come_back();
    for (int i = 0; i < 10 && (unanswered(false) || unanswered(true)); i++)
        answers_wait(SHOWN_MS / 10);
    for (unsigned i = 0; i < nr_asks; i++)
        expect(&probe, asks[i].status == RSP_OKAY, "a %s was answered %d", op_name(asks[i].op),
               asks[i].status);
    asks_forget();
    expect(&probe, tool_state(&probe.disk) == STATE_CONNECTED, "state %d", tool_state(&probe.disk));
    probe_reread(&probe);
    probe_io(&probe, true);
    probe_flush(&probe);
    probe_close(&probe);
}

static void hang(void)
{
    probe_io(&probe, true);
    signal_send(stop_pid, SIGSTOP);
    batch_push();
    answers_wait(300);
    expect(&probe, nr_answers == 0, "the server hangs, and %u requests were answered", nr_answers);
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

        expect(&probe, asks[i].status == right, "a %s was answered %d", op_name(asks[i].op),
               asks[i].status);
    }
    asks_forget();
    expect(&probe, tool_state(&probe.disk) == STATE_CONNECTED, "state %d", tool_state(&probe.disk));
    probe_close(&probe);
}

static void readonly(void)
{
    struct front_request req = probe_request(&probe, OP_WRITE, 0);
    int status;

    expect(&probe, probe.front.readonly, "info does not say READONLY");
    status = front_do(&probe.front, &req);
    expect(&probe, status == RSP_ERROR, "a write was answered %d", status);
    probe_io(&probe, false);
    probe_flush(&probe);
    expect(&probe, tool_state(&probe.disk) == STATE_CONNECTED, "state %d", tool_state(&probe.disk));
    probe_close(&probe);
}

static void refuse(void)
{
    expect(&probe, tool_wait_state(&probe.disk, STATE_CLOSING, SHOWN_MS) == 0,
           "it was not refused");
    reason_print();
    front_state_set(&probe.front, STATE_CLOSED);
    expect(&probe, tool_wait_state(&probe.disk, STATE_CLOSED, PROBE_CLOSE_MS) == 0, "no state 6");
}

static void serve(void)
{
    expect(&probe, !probe.front.readonly, "it is read-only");
    probe_io(&probe, true);
    probe_flush(&probe);
    probe_close(&probe);
}

static void serve_again(void)
{
    come_back();
    if (front_reopen(&probe.front) || front_connect(&probe.front)) {
        expect(&probe, false, "not opened again");
        return;
    }
    serve();
}

/* -- arguments ------------------------------------------------------------------------------ */

static int option(int opt, const char *arg)
{
    switch (opt) {
    case 'd': probe.disk.params = arg; return 0;
    case 'n': probe.domid = (unsigned)strtoul(arg, NULL, 10); return 0;
    case 'b': probe.disk.kind = arg; return 0;
    case 's': stop_pid = strtol(arg, NULL, 10); return 0;
    case 'k': kill_pid = strtol(arg, NULL, 10); return 0;
    case 'x': xenstored_pid = strtol(arg, NULL, 10); return 0;
    case 'a': again = arg; return 0;
    case 'g': gone = arg; return 0;
    case 'f': fails = arg; return 0;
    case 'l': flushes_lost = true; return 0;
    case 'h': hasty = true; return 0;
    case 'r': probe.disk.readonly = true; return 0;
    default: return -1;
    }
}

static int arguments_read(int argc, char **argv)
{
    static const struct option known[] = {
        {"disk", 1, NULL, 'd'},   {"domid", 1, NULL, 'n'}, {"kind", 1, NULL, 'b'},
        {"stop", 1, NULL, 's'},   {"kill", 1, NULL, 'k'},  {"xenstored", 1, NULL, 'x'},
        {"again", 1, NULL, 'a'},  {"fails", 1, NULL, 'f'}, {"flushes-lost", 0, NULL, 'l'},
        {"mode-r", 0, NULL, 'r'}, {"hasty", 0, NULL, 'h'}, {"gone", 1, NULL, 'g'},
        {NULL, 0, NULL, 0}};
    int opt;

    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1)
        if (option(opt, optarg))
            return -1;
    return probe.disk.params && probe.domid && optind + 1 == argc ? 0 : -1;
}

static const struct {
    const char *name;
    void (*run)(void);
    bool connects;
} expectations[] = {{"lose", lose, true},  {"ride", ride, true},         {"hang", hang, true},
                    {"fail", fail, true},  {"readonly", readonly, true}, {"refuse", refuse, false},
                    {"serve", serve, true}};

static void run(unsigned which)
{
    probe_start(&probe);
    if (expectations[which].connects ? !probe_attach(&probe) : tool_attach(&probe.disk) != 0) {
        probe.wrong++;
        return;
    }
    expectations[which].run();
    if (again)
        serve_again();
    probe_detach(&probe);
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
    guest_destroy(probe.front.guest);
    return probe.wrong > 0;
}
