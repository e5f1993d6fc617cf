/*
 * fair: one disk's flood of long requests, and a short one of another disk on the same worker (law
 * 4).
 *
 * In lockstep (lockstep.h), so that what is judged is no time: while the short request is on its
 * way the worker may start no more of the flood, and take no more of its replies, than a few turns'
 * share (LIMIT_ROUND_BYTES). Ends with 0 if it holds, for reads and for writes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lockstep.h"

#include "gateway/worker.h"
#include "guest.h"
#include "proto/limits.h"

enum {
    FLOOD = 64, /* of 1 MiB each */
    TRIES = 40,
    TURNS_MAX = 400,
    TURNS_ALONE = 4, /* its event comes, it is sent, its reply comes, it is answered */
};

struct party {
    struct front front;
    struct tool_disk disk;
    struct server *server;
    uint32_t frame, list_frame, refs[GUEST_INDIRECT_MAX], list_ref;
    unsigned pages;
    uint64_t sector;
};

static struct worker *worker;
static struct party big, small;

static void party_join(struct party *party, uint32_t domid, unsigned pages, const char *dir)
{
    char socket[100], kept[120];
    struct front *front = &party->front;

    snprintf(socket, sizeof socket, "%.70s/fair.%u.%d", dir, domid, (int)getpid());
    snprintf(kept, sizeof kept, "%s.keep", socket);
    party->pages = pages;
    front->guest = guest_create(domid, 2 * GUEST_INDIRECT_MAX);
    front->disk = &party->disk;
    front->abi = guest_abi_find("x86_64");
    front->ring_order = 2;
    if (!front->guest || front_ring_create(front))
        exit(1);
    party->frame = guest_frames_alloc(front->guest, pages);
    party->list_frame = guest_frames_alloc(front->guest, 1);
    party->list_ref = guest_grant(front->guest, party->list_frame, 0, true);
    for (unsigned i = 0; i < pages; i++) {
        struct front_segment segment = {.first = 0, .last = 7};

        segment.ref = party->refs[i] = guest_grant(front->guest, party->frame + i, 0, false);
        guest_abi_indirect(guest_page(front->guest, party->list_frame), i, &segment);
    }
    party->server = server_start(socket);
    disk_connect(worker, front, party->server, socket, kept);
}

/* All into the same pages, and out of them: what the bytes are does not matter here. */
static void push(struct party *party, uint8_t op)
{
    struct front_request request = {.op = party->pages > 1 ? OP_INDIRECT : op,
                                    .inner_op = op,
                                    .nr_segments = (uint16_t)party->pages,
                                    .sector = party->sector,
                                    .indirect_refs = {party->list_ref}};

    request.segments[0] = (struct front_segment){.ref = party->refs[0], .first = 0, .last = 7};
    party->sector += 2 * party->pages * 8; /* none beside another: none is merged */
    if (front_push(&party->front, 0, &request))
        lockstep_fail("the ring is full");
}

static unsigned answers(struct party *party)
{
    struct front_response response;
    unsigned count = 0;

    guest_wait(party->front.guest, 0);
    while (front_poll(&party->front, &response) > 0) {
        if (response.status != RSP_OKAY)
            lockstep_fail("a request was answered %d", response.status);
        count++;
    }
    return count;
}

struct wait {
    unsigned turns;
    uint64_t bytes; /* of the flood, that its server got meanwhile */
};

static struct wait serve_small(uint8_t op)
{
    uint64_t before = server_bytes(big.server);
    struct wait wait = {0};
    unsigned flood_answers = 0;

    push(&small, OP_READ);
    front_publish(&small.front, 0);
    while (answers(&small) == 0) {
        if (wait.turns++ == TURNS_MAX)
            lockstep_fail("the small request is not answered in %d turns", TURNS_MAX);
        worker_turn(worker);
        server_answer(small.server, false);
        server_answer(big.server, false);
        flood_answers += answers(&big);
    }
    wait.bytes = server_bytes(big.server) - before;
    for (unsigned i = 0; i < flood_answers; i++)
        push(&big, op);
    front_publish(&big.front, 0);
    return wait;
}

static void flood(uint8_t op, const char *name)
{
    struct wait most = {0};

    for (unsigned i = 0; i < FLOOD; i++)
        push(&big, op);
    front_publish(&big.front, 0);
    for (unsigned i = 0; i < TRIES; i++) {
        struct wait wait;

        worker_turn(worker); /* it is anywhere in its work when the small one comes */
        wait = serve_small(op);
        most.turns = wait.turns > most.turns ? wait.turns : most.turns;
        most.bytes = wait.bytes > most.bytes ? wait.bytes : most.bytes;
    }
    printf("fair: beside %u %s of 1 MiB a small read is answered after %u turns, and %llu KiB of "
           "them, at most\n",
           FLOOD, name, most.turns, (unsigned long long)most.bytes >> 10);
    if (most.turns > TURNS_ALONE || most.bytes > (TURNS_ALONE + 1) * LIMIT_ROUND_BYTES)
        lockstep_fail("that is more than its share");
    for (unsigned left = FLOOD, turns = 0; left > 0; turns++) {
        if (turns == TURNS_MAX)
            lockstep_fail("the flood does not end");
        worker_turn(worker);
        server_answer(big.server, false);
        left -= answers(&big);
    }
}

int main(void)
{
    const char *dir = getenv("BLKGATE_SIM");

    if (!dir)
        lockstep_fail("it is to be run in a simulation (tests/sim/room.sh)");
    worker = disk_worker();
    party_join(&big, 7, GUEST_INDIRECT_MAX, dir);
    party_join(&small, 8, 1, dir);
    disk_alone();
    flood(OP_READ, "reads");
    flood(OP_WRITE, "writes");
    fflush(stdout);
    _exit(0); /* nobody takes the worker apart, and a sanitizer would miss that */
}
