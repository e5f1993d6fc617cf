/* lives: plays the rows of lives-rows.c against the real daemon.
 *
 *      lives dom0 | driver [TEXT]  those against dom0's daemon, or a driver domain's; with TEXT
 *                                  only the rows whose names contain it
 *      lives --list                their names
 *      lives --driver DOMID        is a driver domain until its standard input ends
 *
 * lives.sh starts the daemons and does what a guest cannot: it reads `restart` and `grow MIB` from
 * standard output, and answers with a line when it is done. */
#include "lives.h"

#include "guest.h"
#include "simclient.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DRIVER_DOMID = 3,
    FIRST_DOMID = 1000, /* for dom0's; the driver domain's are another DOMIDS higher */
    DOMIDS = 1000,
    WAIT_MS = 10000, /* as libxl */
    STAYS_MS =
        10, /* how long a state that is to stay is looked at; the next step sees later ones */
    PAGES = 160,
    EXTENT_SECTORS = 64,   /* each ring's own part of the disk */
    START_SECTORS = 32768, /* of lives.sh's exports */
    MIB_SECTORS = 2048
};

/* What one play has. The toolstack's hand outlives domains. */
static struct play {
    const struct row *row;
    const struct step *step;
    unsigned kind;
    struct guest hand; /* domain 0's, for the nodes of whatever domain there is */
    struct guest *guest;
    struct tool_disk disk, left; /* left: of the domain before, still to be cleared away */
    struct front front, old;     /* old: the rings before, still granted */
    uint32_t frame, ref;         /* data of an IO */
    uint32_t push_frame, push_ref;
    unsigned pushed;
    bool written;
    int shown; /* B/state as seen last */
    bool wrong;
} play;

static uint32_t first_domid, next_domid;
static uint64_t sectors_now = START_SECTORS; /* of the export */
static uint32_t seed;
static unsigned nr_steps, nr_checked;

static const char *const kind_names[] = {"vbd",          "vbd, script", "vbd3",
                                         "vbd3, script", "qdisk",       "qdisk in a driver domain"};

static const char *kind_name(unsigned kind)
{
    return kind_names[__builtin_ctz(kind)];
}

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
    va_list args;

    play.wrong = true;
    printf("# wrong: \"%s\" as %s, domain %u, step %td: ", play.row->name, kind_name(play.kind),
           play.hand.domid, play.step - play.row->steps + 1);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

#define need(condition, ...)    \
    do {                        \
        if (!(condition))       \
            wrong(__VA_ARGS__); \
    } while (0)

static bool in_driver(void)
{
    return play.kind == QDISK_DRIVER;
}

static bool by_script(void)
{
    return play.kind == VBD_SCRIPT || play.kind == VBD3_SCRIPT;
}

static void nap(int ms)
{
    if (play.guest)
        guest_wait(play.guest, ms);
    else
        guest_wait(&play.hand, ms);
}

/* -- what is to be seen --------------------------------------------------------------------- */

static int state_read(void)
{
    int state = tool_state(&play.disk);

    return state == STATE_UNKNOWN ? BE_GONE : state;
}

/* Of a domain that is closed: whoever sees that may give its pages away. */
static void nothing_held(uint32_t domid)
{
    uint32_t mapped = guest_mapped_grants(&play.hand, domid);
    uint32_t bound = guest_bound_ports(&play.hand, domid);

    need(mapped == 0 && bound == 0, "in state %d %u grants of domain %u are mapped, %u ports bound",
         play.shown, mapped, domid, bound);
}

static bool is_passed(int state, int before)
{
    int by = play.step->by;

    if (play.step->deed == ATTACH || play.step->deed == ATTACH_ONLY ||
        play.step->deed == ATTACH_READONLY)
        by = STATE_INITIALISING;
    return state == before || (by && state == by);
}

/* The state that the step says, by no other way than it says; and it stays if it was there. */
static void state_wait(void)
{
    int64_t end_ms = guest_clock_ms() + WAIT_MS;
    int before = play.shown, target = play.step->be, state = state_read();
    bool stay = state == target && (before == target || target == BE_GONE);

    if (stay)
        end_ms = guest_clock_ms() + (play.step->deed == WAIT ? play.step->value : STAYS_MS);
    while (guest_clock_ms() < end_ms && (state == target ? stay : is_passed(state, before))) {
        nap(1);
        state = state_read();
    }
    play.shown = state;
    need(state == target, "state %d and not %d (after %d)", state, target, before);
    if (state == STATE_INITWAIT || state == STATE_CLOSED)
        nothing_held(play.hand.domid);
}

static long backend_number(const char *key)
{
    return guest_xs_read_number(&play.hand, play.disk.backend, key, -1);
}

static void number_wait(const char *key, long value)
{
    int64_t end_ms = guest_clock_ms() + WAIT_MS;

    while (backend_number(key) != value && guest_clock_ms() < end_ms)
        nap(1);
    need(backend_number(key) == value, "%s is %ld and not %ld", key, backend_number(key), value);
}

static void status_wait(const char *status)
{
    int64_t end_ms = guest_clock_ms() + WAIT_MS;
    char path[160], *text;
    bool is = false;

    snprintf(path, sizeof(path), "%s/blkgate-status", play.disk.backend);
    while (!is && guest_clock_ms() < end_ms) {
        text = xs_read(play.hand.xs, XBT_NULL, path, &(unsigned){0});
        is = text && strcmp(text, status) == 0;
        free(text);
        if (!is)
            nap(1);
    }
    need(is, "blkgate-status does not become \"%s\"", status);
}

/* What blkfront_connect reads. */
static void features_check(void)
{
    need(front_nodes_check(&play.front, STATE_CONNECTED) == 0, "nodes of state 4");
    number_wait("sectors", (long)sectors_now);
    need(front_features_read(&play.front) == 0, "no properties");
    need(play.front.readonly == play.disk.readonly && play.front.flush != play.disk.readonly,
         "read-only %d, flush %d", play.front.readonly, play.front.flush);
}

/* -- what is left in xenstore ---------------------------------------------------------------- */

/* Is there a domid of ours in the path? */
static bool is_ours(const char *path)
{
    const char *name;
    char *end;

    for (name = strchr(path, '/'); name; name = strchr(name + 1, '/')) {
        unsigned long domid = strtoul(name + 1, &end, 10);

        if ((*end == '/' || !*end) && domid >= first_domid && domid < first_domid + DOMIDS)
            return true;
    }
    return false;
}

static unsigned count_left(const char *dir, bool tell)
{
    char path[XENSTORE_ABS_PATH_MAX], **names;
    unsigned count, left = 0, i;

    if (is_ours(dir)) {
        if (tell)
            wrong("left in xenstore: %s", dir);
        return 1;
    }
    names = xs_directory(play.hand.xs, XBT_NULL, *dir ? dir : "/", &count);
    for (i = 0; names && i < count; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        left += count_left(path, tell);
    }
    free(names);
    return left;
}

static void nothing_left(void)
{
    int64_t end_ms = guest_clock_ms() + WAIT_MS / 2;

    while (count_left("", false) && guest_clock_ms() < end_ms)
        nap(10);
    count_left("", true);
}

/* -- domains -------------------------------------------------------------------------------- */

static void guest_begin(uint32_t domid)
{
    play.guest = guest_create_with_ring(domid, PAGES);
    if (!play.guest)
        exit(1);
    play.hand.domid = domid;
    play.front.guest = play.guest;
    play.front.disk = &play.disk;
    play.front.abi = guest_abi_find("x86_64");
    play.front.nr_queues = 1;
    play.front.timeout_ms = WAIT_MS;
    play.frame = guest_frames_alloc(play.guest, 1);
    play.ref = guest_grant(play.guest, play.frame, play.disk.backend_domid, false);
    play.push_frame = guest_frames_alloc(play.guest, 1);
    play.push_ref = guest_grant(play.guest, play.push_frame, play.disk.backend_domid, false);
}

static void guest_end(void)
{
    guest_destroy(play.guest);
    play.guest = NULL;
    memset(&play.front, 0, sizeof(play.front));
    memset(&play.old, 0, sizeof(play.old));
}

/* What libxl removes in the end. */
static void domain_forget(uint32_t domid)
{
    char path[64];

    snprintf(path, sizeof(path), "/local/domain/%u", domid);
    xs_rm(play.hand.xs, XBT_NULL, path);
    snprintf(path, sizeof(path), "/libxl/%u", domid);
    xs_rm(play.hand.xs, XBT_NULL, path);
}

static void disk_begin(void)
{
    static const char *const kinds[] = {"vbd", "vbd", "vbd3", "vbd3", "qdisk", "qdisk"};

    play.disk = (struct tool_disk){
        .guest = &play.hand,
        .devid = 51712,
        .vdev = "xvda",
        .kind = kinds[__builtin_ctz(play.kind)],
        .params = "root",
        .script = by_script() ? "/etc/xen/scripts/block-blkgate" : NULL,
        .backend_domid = in_driver() ? DRIVER_DOMID : 0,
    };
}

/* The last domain's device is left to itself: the next comes at once. */
static void domain_next(bool same)
{
    uint32_t domid = play.hand.domid;

    if (play.guest)
        guest_end();
    if (!same && play.shown != BE_GONE) {
        play.left = play.disk;
        disk_begin();
    } else {
        domain_forget(domid);
    }
    guest_begin(same ? domid : next_domid++);
    play.shown = BE_GONE;
}

static void left_end(void)
{
    uint32_t domid = play.hand.domid;
    const char *name = play.left.frontend + strlen("/local/domain/");
    uint32_t left_domid = (uint32_t)strtoul(name, NULL, 10);

    if (!play.left.guest)
        return;
    need(tool_wait_state(&play.left, STATE_CLOSED, WAIT_MS) == 0, "the disk left is not closed");
    play.hand.domid = left_domid;
    tool_remove(&play.left);
    domain_forget(left_domid);
    nothing_held(left_domid);
    play.hand.domid = domid;
    play.left.guest = NULL;
}

/* -- requests ------------------------------------------------------------------------------- */

static uint8_t pattern(uint64_t sector, unsigned offset)
{
    uint32_t x = seed * 2654435761u ^ ((uint32_t)sector * 512u + offset) * 2246822519u;

    return (uint8_t)(x >> 24 ^ x >> 9);
}

static struct front_request request(uint8_t op, uint64_t sector, uint32_t ref)
{
    struct front_request req = {.op = op, .sector = sector, .nr_segments = 1};

    req.segments[0] = (struct front_segment){.ref = ref, .first = 0, .last = 7};
    return req;
}

/* The page at `sector`, through that ring; a read must bring what was written. */
static void page_do(uint8_t op, unsigned queue, uint64_t sector)
{
    uint8_t *page = guest_page(play.guest, play.frame);
    struct front_request req = request(op, sector, play.ref);
    int64_t end_ms = guest_clock_ms() + WAIT_MS;
    struct front_response rsp = {.status = 1};
    unsigned i;
    int got = 0;

    for (i = 0; i < GUEST_PAGE; i++)
        page[i] = op == OP_WRITE ? pattern(sector, i) : (uint8_t)~pattern(sector, i);
    if (play.wrong)
        return;
    need(front_push(&play.front, queue, &req) == 0, "ring %u is full", queue);
    front_publish(&play.front, queue);
    while (got == 0 && guest_clock_ms() < end_ms) {
        got = front_poll(&play.front, &rsp);
        if (got == 0)
            nap(50);
    }
    need(got == 1 && rsp.id == req.id && rsp.status == RSP_OKAY,
         "%s at %llu by ring %u: %s, status %d", op == OP_WRITE ? "write" : "read",
         (unsigned long long)sector, queue, got == 1 ? "answered" : "no answer", rsp.status);
    for (i = 0; i < GUEST_PAGE && op == OP_READ && play.written && !play.wrong; i++) {
        if (page[i] == pattern(sector, i))
            continue;
        wrong("byte %u of sector %llu is wrong", i, (unsigned long long)sector);
    }
    nr_checked += op == OP_READ && play.written;
}

/* The first and the last page of each ring's own part, and the last of the disk. */
static void pages_do(uint8_t op)
{
    unsigned queue;

    for (queue = 0; queue < play.front.nr_queues; queue++) {
        page_do(op, queue, (uint64_t)queue * EXTENT_SECTORS);
        page_do(op, queue, (uint64_t)(queue + 1) * EXTENT_SECTORS - 8);
    }
    page_do(op, 0, play.front.sectors - 8);
}

static void old_ring_free(void)
{
    if (!play.old.guest)
        return;
    need(front_ring_free(&play.old) == 0, "the rings before are mapped yet");
    play.old.guest = NULL;
}

/* What a kernel of fewer rings reads, too: the first ring's part, and the end of the disk. */
static void read_back(void)
{
    page_do(OP_READ, 0, 0);
    page_do(OP_READ, play.front.nr_queues - 1, EXTENT_SECTORS - 8);
    page_do(OP_READ, 0, play.front.sectors - 8);
    old_ring_free();
}

static void write_and_read_back(void)
{
    struct front_request flush = {.op = OP_FLUSH};

    seed++;
    play.written = true;
    pages_do(OP_WRITE);
    need(play.wrong || front_do(&play.front, &flush) == RSP_OKAY, "flush");
    pages_do(OP_READ);
    old_ring_free();
}

static void requests_push(unsigned count)
{
    struct front_request req;

    for (; count > 0; count--) {
        req = request(OP_READ, count * 8ull, play.push_ref);
        need(front_push(&play.front, 0, &req) == 0, "the ring is full");
        play.pushed++;
    }
    front_publish(&play.front, 0);
}

static void answers_take(void)
{
    int64_t end_ms = guest_clock_ms() + WAIT_MS;
    struct front_response rsp;
    int got = 0;

    while (play.pushed > 0 && got >= 0 && guest_clock_ms() < end_ms) {
        got = front_poll(&play.front, &rsp);
        if (got == 0)
            nap(50);
        need(got != 1 || rsp.status == RSP_OKAY, "status %d", rsp.status);
        play.pushed -= got == 1;
    }
    need(play.pushed == 0, "%u requests have no answer", play.pushed);
}

/* -- rings ---------------------------------------------------------------------------------- */

static bool front_has_ring(void)
{
    return play.front.guest && play.front.queues[0].ring;
}

/* Where the backend is closed its pages are free; else they stay granted until it lets go. */
static void ring_begin(unsigned queues, unsigned order)
{
    bool serving = play.shown == STATE_CONNECTED || play.shown == STATE_CLOSING;

    if (front_has_ring() && serving)
        play.old = play.front;
    else if (front_has_ring())
        need(front_ring_free(&play.front) == 0, "the ring before is mapped yet");
    play.front.nr_queues = queues;
    play.front.ring_order = order;
    play.pushed = 0;
    need(front_ring_create(&play.front) == 0, "no ring");
}

/* The rings that the next RING makes. */
static unsigned queues_wanted, order_wanted;

static void ring_publish(bool and_4)
{
    play.front.direct_to_4 = and_4;
    need(front_ring_publish(&play.front) == 0, "the ring is not published");
}

/* -- deeds ---------------------------------------------------------------------------------- */

static void node_path(char *ret_path, size_t size, const char *key)
{
    snprintf(ret_path, size, "%s/%s", play.disk.frontend, key);
}

static void node_write(const char *text)
{
    const char *value = strchr(text, '=');
    char key[64];

    snprintf(key, sizeof(key), "%.*s", (int)(value - text), text);
    need(guest_own_write(play.guest, XBT_NULL, play.disk.frontend, key, "%s", value + 1) == 0,
         "%s is not written", text);
}

static void node_remove(const char *key)
{
    char path[200];

    node_path(path, sizeof(path), key);
    need(xs_rm(play.guest->own, XBT_NULL, path), "%s is not removed", key);
}

static void blkback(void)
{
    int err = 0;

    err |= guest_xs_write(&play.hand, XBT_NULL, play.disk.backend, "max-ring-page-order", "4");
    err |= guest_xs_write(&play.hand, XBT_NULL, play.disk.backend, "multi-queue-max-queues", "2");
    err |= guest_xs_write(&play.hand, XBT_NULL, play.disk.backend, "state", "2");
    need(err == 0, "xen-blkback writes nothing");
}

static void attach(bool whole, bool readonly)
{
    play.disk.readonly = readonly;
    need(tool_attach(&play.disk) == 0, "not attached");
    if (!whole || !by_script())
        return;
    status_wait("ready");
    if (play.kind == VBD_SCRIPT)
        blkback();
    need(tool_wait_state(&play.disk, STATE_INITWAIT, WAIT_MS) == 0, "the script waits in vain");
    tool_hotplug_done(&play.disk);
}

/* lives.sh does it. */
static void ask(const char *what, long value)
{
    char line[64];

    printf("%s %ld\n", what, value);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin) || strcmp(line, "done\n") != 0)
        wrong("%s: nobody did it", what);
}

static void resize(long mib)
{
    sectors_now += (uint64_t)mib * MIB_SECTORS;
    ask("grow", mib);
    if (play.shown == STATE_CONNECTED)
        number_wait("sectors", (long)sectors_now);
    if (play.shown == STATE_CONNECTED)
        play.front.sectors = sectors_now;
}

static void disk_remove(void)
{
    if (in_driver())
        need(tool_wait_state(&play.disk, STATE_UNKNOWN, WAIT_MS) == 0, "B is not removed");
    tool_remove(&play.disk);
}

static void deed_do(const struct step *step)
{
    switch (step->deed) {
    case ATTACH: attach(true, false); break;
    case ATTACH_READONLY: attach(true, true); break;
    case ATTACH_ONLY: attach(false, false); break;
    case SOFT_RESET: attach(true, play.disk.readonly); break;
    case BLKBACK: blkback(); break;
    case HOTPLUG: tool_hotplug_done(&play.disk); break;
    case UNPLUG: need(tool_unplug(&play.disk) == 0, "not unplugged"); break;
    case DESTROY: need(tool_destroy(&play.disk) == 0, "not destroyed"); break;
    case REMOVE: disk_remove(); break;
    case RESIZE: resize(step->value); break;
    case RESTART: ask("restart", 0); break;
    case WAIT: break;
    case DIE: guest_end(); break;
    case NEW_DOMAIN: domain_next(false); break;
    case SAME_DOMAIN: domain_next(true); break;
    case FE: need(front_state_set(&play.front, (int)step->value) == 0, "F/state"); break;
    case FE_NODE: node_write(step->text); break;
    case FE_RM: node_remove(step->text); break;
    case ABI: play.front.abi = guest_abi_find(step->text); break;
    case QUEUES: queues_wanted = (unsigned)step->value; break;
    case ORDER: order_wanted = (unsigned)step->value; break;
    case RING:
    case RING_AND_4:
        ring_begin(queues_wanted, order_wanted);
        ring_publish(step->deed == RING_AND_4);
        break;
    case RING_SAME:
        need(front_ring_renew(&play.front) == 0, "the ring is not made anew");
        ring_publish(false);
        break;
    case IO: write_and_read_back(); break;
    case READ: read_back(); break;
    case PUSH: requests_push((unsigned)step->value); break;
    case ANSWER: answers_take(); break;
    }
}

static void step_do(void)
{
    const struct step *step = play.step;
    int before = play.shown;

    deed_do(step);
    if (play.wrong)
        return;
    if (step->be == BE_ANY)
        play.shown = state_read();
    else
        state_wait();
    if (!play.wrong && play.shown == STATE_CONNECTED &&
        (before != STATE_CONNECTED || step->deed == RING_AND_4))
        features_check();
    nr_steps++;
}

/* -- plays ---------------------------------------------------------------------------------- */

/* Whatever became of it, the next play finds nothing of it. */
static void play_clear(void)
{
    if (play.guest)
        guest_end();
    xs_rm(play.hand.xs, XBT_NULL, play.disk.backend);
    tool_remove(&play.disk);
    left_end();
    domain_forget(play.hand.domid);
}

static bool play_row(const struct row *row, unsigned kind)
{
    play.row = row;
    play.step = row->steps;
    play.kind = kind;
    play.wrong = play.written = false;
    play.shown = BE_GONE;
    play.pushed = 0;
    queues_wanted = 1;
    order_wanted = 0;
    disk_begin();
    guest_begin(next_domid++);
    for (; play.step->deed && !play.wrong; play.step++)
        step_do();
    need(play.wrong || play.shown == BE_GONE, "the row leaves a disk in state %d", play.shown);
    if (play.wrong) {
        play_clear();
    } else {
        guest_end();
        left_end();
        domain_forget(play.hand.domid);
        nothing_held(play.hand.domid);
        nothing_left();
    }
    return !play.wrong;
}

static int rows_play(bool driver, const char *text)
{
    const unsigned kinds = driver ? QDISK_DRIVER : DOM0;
    unsigned nr_rows = 0, nr_plays = 0, nr_wrong = 0, kind, i;

    first_domid = next_domid = FIRST_DOMID + (driver ? DOMIDS : 0);
    play.hand.xs = play.hand.own = xs_open(0);
    play.hand.conn = sim_connect(SIM_KIND_GUEST, 0);
    if (!play.hand.xs || !play.hand.conn) {
        fprintf(stderr, "lives: no xenstored or no simxen: %s\n", strerror(errno));
        return 1;
    }
    for (i = 0; i < rows_count; i++) {
        if (!(rows[i].kinds & kinds) || (text && !strstr(rows[i].name, text)))
            continue;
        nr_rows++;
        for (kind = VBD; kind <= QDISK_DRIVER; kind *= 2) {
            if (!(rows[i].kinds & kinds & kind))
                continue;
            nr_plays++;
            nr_wrong += !play_row(&rows[i], kind);
        }
    }
    printf("# %u rows, %u plays of them, %u steps, %u pages read back; %u wrong\n", nr_rows,
           nr_plays, nr_steps, nr_checked, nr_wrong);
    sim_disconnect(play.hand.conn);
    xs_close(play.hand.xs);
    return nr_wrong > 0;
}

static int driver_be(uint32_t domid)
{
    struct guest *driver = guest_create_driver(domid);

    if (!driver)
        return 1;
    printf("ready\n");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    guest_destroy(driver);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned i;

    if (argc > 2 && strcmp(argv[1], "--driver") == 0)
        return driver_be((uint32_t)strtoul(argv[2], NULL, 10));
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (i = 0; i < rows_count; i++)
            printf("%s\n", rows[i].name);
        return 0;
    }
    if (argc > 1 && (strcmp(argv[1], "dom0") == 0 || strcmp(argv[1], "driver") == 0)) {
        setvbuf(stdout, NULL, _IOLBF, 0);
        return rows_play(argv[1][1] == 'r', argc > 2 ? argv[2] : NULL);
    }
    fprintf(stderr, "lives: wrong use: its head says how\n");
    return 100;
}
