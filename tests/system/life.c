/* life: what a frontend or a toolstack may do to a disk, one scenario a run.
 *
 *      life SCENARIO DISK DOMID [KIND [SCRIPT]]
 *
 * Scenarios:
 *      many        attached and detached 60 times
 *      wait        connected; says "ready" and waits for a line; works yet, and is detached
 *      held        the same, but the daemon died and came back meanwhile: the disk is not touched
 *                  until it is closed, and then works again
 *      bereft      the same, but the daemon was stopped, and the server went while it was away:
 * state 5 and nothing else, and it works again when both are back gate        not connected before
 * the script says hotplug-status = connected gate-fails  the script is told why, and the frontend
 * sees nothing; prints what it is told close-first like Windows: 5, 6 and 1 before it ever
 * connects, and again when it is closed kexec       the frontend is back at 1 with requests in
 * flight, without goodbye unplug      the toolstack asks; the guest works on until it closes never
 * unplugged from a guest that never came force       destroyed with requests in flight Exit 0 only
 * if all that is said here held, and nothing stays mapped.
 */
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 60, IN_FLIGHT = 8, STAYS_MS = 600, STATE_MS = 10000 };

static struct probe probe = {.disk = {.kind = "qdisk", .vdev = "xvda", .devid = 51712}};

static void state_wait(int state)
{
    expect(&probe, tool_wait_state(&probe.disk, state, STATE_MS) == 0, "no state %d", state);
}

static void state_stays(int state)
{
    int64_t end_ms = guest_clock_ms() + STAYS_MS;

    while (guest_clock_ms() < end_ms && tool_state(&probe.disk) == state)
        guest_wait(probe.front.guest, 20);
    expect(&probe, tool_state(&probe.disk) == state, "state %d did not stay but went to %d", state,
           tool_state(&probe.disk));
}

static char *status_read(void)
{
    char path[160];
    unsigned length;

    snprintf(path, sizeof(path), "%s/blkgate-status", probe.disk.backend);
    return xs_read(probe.disk.guest->xs, XBT_NULL, path, &length);
}

static bool status_is(const char *text)
{
    char *status = status_read();
    bool is = status && strncmp(status, text, strlen(text)) == 0;

    free(status);
    return is;
}

static void status_wait(const char *text)
{
    int64_t end_ms = guest_clock_ms() + STATE_MS;

    while (!status_is(text) && guest_clock_ms() < end_ms)
        guest_wait(probe.front.guest, 20);
    expect(&probe, status_is(text), "blkgate-status is not \"%s\"", text);
}

static void attach(void)
{
    expect(&probe, tool_attach(&probe.disk) == 0, "not attached");
}

static void connect_and_use(void)
{
    bool connected = front_connect(&probe.front) == 0;

    expect(&probe, connected, "not connected");
    if (!connected)
        exit(1);
    probe_io(&probe, true);
    probe_flush(&probe);
}

static void reopen(void)
{
    expect(&probe, front_reopen(&probe.front) == 0, "not opened again");
    connect_and_use();
}

static void reads_push(unsigned count)
{
    struct front_request req;
    unsigned i;

    for (i = 0; i < count; i++) {
        req = probe_request(&probe, OP_READ, (uint64_t)i * 8);
        expect(&probe, front_push(&probe.front, 0, &req) == 0, "not pushed");
    }
    front_publish(&probe.front, 0);
}

static void line_wait(void)
{
    printf("ready\n");
    fflush(stdout);
    (void)getchar();
}

static void finish(void)
{
    probe_close(&probe);
    probe_detach(&probe);
}

/* -- scenarios ------------------------------------------------------------------------------ */

static void many(void)
{
    unsigned i;

    for (i = 0; i < ROUNDS; i++) {
        attach();
        connect_and_use();
        finish();
    }
}

static void wait_for_line(void)
{
    attach();
    connect_and_use();
    line_wait();
    probe_io(&probe, true);
    finish();
}

static void held(void)
{
    struct front_response rsp;

    attach();
    connect_and_use();
    line_wait();
    status_wait("held: ");
    reads_push(1);
    state_stays(STATE_CONNECTED);
    expect(&probe, front_poll(&probe.front, &rsp) == 0, "a held disk answers");
    probe_close(&probe);
    reopen();
    finish();
}

static void bereft(void)
{
    struct front_response rsp;

    attach();
    connect_and_use();
    line_wait();
    state_wait(STATE_CLOSING);
    status_wait("failed: ");
    reads_push(1);
    state_stays(STATE_CLOSING);
    expect(&probe, front_poll(&probe.front, &rsp) == 0, "a disk without a server answers");
    probe_close(&probe);
    reopen();
    finish();
}

static void gate(void)
{
    attach();
    status_wait("ready");
    state_wait(STATE_INITWAIT);
    expect(&probe, front_ring_create(&probe.front) == 0 && front_ring_publish(&probe.front) == 0,
           "no ring");
    front_state_set(&probe.front, STATE_INITIALISED);
    state_stays(STATE_INITWAIT);
    tool_hotplug_done(&probe.disk);
    state_wait(STATE_CONNECTED);
    front_features_read(&probe.front);
    front_state_set(&probe.front, STATE_CONNECTED);
    probe_io(&probe, true);
    finish();
}

static void gate_fails(void)
{
    char *status;

    attach();
    status_wait("failed: ");
    status = status_read();
    printf("%s\n", status ? status : "nothing");
    free(status);
    state_wait(STATE_INITWAIT); /* which libxl waits for before it runs the script */
    state_stays(STATE_INITWAIT);
    probe_detach(&probe);
}

static void close_open_front(void)
{
    front_state_set(&probe.front, STATE_CLOSING);
    state_wait(STATE_CLOSING);
    front_state_set(&probe.front, STATE_CLOSED);
    state_wait(STATE_CLOSED);
}

static void close_first(void)
{
    attach();
    state_wait(STATE_INITWAIT);
    close_open_front();
    reopen();
    probe_close(&probe);
    close_open_front();
    reopen();
    finish();
}

static void kexec(void)
{
    attach();
    connect_and_use();
    reads_push(IN_FLIGHT);
    front_state_set(&probe.front, STATE_INITIALISING);
    state_wait(STATE_INITWAIT);
    expect(&probe, front_ring_free(&probe.front) == 0, "the old ring is still mapped");
    connect_and_use();
    finish();
}

static void unplug(void)
{
    attach();
    connect_and_use();
    tool_unplug(&probe.disk);
    state_stays(STATE_CLOSING);
    probe_io(&probe, true);
    probe_flush(&probe);
    front_state_set(&probe.front, STATE_CLOSED);
    state_wait(STATE_CLOSED);
    expect(&probe, front_ring_free(&probe.front) == 0, "the ring is still mapped");
    tool_remove(&probe.disk);
}

static void never(void)
{
    attach();
    state_wait(STATE_INITWAIT);
    probe_detach(&probe);
}

static void force(void)
{
    attach();
    connect_and_use();
    reads_push(IN_FLIGHT);
    tool_destroy(&probe.disk);
    state_wait(STATE_CLOSED);
    expect(&probe, front_ring_free(&probe.front) == 0, "the ring is still mapped");
    tool_remove(&probe.disk);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"many", many},
    {"wait", wait_for_line},
    {"held", held},
    {"bereft", bereft},
    {"gate", gate},
    {"gate-fails", gate_fails},
    {"close-first", close_first},
    {"kexec", kexec},
    {"unplug", unplug},
    {"never", never},
    {"force", force},
};

int main(int argc, char **argv)
{
    unsigned i;

    for (i = 0; argc >= 4 && i < sizeof(scenarios) / sizeof(*scenarios); i++) {
        if (strcmp(argv[1], scenarios[i].name) != 0)
            continue;
        probe.disk.params = argv[2];
        probe.domid = (uint32_t)strtoul(argv[3], NULL, 10);
        if (argc > 4)
            probe.disk.kind = argv[4];
        if (argc > 5)
            probe.disk.script = argv[5];
        probe_start(&probe);
        scenarios[i].run();
        guest_destroy(probe.front.guest);
        return probe.wrong > 0;
    }
    fprintf(stderr, "life: wrong use: its head says how\n");
    return 100;
}
