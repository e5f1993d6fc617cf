/* merge: requests that lie side by side on the disk are one command at the server, in whatever
 * order and on whichever ring they come; and where one of them is bad, only that one is answered
 * ERROR (laws 1, 2, 4). Trials are rows of a table; each is tried as reads and as writes.
 *
 *      merge DISK DOMID PID LOG
 *
 * PID: the daemon's, stopped while the rings are filled, so that it finds all of a trial at once.
 * LOG: what the server says of its commands (tests/nbd/evil, tell). Its bad sectors: BAD_SECTORS.
 */
#include "../process.h"
#include "probe.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES = 32, PLACES = 64 /* of 8 sectors, all that is ever touched */, TIMEOUT_MS = 20000 };

static const unsigned bad_sectors[] = {300, 450}; /* in places 37 and 56 */

enum order { ASCENDING, DESCENDING, SHUFFLED };

struct trial {
    const char *name;
    unsigned first;   /* sector */
    unsigned sectors; /* of each piece; within its frame it begins anywhere */
    unsigned pieces;
    enum order order;
    unsigned gap;          /* so many are left out after each 8th piece */
    unsigned bad_grants;   /* bits: of the pieces' places in the run, modulo 16 */
    unsigned errors, most; /* answers, and commands at most; for reads a bad grant costs none */
};

static const struct trial trials[] = {
    {"in order", 0, 8, 32, ASCENDING, 0, 0, 0, 1},
    {"backwards", 0, 8, 32, DESCENDING, 0, 0, 0, 1},
    {"in any order", 0, 8, 32, SHUFFLED, 0, 0, 0, 1},
    {"a KiB each", 3, 2, 32, SHUFFLED, 0, 0, 0, 1},
    {"a sector each", 5, 1, 32, ASCENDING, 0, 0, 0, 1},
    {"three sectors each", 11, 3, 30, DESCENDING, 0, 0, 0, 1},
    {"four runs", 0, 8, 32, SHUFFLED, 1, 0, 0, 4},
    {"a bad sector", 256, 8, 16, SHUFFLED, 0, 0, 1, 1 + 16},
    {"two bad sectors", 256, 8, 32, ASCENDING, 0, 0, 2, 1 + 32},
    {"a bad sector, a KiB each", 288, 2, 16, SHUFFLED, 0, 0, 1, 1 + 16},
    {"a bad grant", 0, 8, 16, ASCENDING, 0, 1u << 5, 1, 15},
    {"the first and the last grant", 0, 8, 16, DESCENDING, 0, 1u << 15 | 1, 2, 14},
    {"no good grant", 0, 8, 16, SHUFFLED, 0, 0xffff, 16, 0},
    {"a bad grant and a bad sector", 256, 8, 16, SHUFFLED, 0, 1u << 2, 2, 1 + 16},
};

struct piece {
    struct front_request req;
    unsigned sector, frame, into;
    uint32_t ref;
    bool bad;
};

static struct probe probe;
static struct piece pieces[PIECES];
static uint8_t model[PLACES * 8 * GUEST_SECTOR];
static bool unknown[PLACES * 8]; /* a write of that sector was answered ERROR */
static uint32_t rng = 12345;
static pid_t daemon_pid;
static const char *log_path;

static unsigned below(unsigned n)
{
    rng = rng * 1103515245u + 12345u;
    return (rng >> 16) % n;
}

static unsigned commands_told(void)
{
    FILE *log = fopen(log_path, "re");
    char line[128];
    unsigned count = 0;

    while (log && fgets(line, sizeof(line), log))
        count += strncmp(line, "read ", 5) == 0 || strncmp(line, "write ", 6) == 0;
    if (log)
        fclose(log);
    return count;
}

static bool touches_bad_sector(const struct piece *piece)
{
    for (size_t i = 0; i < sizeof(bad_sectors) / sizeof(*bad_sectors); i++)
        if (bad_sectors[i] >= piece->sector &&
            bad_sectors[i] < piece->sector + piece->req.nr_sectors)
            return true;
    return false;
}

static uint8_t *bytes_of(const struct piece *piece)
{
    return guest_page(probe.front.guest, piece->frame) + piece->into * GUEST_SECTOR;
}

static void piece_make(struct piece *piece, const struct trial *trial, unsigned place, uint8_t op)
{
    piece->sector = trial->first + (place + place / 8 * trial->gap) * trial->sectors;
    piece->into = below(9 - trial->sectors);
    piece->ref = guest_grant(probe.front.guest, piece->frame, 0, op == OP_WRITE);
    piece->req = (struct front_request){
        .op = op, .nr_segments = 1, .sector = piece->sector, .nr_sectors = trial->sectors};
    piece->req.segments[0] =
        (struct front_segment){.ref = piece->ref,
                               .first = (uint8_t)piece->into,
                               .last = (uint8_t)(piece->into + trial->sectors - 1)};
    piece->bad = (trial->bad_grants >> place % 16) & 1;
    if (piece->bad)
        piece->req.segments[0].ref = 1 << 20; /* which there never is */
    piece->bad |= touches_bad_sector(piece);
    for (unsigned i = 0; i < GUEST_PAGE; i++)
        guest_page(probe.front.guest, piece->frame)[i] = (uint8_t)below(256);
}

static void pieces_order(enum order order, unsigned count, unsigned *places)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned other = order == SHUFFLED ? below(i + 1) : i;

        places[i] = places[other];
        places[other] = order == DESCENDING ? count - 1 - i : i;
    }
}

/* Are these the bytes that were written there last? */
static void compare(const char *name, unsigned sector, uint64_t sectors, const uint8_t *bytes)
{
    for (uint64_t i = 0; i < sectors; i++)
        expect(&probe,
               unknown[sector + i] || memcmp(model + (sector + i) * GUEST_SECTOR,
                                             bytes + i * GUEST_SECTOR, GUEST_SECTOR) == 0,
               "%s: sector %u: other bytes", name, sector + (unsigned)i);
}

static void piece_answered(struct piece *piece, const char *name, int status)
{
    uint64_t sectors = piece->req.nr_sectors;

    expect(&probe, status == (piece->bad ? RSP_ERROR : RSP_OKAY), "%s: sector %u is answered %d",
           name, piece->sector, status);
    if (piece->req.op == OP_READ && status == RSP_OKAY)
        compare(name, piece->sector, sectors, bytes_of(piece));
    if (piece->req.op == OP_READ)
        return;
    memcpy(model + piece->sector * GUEST_SECTOR, bytes_of(piece), sectors * GUEST_SECTOR);
    memset(unknown + piece->sector, status != RSP_OKAY, sectors);
}

static void answers_take(const struct trial *trial)
{
    int64_t deadline_ms = guest_clock_ms() + TIMEOUT_MS;
    struct front_response rsp;
    unsigned left = trial->pieces;
    int got = 0;

    while (left > 0 && got >= 0 && guest_clock_ms() < deadline_ms) {
        got = front_poll(&probe.front, &rsp);
        if (got == 0)
            guest_wait(probe.front.guest, 20);
        for (unsigned i = 0; got > 0 && i < trial->pieces; i++) {
            if (pieces[i].req.id != rsp.id)
                continue;
            piece_answered(&pieces[i], trial->name, rsp.status);
            left--;
        }
    }
    expect(&probe, left == 0, "%s: %u pieces are not answered", trial->name, left);
}

static void play(const struct trial *trial, uint8_t op)
{
    unsigned places[PIECES], errors = 0, before = commands_told(), commands;

    pieces_order(trial->order, trial->pieces, places);
    process_stop(daemon_pid);
    for (unsigned i = 0; i < trial->pieces; i++) {
        piece_make(&pieces[i], trial, places[i], op);
        front_push(&probe.front, i % probe.front.nr_queues, &pieces[i].req);
        errors += pieces[i].bad;
    }
    for (unsigned i = 0; i < probe.front.nr_queues; i++)
        front_publish(&probe.front, i);
    kill(daemon_pid, SIGCONT);
    answers_take(trial);
    commands = commands_told() - before;
    expect(&probe, errors == trial->errors, "%s: the table says %u errors, it is %u", trial->name,
           trial->errors, errors);
    expect(&probe,
           op == OP_READ ? commands <= trial->most || trial->bad_grants != 0
                         : commands <= trial->most,
           "%s, %s: %u commands at the server, not %u", trial->name,
           op == OP_READ ? "read" : "write", commands, trial->most);
    for (unsigned i = 0; i < trial->pieces; i++)
        guest_revoke(probe.front.guest, pieces[i].ref);
}

/* Place by place, each alone: that what was answered OKAY is there, and nothing else is elsewhere.
 */
static void check_all(const char *name)
{
    uint8_t *page = guest_page(probe.front.guest, probe.frame);

    for (unsigned place = 0; place < PLACES; place++) {
        struct front_request req = probe_request(&probe, OP_READ, place * 8);
        struct piece piece = {.sector = place * 8, .req.nr_sectors = 8};

        if (touches_bad_sector(&piece))
            continue;
        expect(&probe, front_do(&probe.front, &req) == RSP_OKAY, "%s: place %u", name, place);
        compare(name, place * 8, 8, page);
    }
}

static void model_learn(void)
{
    uint8_t *page = guest_page(probe.front.guest, probe.frame);

    for (unsigned place = 0; place < PLACES; place++) {
        struct front_request req = probe_request(&probe, OP_WRITE, place * 8);

        for (unsigned i = 0; i < GUEST_PAGE; i++)
            page[i] = model[place * GUEST_PAGE + i] = (uint8_t)below(256);
        memset(unknown + place * 8, front_do(&probe.front, &req) != RSP_OKAY, 8);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 100;
    probe = (struct probe){
        .domid = (uint32_t)atoi(argv[2]),
        .disk = {.devid = 51712, .kind = "qdisk", .params = argv[1], .vdev = "xvda"}};
    daemon_pid = atoi(argv[3]);
    log_path = argv[4];
    probe_start(&probe);
    probe.front.nr_queues = 2;
    if (!probe_attach(&probe))
        return 1;
    for (unsigned i = 0; i < PIECES; i++)
        pieces[i].frame = guest_frames_alloc(probe.front.guest, 1);
    model_learn();
    for (size_t i = 0; i < sizeof(trials) / sizeof(*trials); i++) {
        play(&trials[i], OP_READ);
        play(&trials[i], OP_WRITE);
        check_all(trials[i].name);
    }
    probe_close(&probe);
    printf("%zu trials, each as reads and as writes\n", sizeof(trials) / sizeof(*trials));
    guest_destroy(probe.front.guest);
    return probe.wrong > 0;
}
