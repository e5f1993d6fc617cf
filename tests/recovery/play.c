/* play: a guest and its toolstack that do what they are told, one line of stdin at a time, while a
 * script starts, stops and kills the daemon and the server.
 *
 *      play DOMID
 *
 * Each line is answered by "ok" or "wrong: WHAT". Exit status 0 if none was wrong.
 *      attach DISK [KIND]      the toolstack makes a disk
 *      connect                 to state 4
 *      publish; connected      its two halves: rings and state 3, without looking at the backend;
 *                              and what is left when that says 4. After reset: the same rings
 *      push OP SECTOR COUNT    read, write, discard or flush; not waited for. With more than 88
 *                              sectors it is indirect, with more than 128 only a discard
 *      pushes TIMES OP SECTOR COUNT    so many times, one behind the other on the disk
 *      slip OP SECTOR COUNT    as push, but its event is on its way yet
 *      answers COUNT [STATUS]  so many come, all with that status (0)
 *      pending COUNT           so many are out
 *      quiet MS                no answer comes for so long
 *      write, read SECTOR COUNT; flush      push, and the answer; a read's bytes are compared with
 *                              the last write's that was answered
 *      reset                   a kernel boots into the same memory: the rings are as new, what was
 *                              out is forgotten, and its pages belong to somebody else
 *      break                   the ring's req_prod goes far beyond what it can hold
 *      untouched               those pages are as they were, and no write brought them to the disk
 *      fe STATE; be STATE; online 0|1; no-fe; no-be      writes or removes nodes
 *      be-is STATE             waits for it
 *      be-stays STATE MS
 *      status TEXT             blkgate-status begins with it; waits for it
 *      mapped COUNT            grants; waits for it
 *      close, reopen           the frontend's 5 and 6; its 1, up to the backend's 2
 *      detach                  the toolstack's, with a close; nothing stays mapped
 */
#include "guest.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

enum {
    RING_ORDER = 3,
    OPS = 256, /* as many as the ring holds */
    PAGES = 16,
    SECTORS = 1 << 15,
    WAIT_MS = 60000,
    LOOK_MS = 20,
    SOMEBODY = 0xee,
};

struct op {
    bool used, forgotten;
    struct front_request req;
    struct front_segment segments[PAGES];
    uint64_t sector, count, stamp;
    uint32_t nr_pages, nr_frames; /* the last one may be of descriptors */
    uint32_t frames, refs[PAGES + 1];
};

static struct tool_disk disk = {.vdev = "xvda", .devid = 51712};
static struct front front;
static struct guest *guest;
static struct op ops[OPS];
static uint64_t model[SECTORS]; /* the stamp of each sector; 0: not known */
static uint64_t nr_stamps;
static char wrong[256];

static int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(wrong, sizeof(wrong), format, args);
    va_end(args);
    return -1;
}

/* -- requests ---------------------------------------------------------------------------------- */

static unsigned pending(void)
{
    unsigned count = 0, i;

    for (i = 0; i < OPS; i++)
        count += ops[i].used && !ops[i].forgotten;
    return count;
}

static uint64_t *sector_of(const struct op *op, uint64_t i)
{
    return (uint64_t *)(void *)(guest_page(guest, op->frames) + i * GUEST_SECTOR);
}

static void fill(const struct op *op, bool with_stamp)
{
    uint64_t i, w;

    for (i = 0; i < op->count; i++)
        for (w = 0; w < GUEST_SECTOR / sizeof(w); w++)
            sector_of(op, i)[w] = with_stamp ? op->stamp << 16 | w : UINT64_MAX - w;
}

static uint8_t operation(const struct op *op)
{
    return op->req.op == OP_INDIRECT ? op->req.inner_op : op->req.op;
}

static void add_pages(struct op *op)
{
    uint32_t i;

    op->nr_frames = op->nr_pages + (op->nr_pages > GUEST_SEGMENTS_MAX);
    op->frames = op->nr_frames ? guest_frames_alloc(guest, op->nr_frames) : 0;
    fill(op, op->req.op == OP_WRITE);
    for (i = 0; i < op->nr_frames; i++)
        op->refs[i] = guest_grant(guest, op->frames + i, 0, op->req.op == OP_WRITE);
    for (i = 0; i < op->nr_pages; i++) {
        uint64_t left = op->count - i * 8;

        op->segments[i].ref = op->refs[i];
        op->segments[i].last = (uint8_t)(left < 8 ? left - 1 : 7);
    }
    op->req.nr_segments = (uint16_t)op->nr_pages;
    if (op->nr_frames == op->nr_pages) {
        memcpy(op->req.segments, op->segments, sizeof(op->req.segments));
        return;
    }
    op->req.inner_op = op->req.op;
    op->req.op = OP_INDIRECT;
    op->req.indirect_refs[0] = op->refs[op->nr_pages];
    for (i = 0; i < op->nr_pages; i++)
        guest_abi_indirect(guest_page(guest, op->frames + op->nr_pages), i, &op->segments[i]);
}

static int push(const char *what, uint64_t sector, uint64_t count, bool with_event)
{
    static const char *const names[] = {"read", "write", "", "flush", "", "discard"};
    const uint64_t pages = (count * GUEST_SECTOR + GUEST_PAGE - 1) / GUEST_PAGE;
    struct op *op = ops;
    uint8_t which;

    for (which = 0; which <= OP_DISCARD && strcmp(names[which], what) != 0; which++)
        ;
    while (op < ops + OPS && op->used)
        op++;
    if (which > OP_DISCARD || op == ops + OPS || (pages > PAGES && which != OP_DISCARD) ||
        sector + count > SECTORS)
        return fail("no such request: %s", what);
    *op = (struct op){.used = true, .sector = sector, .count = count, .stamp = ++nr_stamps};
    op->req = (struct front_request){.op = which, .sector = sector};
    if (which == OP_DISCARD) {
        op->req.nr_sectors = count;
    } else {
        op->nr_pages = (uint32_t)pages;
        add_pages(op);
    }
    if (front_push(&front, 0, &op->req))
        return fail("the ring is full");
    if (with_event)
        front_publish(&front, 0);
    else
        front_slip(&front, 0);
    return 0;
}

static int pushes(const char *line)
{
    uint64_t times = 0, sector = 0, count = 0;
    char what[16] = "";

    sscanf(line, "%*s %" SCNu64 " %15s %" SCNu64 " %" SCNu64, &times, what, &sector, &count);
    for (; times > 0; times--, sector += count)
        if (push(what, sector, count, true))
            return -1;
    return 0;
}

/* Nothing is known of a sector that was not written by us. */
static int read_compare(const struct op *op)
{
    uint64_t i, w;

    for (i = 0; i < op->count; i++)
        for (w = 0; model[op->sector + i] && w < GUEST_SECTOR / sizeof(w); w++)
            if (sector_of(op, i)[w] != (model[op->sector + i] << 16 | w))
                return fail("sector %" PRIu64 " holds %#" PRIx64 ", and not write %" PRIu64,
                            op->sector + i, sector_of(op, i)[w], model[op->sector + i]);
    return 0;
}

static int answer_take(const struct front_response *rsp, int status)
{
    struct op *op = ops;
    uint64_t i;
    int err = 0;

    while (op < ops + OPS && !(op->used && !op->forgotten && op->req.id == rsp->id))
        op++;
    if (op == ops + OPS)
        return fail("an answer to nobody");
    if (rsp->status != status)
        err = fail("operation %u at %" PRIu64 " is answered %d", rsp->op, op->sector, rsp->status);
    for (i = 0; operation(op) == OP_WRITE && i < op->count; i++)
        model[op->sector + i] = rsp->status == RSP_OKAY ? op->stamp : 0;
    for (i = 0; operation(op) == OP_DISCARD && i < op->count; i++)
        model[op->sector + i] = 0;
    if (!err && operation(op) == OP_READ && rsp->status == RSP_OKAY)
        err = read_compare(op);
    for (i = 0; i < op->nr_frames; i++)
        if (!guest_revoke(guest, op->refs[i]))
            err = fail("an answered request's page is still mapped");
    if (op->nr_frames)
        guest_frames_free(guest, op->frames, op->nr_frames);
    op->used = false;
    return err;
}

/* `count` answers within the time; -1 also for one that is wrong. */
static int answers(unsigned count, int status)
{
    const int64_t deadline_ms = guest_clock_ms() + WAIT_MS;
    struct front_response rsp;
    int got;

    while (count > 0) {
        got = front_poll(&front, &rsp);
        if (got < 0)
            return fail("the backend broke the protocol");
        if (got > 0 && answer_take(&rsp, status))
            return -1;
        if (got > 0) {
            count--;
            continue;
        }
        if (guest_clock_ms() > deadline_ms)
            return fail("%u answers are missing", count);
        guest_wait(guest, LOOK_MS);
    }
    return 0;
}

static int quiet(int64_t ms)
{
    const int64_t end_ms = guest_clock_ms() + ms;
    struct front_response rsp;
    int got;

    while (guest_clock_ms() < end_ms) {
        got = front_poll(&front, &rsp);
        if (got)
            return fail(got < 0 ? "the backend broke the protocol" : "an answer (status %d)",
                        rsp.status);
        guest_wait(guest, LOOK_MS);
    }
    return 0;
}

static int alone(const char *what, uint64_t sector, uint64_t count)
{
    return push(what, sector, count, true) || answers(1, RSP_OKAY) ? -1 : 0;
}

/* -- another kernel ------------------------------------------------------------------------------
 */

static int reset(void)
{
    struct op *op;
    uint64_t i;

    if (front_ring_renew(&front))
        return fail("no fresh ring");
    for (op = ops; op < ops + OPS; op++) {
        if (!op->used)
            continue;
        op->forgotten = true;
        if (op->nr_pages)
            memset(guest_page(guest, op->frames), SOMEBODY, op->count * GUEST_SECTOR);
        for (i = 0; operation(op) == OP_WRITE && i < op->count; i++)
            model[op->sector + i] = 0;
    }
    return 0;
}

static bool is_somebodys(const uint8_t *bytes)
{
    unsigned i;

    for (i = 0; i < GUEST_SECTOR && bytes[i] == SOMEBODY; i++)
        ;
    return i == GUEST_SECTOR;
}

static int untouched(void)
{
    uint32_t frame = guest_frames_alloc(guest, 1), ref = guest_grant(guest, frame, 0, false);
    struct front_request req = {
        .op = OP_READ, .nr_segments = 1, .segments = {{.ref = ref, .first = 0, .last = 0}}};
    struct op *op;
    uint64_t i;
    int err = 0;

    for (op = ops; op < ops + OPS && !err; op++) {
        for (i = 0; op->forgotten && op->nr_pages && i < op->count && !err; i++) {
            req.sector = op->sector + i;
            if (!is_somebodys((uint8_t *)sector_of(op, i)))
                err = fail("a page of the dead kernel's read was written");
            else if (front_do(&front, &req) || is_somebodys(guest_page(guest, frame)))
                err = fail("sector %" PRIu64 " cannot be read, or was written", req.sector);
        }
    }
    guest_revoke(guest, ref);
    guest_frames_free(guest, frame, 1);
    return err;
}

/* -- nodes ------------------------------------------------------------------------------------- */

static int attach(const char *name, const char *kind)
{
    static char params[64], kind_kept[16];

    snprintf(params, sizeof(params), "%s", name);
    snprintf(kind_kept, sizeof(kind_kept), "%s", *kind ? kind : "qdisk");
    disk.params = params;
    disk.kind = kind_kept;
    return tool_attach(&disk) ? fail("not attached") : 0;
}

static int publish(void)
{
    if ((!front.queues[0].ring && front_ring_create(&front)) || front_ring_publish(&front) ||
        front_state_set(&front, STATE_INITIALISED))
        return fail("not published");
    return 0;
}

static int connected(void)
{
    if (tool_wait_state(&disk, STATE_CONNECTED, WAIT_MS) || front_features_read(&front) ||
        front_state_set(&front, STATE_CONNECTED))
        return fail("not connected: state %d", tool_state(&disk));
    return 0;
}

static int backend_stays(int state, int64_t ms)
{
    const int64_t end_ms = guest_clock_ms() + ms;

    while (guest_clock_ms() < end_ms) {
        if (tool_state(&disk) != state)
            return fail("the backend went to state %d", tool_state(&disk));
        guest_wait(guest, LOOK_MS);
    }
    return 0;
}

static int status_begins(const char *text)
{
    const int64_t deadline_ms = guest_clock_ms() + WAIT_MS;
    char path[160], *status;
    unsigned length;
    bool is;

    snprintf(path, sizeof(path), "%s/blkgate-status", disk.backend);
    do {
        status = xs_read(guest->xs, XBT_NULL, path, &length);
        is = status && strncmp(status, text, strlen(text)) == 0;
        fail("status is \"%.160s\"", status ? status : "(none)");
        free(status);
        if (!is)
            guest_wait(guest, LOOK_MS);
    } while (!is && guest_clock_ms() < deadline_ms);
    return is ? 0 : -1;
}

static int mapped(unsigned count)
{
    const int64_t deadline_ms = guest_clock_ms() + WAIT_MS;

    while (guest_mapped_grants(guest, guest->domid) != count) {
        if (guest_clock_ms() > deadline_ms)
            return fail("%u grants are mapped", guest_mapped_grants(guest, guest->domid));
        guest_wait(guest, LOOK_MS);
    }
    return 0;
}

static int break_ring(void)
{
    front.queues[0].req_prod += 1000;
    front_publish(&front, 0);
    return 0;
}

static int node_write(const char *dir, const char *key, uint64_t value)
{
    return guest_xs_write(guest, XBT_NULL, dir, key, "%" PRIu64, value) ? fail("not written") : 0;
}

static int close_all(void)
{
    struct op *op;

    if (front_close(&front))
        return fail("not closed: state %d", tool_state(&disk));
    for (op = ops; op < ops + OPS; op++)
        op->used = op->forgotten = false; /* their pages are not used again */
    return 0;
}

static int detach(void)
{
    if (tool_unplug(&disk) || (front.queues[0].ring && close_all()) ||
        tool_wait_state(&disk, STATE_CLOSED, WAIT_MS))
        return fail("not detached: state %d", tool_state(&disk));
    tool_remove(&disk);
    return mapped(0);
}

/* -- the lines --------------------------------------------------------------------------------- */

static int node_command(const char *verb, uint64_t a, uint64_t b)
{
    if (strcmp(verb, "fe") == 0)
        return node_write(disk.frontend, "state", a);
    if (strcmp(verb, "be") == 0)
        return node_write(disk.backend, "state", a);
    if (strcmp(verb, "online") == 0)
        return node_write(disk.backend, "online", a);
    if (strcmp(verb, "no-fe") == 0)
        return xs_rm(guest->xs, XBT_NULL, disk.frontend) ? 0 : fail("not removed");
    if (strcmp(verb, "no-be") == 0)
        return xs_rm(guest->xs, XBT_NULL, disk.backend) ? 0 : fail("not removed");
    if (strcmp(verb, "be-is") == 0)
        return tool_wait_state(&disk, (int)a, WAIT_MS)
                   ? fail("the backend is in state %d", tool_state(&disk))
                   : 0;
    if (strcmp(verb, "be-stays") == 0)
        return backend_stays((int)a, (int64_t)b);
    if (strcmp(verb, "mapped") == 0)
        return mapped((unsigned)a);
    return fail("no such command: %s", verb);
}

static int command(char *line)
{
    char verb[16] = "", word[64] = "", third[16] = "";
    uint64_t a = 0, b = 0;

    sscanf(line, "%15s %" SCNu64 " %" SCNu64, verb, &a, &b);
    sscanf(line, "%*s %63s %15s", word, third);
    if (strcmp(verb, "attach") == 0)
        return attach(word, third);
    if (strcmp(verb, "connect") == 0)
        return front_connect(&front) ? fail("not connected: state %d", tool_state(&disk)) : 0;
    if (strcmp(verb, "publish") == 0)
        return publish();
    if (strcmp(verb, "connected") == 0)
        return connected();
    if (strcmp(verb, "push") == 0 || strcmp(verb, "slip") == 0) {
        sscanf(line, "%*s %*s %" SCNu64 " %" SCNu64, &a, &b);
        return push(word, a, b, *verb == 'p');
    }
    if (strcmp(verb, "pushes") == 0)
        return pushes(line);
    if (strcmp(verb, "answers") == 0)
        return answers((unsigned)a, *third ? atoi(third) : RSP_OKAY);
    if (strcmp(verb, "pending") == 0)
        return pending() == a ? 0 : fail("%u are out", pending());
    if (strcmp(verb, "quiet") == 0)
        return quiet((int64_t)a);
    if (strcmp(verb, "write") == 0 || strcmp(verb, "read") == 0 || strcmp(verb, "flush") == 0)
        return alone(verb, a, b);
    if (strcmp(verb, "reset") == 0)
        return reset();
    if (strcmp(verb, "break") == 0)
        return break_ring();
    if (strcmp(verb, "untouched") == 0)
        return untouched();
    if (strcmp(verb, "status") == 0)
        return status_begins(line + strlen("status "));
    if (strcmp(verb, "close") == 0)
        return close_all();
    if (strcmp(verb, "reopen") == 0)
        return front_reopen(&front) ? fail("not reopened: state %d", tool_state(&disk)) : 0;
    return strcmp(verb, "detach") == 0 ? detach() : node_command(verb, a, b);
}

int main(int argc, char **argv)
{
    char line[256];
    unsigned nr_wrong = 0;

    if (argc != 2)
        return 100;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    guest = guest_create((uint32_t)strtoul(argv[1], NULL, 10), 256 + OPS * (PAGES + 1));
    if (!guest)
        return 111;
    disk.guest = front.guest = guest;
    front.disk = &disk;
    front.abi = guest_abi_find("x86_64");
    front.timeout_ms = WAIT_MS;
    front.ring_order = RING_ORDER;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (command(line) == 0) {
            printf("ok\n");
        } else {
            printf("wrong: %s: %s\n", line, wrong);
            nr_wrong++;
        }
    }
    guest_destroy(guest);
    return nr_wrong > 0;
}
