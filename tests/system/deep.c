/* deep: two disks of one guest on one worker, with as many rings as are offered, each ring full of
 * INDIRECT requests: more of them than the worker has memory to read. All must be answered.
 *
 *      deep DISK DISK DOMID PID      PID: the daemon's, stopped while the rings are filled */
#include "../process.h"
#include "guest.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define TIMEOUT_MS 30000

static struct guest *guest;
static uint32_t list_ref;

static int plug(struct tool_disk *disk, struct front *front, const char *name, uint32_t devid)
{
    *disk = (struct tool_disk){
        .guest = guest, .devid = devid, .kind = "qdisk", .params = name, .vdev = "xvd"};
    *front = (struct front){.guest = guest,
                            .disk = disk,
                            .abi = guest_abi_find("x86_64"),
                            .all_queues = true,
                            .whole_ring = true,
                            .timeout_ms = TIMEOUT_MS};
    return tool_attach(disk) || front_connect(front) ? -1 : 0;
}

/* Two pages each, all into the same one: what is read does not matter here. */
static void list_make(void)
{
    uint32_t data = guest_frames_alloc(guest, 1), list = guest_frames_alloc(guest, 1);
    struct front_segment seg = {.ref = guest_grant(guest, data, 0, false), .first = 0, .last = 7};

    guest_abi_indirect(guest_page(guest, list), 0, &seg);
    guest_abi_indirect(guest_page(guest, list), 1, &seg);
    list_ref = guest_grant(guest, list, 0, true);
}

static unsigned fill(struct front *front)
{
    unsigned queue, pushed = 0;

    for (queue = 0; queue < front->nr_queues; queue++) {
        while (front_room(&front->queues[queue]) > 0) {
            struct front_request req = {.op = OP_INDIRECT,
                                        .inner_op = OP_READ,
                                        .nr_segments = 2,
                                        .sector = pushed % 1024,
                                        .indirect_refs = {list_ref}};

            if (front_push(front, queue, &req))
                exit(1);
            pushed++;
        }
        front_publish(front, queue);
    }
    return pushed;
}

static unsigned reap(struct front *front)
{
    struct front_response rsp;
    unsigned taken = 0;
    int got;

    while ((got = front_poll(front, &rsp)) > 0) {
        if (rsp.status != RSP_OKAY)
            exit(1);
        taken++;
    }
    if (got < 0)
        exit(1);
    return taken;
}

static int await(struct front *front, unsigned left)
{
    int64_t deadline_ms = guest_clock_ms() + TIMEOUT_MS;
    unsigned all = left;

    while (left > 0 && guest_clock_ms() < deadline_ms) {
        left -= reap(&front[0]) + reap(&front[1]);
        guest_wait(guest, 20);
    }
    printf("%u requests at once, %u without an answer after %.1f s\n", all, left,
           (double)(guest_clock_ms() - (deadline_ms - TIMEOUT_MS)) / 1000);
    return left == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    static struct tool_disk disk[2];
    static struct front front[2];
    unsigned pushed;
    pid_t daemon;

    if (argc != 5)
        return 2;
    daemon = (pid_t)atoi(argv[4]);
    guest = guest_create((uint32_t)atoi(argv[3]), 1024);
    if (!guest || plug(&disk[0], &front[0], argv[1], 51712) ||
        plug(&disk[1], &front[1], argv[2], 51728))
        return 1;
    list_make();
    process_stop(daemon);
    pushed = fill(&front[0]) + fill(&front[1]);
    kill(daemon, SIGCONT);
    if (await(front, pushed))
        return 1;
    if (front_close(&front[0]) || front_close(&front[1]))
        return 1;
    guest_destroy(guest);
    return 0;
}
