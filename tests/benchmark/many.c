/*
 * many DISKS: guests with up to a thousand disks together, d0 and so on, which do as they are told
 * by lines on stdin, and answer each with a line. What goes wrong ends them.
 *
 *      attach              makes and connects all of them; "attached SECONDS", from the first node
 *                          that is written until the last is in state 4
 *      answer              reads one page of each; "answered SECONDS", until the last one came. The
 *                          daemon may be away when it is told so.
 *      load BUSY SECONDS   random 4 KiB reads of the first BUSY disks, 32 in flight on each;
 *                          "loaded REQUESTS SLOWEST FASTEST", the latter two of one disk
 *
 * One thread. The steps of a handshake are made for all disks before the next one is, so that the
 * daemon has as much to do at once as it wants. Ends with the end of stdin, and the domains with
 * it.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "guest.h"
#include "simclient.h"

enum {
    DISKS_MAX = 1000,
    DISKS_EACH = 20, /* of a domain: xenstored is slow with directories of a thousand */
    GUESTS_MAX = DISKS_MAX / DISKS_EACH,
    DOMID_FIRST = 5,
    BUSY_MAX = 16,
    DEPTH = 32,
    DEVID_EXTENDED = 1 << 28, /* xvd with numbers of 20 bits, 256 partitions each */
    STATE_MS = 60000,
    ANSWER_MS = 120000,
    WAIT_MS = 100,
    PAGE_SECTORS = GUEST_PAGE / GUEST_SECTOR,
    GUEST_PAGES = DISKS_EACH * 2 + BUSY_MAX * DEPTH + 1,
};

struct vbd {
    struct tool_disk disk;
    struct front front;
    char name[16], vdev[16];
    uint32_t frames[DEPTH], refs[DEPTH]; /* the first one's of every disk, all of a busy one's */
    unsigned pages;
    uint64_t answers;
};

static struct {
    struct guest *guests[GUESTS_MAX];
    struct pollfd events[GUESTS_MAX];
    unsigned guest_count, count;
    struct vbd *vbds;
    uint64_t dice;
} many = {.dice = 1};

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

_Noreturn static void fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "many: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

/* -- attach ---------------------------------------------------------------------------------- */

static void guests_create(void)
{
    many.guest_count = (many.count + DISKS_EACH - 1) / DISKS_EACH;
    for (unsigned i = 0; i < many.guest_count; i++) {
        many.guests[i] = guest_create(DOMID_FIRST + i, GUEST_PAGES);
        if (!many.guests[i])
            exit(1);
        many.events[i] = (struct pollfd){.fd = many.guests[i]->conn->event_fd, .events = POLLIN};
    }
}

/* For events of any. */
static void wait_for_events(void)
{
    if (poll(many.events, many.guest_count, WAIT_MS) <= 0)
        return;
    for (unsigned i = 0; i < many.guest_count; i++)
        if (many.events[i].revents)
            guest_wait(many.guests[i], 0);
}

static void vbd_init(struct vbd *vbd, unsigned number)
{
    struct guest *guest = many.guests[number / DISKS_EACH];
    uint32_t devid = DEVID_EXTENDED | number % DISKS_EACH << 8;

    snprintf(vbd->name, sizeof vbd->name, "d%u", number);
    snprintf(vbd->vdev, sizeof vbd->vdev, "d%u", devid);
    vbd->disk = (struct tool_disk){
        .guest = guest,
        .devid = devid,
        .kind = "qdisk",
        .params = vbd->name,
        .vdev = vbd->vdev,
    };
    vbd->front = (struct front){
        .guest = guest,
        .disk = &vbd->disk,
        .abi = guest_abi_find("x86_64"),
        .timeout_ms = STATE_MS,
    };
}

static int vbd_introduce(struct vbd *vbd)
{
    return tool_attach(&vbd->disk);
}

static int vbd_publish(struct vbd *vbd)
{
    if (tool_wait_state(&vbd->disk, STATE_INITWAIT, STATE_MS) || tool_hotplug_done(&vbd->disk) ||
        front_ring_create(&vbd->front) || front_ring_publish(&vbd->front))
        return -1;
    return front_state_set(&vbd->front, STATE_INITIALISED);
}

static int vbd_connect(struct vbd *vbd)
{
    if (tool_wait_state(&vbd->disk, STATE_CONNECTED, STATE_MS) || front_features_read(&vbd->front))
        return -1;
    return front_state_set(&vbd->front, STATE_CONNECTED);
}

static void attach(void)
{
    static int (*const steps[])(struct vbd * vbd) = {vbd_introduce, vbd_publish, vbd_connect};
    double start_s = now_s();

    for (size_t step = 0; step < sizeof steps / sizeof steps[0]; step++)
        for (unsigned i = 0; i < many.count; i++)
            if (steps[step](&many.vbds[i]))
                fail("disk %u is not attached", i);
    printf("attached %.4f\n", now_s() - start_s);
}

/* -- reads ----------------------------------------------------------------------------------- */

static void pages_need(struct vbd *vbd, unsigned pages)
{
    for (; vbd->pages < pages; vbd->pages++) {
        vbd->frames[vbd->pages] = guest_frames_alloc(vbd->front.guest, 1);
        vbd->refs[vbd->pages] = guest_grant(vbd->front.guest, vbd->frames[vbd->pages], 0, false);
    }
}

static uint64_t random_page(const struct vbd *vbd)
{
    many.dice = many.dice * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (many.dice >> 33) % (vbd->front.sectors / PAGE_SECTORS);
}

static void read_push(struct vbd *vbd, uint64_t disk_page, unsigned page)
{
    struct front_request request = {
        .op = OP_READ,
        .nr_segments = 1,
        .sector = disk_page * PAGE_SECTORS,
        .segments = {{vbd->refs[page], 0, PAGE_SECTORS - 1}},
    };

    if (front_push(&vbd->front, 0, &request))
        fail("%s has no room for a request", vbd->name);
}

static bool read_answered(struct vbd *vbd)
{
    struct front_response response;
    int got = front_poll(&vbd->front, &response);

    if (got < 0 || (got > 0 && response.status != RSP_OKAY))
        fail("%s: a read went wrong", vbd->name);
    vbd->answers += got > 0;
    return got > 0;
}

static uint8_t *first_page(const struct vbd *vbd)
{
    return guest_page(vbd->front.guest, vbd->frames[0]);
}

/* The server has nothing but zeros. */
static void page_check(const struct vbd *vbd)
{
    static const uint8_t zeros[GUEST_PAGE];

    if (memcmp(first_page(vbd), zeros, GUEST_PAGE) != 0)
        fail("%s was read wrong", vbd->name);
}

static void answer(void)
{
    double start_s = now_s();
    int64_t deadline_ms = guest_clock_ms() + ANSWER_MS;
    unsigned left = many.count;

    for (struct vbd *vbd = many.vbds; vbd < many.vbds + many.count; vbd++) {
        pages_need(vbd, 1);
        memset(first_page(vbd), 0xff, GUEST_PAGE);
        vbd->answers = 0;
        read_push(vbd, random_page(vbd), 0);
        front_publish(&vbd->front, 0);
    }
    while (left > 0) {
        wait_for_events();
        for (struct vbd *vbd = many.vbds; vbd < many.vbds + many.count; vbd++) {
            if (vbd->answers > 0)
                continue;
            while (read_answered(vbd)) /* to the end: only then does it ask for an event again */
                continue;
            if (vbd->answers == 0)
                continue;
            page_check(vbd);
            left--;
        }
        if (guest_clock_ms() > deadline_ms)
            fail("%u disks do not answer", left);
    }
    printf("answered %.4f\n", now_s() - start_s);
}

/* Keeps `DEPTH` in flight, or, at the end, waits for those that are. Returns how many are. */
static unsigned work(struct vbd *vbd, bool ends)
{
    bool pushed = false;

    while (read_answered(vbd)) {
        if (ends)
            continue;
        read_push(vbd, random_page(vbd), vbd->answers % DEPTH);
        pushed = true;
    }
    if (pushed)
        front_publish(&vbd->front, 0);
    return vbd->front.queues[0].req_prod - vbd->front.queues[0].rsp_cons;
}

static void begin(struct vbd *vbd)
{
    pages_need(vbd, DEPTH);
    vbd->answers = 0;
    for (unsigned i = 0; i < DEPTH; i++)
        read_push(vbd, random_page(vbd), i);
    front_publish(&vbd->front, 0);
}

static void load_report(unsigned busy)
{
    uint64_t total = 0, slowest = UINT64_MAX, fastest = 0;

    for (unsigned i = 0; i < busy; i++) {
        uint64_t answers = many.vbds[i].answers;

        total += answers;
        slowest = answers < slowest ? answers : slowest;
        fastest = answers > fastest ? answers : fastest;
    }
    printf("loaded %llu %llu %llu\n", (unsigned long long)total, (unsigned long long)slowest,
           (unsigned long long)fastest);
}

static void load(unsigned busy, double seconds)
{
    double end_s = now_s() + seconds;
    unsigned in_flight = 1;

    if (busy == 0 || busy > BUSY_MAX || busy > many.count)
        fail("%u disks cannot be busy", busy);
    for (unsigned i = 0; i < busy; i++)
        begin(&many.vbds[i]);
    while (in_flight > 0) {
        bool ends = now_s() > end_s;

        in_flight = 0;
        for (unsigned i = 0; i < busy; i++)
            in_flight += work(&many.vbds[i], ends);
        if (in_flight > 0)
            wait_for_events();
    }
    load_report(busy);
}

/* -------------------------------------------------------------------------------------------- */

static void obey(const char *line)
{
    unsigned busy;
    double seconds;

    if (strcmp(line, "attach\n") == 0)
        attach();
    else if (strcmp(line, "answer\n") == 0)
        answer();
    else if (sscanf(line, "load %u %lf", &busy, &seconds) == 2)
        load(busy, seconds);
    else
        fail("what is to be done? %s", line);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[100];

    many.count = argc == 2 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    if (many.count == 0 || many.count > DISKS_MAX) {
        fprintf(stderr, "usage: many DISKS\nObeys lines on stdin. DISKS: %d at most.\n", DISKS_MAX);
        return 2;
    }
    many.vbds = calloc(many.count, sizeof *many.vbds);
    if (!many.vbds)
        fail("out of memory");
    guests_create();
    for (unsigned i = 0; i < many.count; i++)
        vbd_init(&many.vbds[i], i);
    while (fgets(line, sizeof line, stdin))
        obey(line);
    for (unsigned i = 0; i < many.guest_count; i++)
        guest_destroy(many.guests[i]);
    free(many.vbds);
    return 0;
}
