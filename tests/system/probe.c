#include "probe.h"

#include <stdlib.h>
#include <string.h>

void probe_start(struct probe *probe)
{
    probe->disk.guest = probe->front.guest = guest_create(probe->domid, 128);
    if (!probe->front.guest)
        exit(1);
    probe->front.disk = &probe->disk;
    probe->front.abi = guest_abi_find("x86_64");
    probe->front.nr_queues = 1;
    probe->front.timeout_ms = 20000;
    probe->frame = guest_frames_alloc(probe->front.guest, 1);
    probe->ref = guest_grant(probe->front.guest, probe->frame, probe->disk.backend_domid, false);
}

bool probe_attach(struct probe *probe)
{
    bool attached = tool_attach(&probe->disk) == 0 && front_connect(&probe->front) == 0;

    expect(probe, attached, "not attached");
    return attached;
}

struct front_request probe_request(const struct probe *probe, uint8_t op, uint64_t sector)
{
    struct front_request req = {.op = op, .sector = sector};

    if (op == OP_FLUSH)
        return req;
    req.nr_segments = 1;
    req.segments[0] = (struct front_segment){.ref = probe->ref, .first = 0, .last = 7};
    return req;
}

static uint8_t pattern; /* of the first page that was written last */

static void read_all(struct probe *probe, bool compare)
{
    uint8_t *page = guest_page(probe->front.guest, probe->frame);

    for (int i = 0; i < PROBE_WARM; i++) {
        struct front_request req = probe_request(probe, OP_READ, (uint64_t)i * 8);
        int status;

        memset(page, ~(pattern + i), GUEST_PAGE);
        status = front_do(&probe->front, &req);
        expect(probe, status == RSP_OKAY, "read %d: %d", i, status);
        expect(probe,
               !compare || (page[0] == (uint8_t)(pattern + i) &&
                            memcmp(page, page + 1, GUEST_PAGE - 1) == 0),
               "read %d: wrong bytes", i);
    }
}

void probe_io(struct probe *probe, bool may_write)
{
    uint8_t *page = guest_page(probe->front.guest, probe->frame);

    pattern = (uint8_t)(pattern + PROBE_WARM);
    for (int i = 0; may_write && i < PROBE_WARM; i++) {
        struct front_request req = probe_request(probe, OP_WRITE, (uint64_t)i * 8);
        int status;

        memset(page, pattern + i, GUEST_PAGE);
        status = front_do(&probe->front, &req);
        expect(probe, status == RSP_OKAY, "write %d: %d", i, status);
    }
    read_all(probe, may_write);
}

void probe_reread(struct probe *probe)
{
    read_all(probe, true);
}

/* A disk that offers no flush may say so. */
void probe_flush(struct probe *probe)
{
    struct front_request req = probe_request(probe, OP_FLUSH, 0);
    int status = front_do(&probe->front, &req);

    expect(probe, status == RSP_OKAY || (status == RSP_NOTSUPP && !probe->front.flush), "flush: %d",
           status);
}

void probe_close(struct probe *probe)
{
    expect(probe, front_close(&probe->front) == 0, "not closed");
}

void probe_detach(struct probe *probe)
{
    expect(probe, tool_unplug(&probe->disk) == 0, "not unplugged");
    expect(probe, tool_wait_state(&probe->disk, STATE_CLOSED, PROBE_CLOSE_MS) == 0,
           "not closed for the toolstack");
    tool_remove(&probe->disk);
    expect(probe, guest_revoke(probe->front.guest, probe->ref), "a data page is in use");
    expect(probe, guest_mapped_grants(probe->front.guest, probe->domid) == 0, "grants are mapped");
    probe->ref = guest_grant(probe->front.guest, probe->frame, probe->disk.backend_domid, false);
}
