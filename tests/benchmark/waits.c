/*
 * waits: a request whose neighbour is at the server waits for no more than the next command that
 * comes back, however full other requests of its guest keep the pipeline. And reads do not wait for
 * writes for which the kept file has no record.
 *
 * In lockstep (lockstep.h): a guest keeps so many requests at far places under way, and beside them
 * reads or writes pairs that lie side by side, the second when the first is at the server, and the
 * next pair when both are answered. The server answers one command at a time, the oldest. Ends with
 * 0 if no piece sees more answers to others than were ahead of it, and a few; and if, when the
 * server does not flush and writes have taken all records, a read is answered.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lockstep.h"

#include "gateway/worker.h"
#include "guest.h"
#include "proto/limits.h"

enum {
    FAR = 4 * LIMIT_PIPELINE_COMMANDS, /* under way all the time */
    PIECES = 100,                      /* in pairs */
    PAGES = FAR + 2,
    ENOUGH = 2 * PAGES, /* answers to others before a piece's own: ahead of it, and of the first */
    FAR_AT = 1 << 20,   /* sector */
};

static struct worker *worker;
static struct server *server;
static struct front front;
static struct tool_disk disk;
static uint32_t frame, refs[PAGES];
static uint64_t far_sector = FAR_AT;
static struct piece {
    uint64_t id;
    unsigned pushed_at; /* how many answers there were before */
    bool answered;
} pieces[PIECES];
static unsigned pushed, done, answers, most;

static uint64_t push(uint8_t op, uint64_t sector, unsigned page)
{
    struct front_request request = {.op = op, .nr_segments = 1, .sector = sector};

    request.segments[0] = (struct front_segment){.ref = refs[page], .first = 0, .last = 7};
    if (front_push(&front, 0, &request))
        lockstep_fail("the ring is full");
    front_publish(&front, 0);
    return request.id;
}

static void push_far(uint8_t op, unsigned page)
{
    push(op, far_sector, page);
    far_sector += 16; /* none beside another */
}

/* The next pair; its second when the first is at the server, or waits. */
static void push_pieces(uint8_t op)
{
    while (pushed == done || pushed % 2 == 1) {
        pieces[pushed] = (struct piece){
            .id = push(op, pushed / 2 * 32 + pushed % 2 * 8, pushed % 2), .pushed_at = answers};
        pushed++;
        worker_turn(worker);
        worker_turn(worker);
    }
}

static bool is_piece(uint64_t id)
{
    for (unsigned i = 0; i < pushed; i++) {
        struct piece *piece = &pieces[i];

        if (piece->answered || piece->id != id)
            continue;
        piece->answered = true;
        done++;
        if (answers - piece->pushed_at > most)
            most = answers - piece->pushed_at;
        return true;
    }
    return false;
}

/* For each of the far ones that is answered there is another. */
static void take_answers(uint8_t op)
{
    struct front_response response;

    guest_wait(front.guest, 0);
    while (front_poll(&front, &response) > 0) {
        if (response.status != RSP_OKAY)
            lockstep_fail("a request was answered %d", response.status);
        answers++;
        if (!is_piece(response.id))
            push_far(op, 2);
    }
}

static void judge(const char *name)
{
    for (unsigned i = 0; i < pushed; i++)
        if (!pieces[i].answered && answers - pieces[i].pushed_at > ENOUGH)
            lockstep_fail("%s: piece %u waits, and %u others were answered since it came", name, i,
                          answers - pieces[i].pushed_at);
}

static void play(uint8_t op, const char *name)
{
    struct front_response response;

    pushed = done = answers = most = 0;
    for (unsigned i = 0; i < FAR; i++)
        push_far(op, 2 + i);
    while (done < PIECES) {
        push_pieces(op);
        server_answer_some(server, 1, false);
        worker_turn(worker);
        worker_turn(worker);
        take_answers(op);
        judge(name);
    }
    printf("waits: beside %d far %s a piece was answered after %u others at most\n", FAR, name,
           most);
    for (unsigned left = FAR; left > 0;) {
        server_answer(server, false);
        worker_turn(worker);
        worker_turn(worker);
        guest_wait(front.guest, 0);
        while (front_poll(&front, &response) > 0)
            left--;
    }
}

/* 1 MiB, all of one page. */
static void push_long(uint64_t sector)
{
    static uint32_t list_frame, list_ref;
    struct front_request request = {.op = OP_INDIRECT,
                                    .inner_op = OP_WRITE,
                                    .nr_segments = GUEST_INDIRECT_MAX,
                                    .sector = sector};
    const struct front_segment segment = {.ref = refs[1], .first = 0, .last = 7};

    if (!list_ref) {
        list_frame = guest_frames_alloc(front.guest, 1);
        list_ref = guest_grant(front.guest, list_frame, 0, true);
    }
    for (unsigned i = 0; i < GUEST_INDIRECT_MAX; i++)
        guest_abi_indirect(guest_page(front.guest, list_frame), i, &segment);
    request.indirect_refs[0] = list_ref;
    if (front_push(&front, 0, &request))
        lockstep_fail("the ring is full");
    front_publish(&front, 0);
}

static unsigned answered(void)
{
    struct front_response response;
    unsigned count = 0;

    worker_turn(worker);
    server_answer(server, false);
    worker_turn(worker);
    worker_turn(worker);
    guest_wait(front.guest, 0);
    while (front_poll(&front, &response) > 0) {
        if (response.status != RSP_OKAY)
            lockstep_fail("a request was answered %d", response.status);
        count++;
    }
    return count;
}

/* Law 4. Bug: the disk stood still until the flush for room was done. */
static void play_without_records(void)
{
    unsigned out = 0, writes = 0;

    server_hold_flushes(server);
    for (unsigned turn = 0; writes < LIMIT_RECORDS_PER_DISK || out > 0; turn++) {
        if (turn > 4 * LIMIT_RECORDS_PER_DISK)
            lockstep_fail("%u writes, with records left, are not answered", out);
        for (; out < FAR && writes < LIMIT_RECORDS_PER_DISK; out++, writes++)
            push_far(OP_WRITE, 2 + out);
        out -= answered();
    }
    push_long(far_sector + 4096); /* as much as a disk may start in a round */
    if (answered() > 0)
        lockstep_fail("there are more records than %u", writes);
    for (; out < FAR; out++)
        push_far(OP_WRITE, 2 + out);
    push(OP_READ, 0, 0);
    out += 2;
    for (unsigned turn = 0; turn < 4 && out > FAR + 1; turn++)
        out -= answered();
    if (out > FAR + 1)
        lockstep_fail("a read waits for writes that have no records");
    server_release_flush(server);
    for (unsigned turn = 0; turn < 10 && out > 0; turn++)
        out -= answered();
    if (out > 0)
        lockstep_fail("%u writes are not answered after the flush", out);
    printf("waits: a read passes writes without records\n");
}

int main(void)
{
    const char *dir = getenv("BLKGATE_SIM");
    char socket[100], kept[120];

    if (!dir)
        lockstep_fail("it is to be run in a simulation (tests/sim/room.sh)");
    worker = disk_worker();
    snprintf(socket, sizeof socket, "%.70s/waits.%d", dir, (int)getpid());
    snprintf(kept, sizeof kept, "%s.keep", socket);
    front.guest = guest_create(7, 2 * GUEST_INDIRECT_MAX);
    front.disk = &disk;
    front.abi = guest_abi_find("x86_64");
    front.ring_order = 2;
    if (!front.guest || front_ring_create(&front))
        exit(1);
    frame = guest_frames_alloc(front.guest, PAGES);
    for (unsigned i = 0; i < PAGES; i++)
        refs[i] = guest_grant(front.guest, frame + i, 0, false);
    server = server_start(socket);
    disk_connect(worker, &front, server, socket, kept);
    disk_alone();
    play(OP_READ, "reads");
    play_without_records();
    play(OP_WRITE, "writes");
    fflush(stdout);
    _exit(0); /* nobody takes the worker apart, and a sanitizer would miss that */
}
