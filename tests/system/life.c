/* life: what a frontend or a toolstack may do to a disk, one scenario a run.
 *
 *      life SCENARIO DISK DOMID [KIND [SCRIPT]]
 *
 * Scenarios:
 *      many        attached and detached 60 times
 *      wait        connected; says "ready" and waits for a line; works yet, and is detached
 *      held        the same, but what the daemon had kept of it is damaged when it comes back: not
 *                  touched until it is closed, and then it works again
 *      bereft      the same, but the daemon was stopped, and the server went while it was away:
 *                  state 4 and no answer; says "alone", waits for a line; all is answered
 *      abandoned   connected, with writes and no flush; says "ready", waits for a line; closes;
 *                  says "closed", waits for a line, for state 6, and is detached
 *      gate-fails  the script is told why, and the frontend sees nothing; prints what it is told
 *      force       destroyed with requests in flight
 *
 * Exit 0 only if all that is said here held, and nothing stays mapped.
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

static void line_wait(const char *say)
{
    printf("%s\n", say);
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
    line_wait("ready");
    probe_io(&probe, true);
    finish();
}

static void held(void)
{
    struct front_response rsp;

    attach();
    connect_and_use();
    line_wait("ready");
    status_wait("held: ");
    reads_push(1);
    state_stays(STATE_CONNECTED);
    expect(&probe, front_poll(&probe.front, &rsp) == 0, "a held disk answers");
    probe_close(&probe);
    reopen();
    finish();
}

static bool answer_wait(struct front_response *ret)
{
    int64_t end_ms = guest_clock_ms() + STATE_MS;
    int got;

    while ((got = front_poll(&probe.front, ret)) == 0 && guest_clock_ms() < end_ms)
        guest_wait(probe.front.guest, 20);
    return got > 0;
}

static void bereft(void)
{
    struct front_response rsp;

    attach();
    connect_and_use();
    line_wait("ready");
    reads_push(1);
    state_stays(STATE_CONNECTED);
    expect(&probe, front_poll(&probe.front, &rsp) == 0, "a disk without a server answers");
    line_wait("alone");
    expect(&probe, answer_wait(&rsp) && rsp.status == RSP_OKAY, "the read was not answered OKAY");
    probe_io(&probe, true);
    probe_flush(&probe);
    finish();
}

static void abandoned(void)
{
    attach();
    expect(&probe, front_connect(&probe.front) == 0, "not connected");
    probe_io(&probe, true);
    line_wait("ready");
    front_state_set(&probe.front, STATE_CLOSED);
    line_wait("closed");
    state_wait(STATE_CLOSED);
    expect(&probe, front_ring_free(&probe.front) == 0, "the ring is still mapped");
    probe_detach(&probe);
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
    {"many", many},           {"wait", wait_for_line},    {"held", held},   {"bereft", bereft},
    {"abandoned", abandoned}, {"gate-fails", gate_fails}, {"force", force},
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
