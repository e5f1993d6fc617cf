/* quota: a daemon in a driver domain, by the domain's own ring, so that the real xenstored's quotas
 * hold for it: what does not fit fails and says why, the rest goes on, and it comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/cli/nodes.h"
#include "gateway/cli/quota.h"
#include "gateway/log.h"
#include "room.h"
#include "simring.h"

enum { DRIVER = 3, MANY = 140 };

static const char filler[] = "/local/domain/3/data";
static struct guest *driver;
static unsigned unfilled; /* nodes of the filler */

static FILE *log_taken;
static int log_before;

static void take_log(void)
{
    log_taken = tmpfile();
    assert_non_null(log_taken);
    log_before = dup(STDERR_FILENO);
    dup2(fileno(log_taken), STDERR_FILENO);
}

static unsigned log_lines(void)
{
    unsigned lines = 0;
    int c;

    dup2(log_before, STDERR_FILENO);
    close(log_before);
    rewind(log_taken);
    while ((c = fgetc(log_taken)) != EOF) {
        lines += c == '\n';
        fputc(c, stderr);
    }
    fclose(log_taken);
    log_taken = NULL;
    return lines;
}

static void start_in_driver(struct room *r)
{
    char direct[128];

    snprintf(direct, sizeof(direct), "%s", getenv("XENSTORED_PATH"));
    setenv("XENSTORED_PATH", simring_socket(driver->ring), 1);
    start(r);
    setenv("XENSTORED_PATH", direct, 1);
}

static int driver_setup(void **state)
{
    struct room *r;

    room_setup(state);
    r = *state;
    backend_stop(r->backend);
    driver = guest_create_driver(DRIVER);
    assert_non_null(driver);
    start_in_driver(r);
    return 0;
}

static int driver_teardown(void **state)
{
    struct room *r = *state;

    if (log_taken)
        (void)log_lines(); /* it failed */
    backend_stop(r->backend);
    r->backend = NULL;
    room_teardown(state);
    guest_destroy(driver);
    return 0;
}

static void plug(struct room *r, struct tool_disk *disk, uint32_t devid, const char *params)
{
    *disk = (struct tool_disk){.guest = r->guest,
                               .devid = devid,
                               .kind = "qdisk",
                               .params = params,
                               .backend_domid = DRIVER};
    assert_int_equal(tool_attach(disk), 0);
}

/* Nodes that the driver domain owns, as the command counts them. */
static unsigned owned(void)
{
    struct nodes *nodes = NULL;
    struct quota quota;

    assert_int_equal(nodes_connect(&nodes), 0);
    quota_measure(nodes, DRIVER, &quota);
    nodes_disconnect(nodes);
    return quota.nodes;
}

/* More of them than its quota. Domain 0 may. */
static void fill(struct room *r)
{
    struct xs_permissions owner = {.id = DRIVER, .perms = XS_PERM_NONE};
    xs_transaction_t t;
    char key[16];

    unfilled = 0;
    do {
        t = xs_transaction_start(r->guest->xs);
        assert_true(xs_mkdir(r->guest->xs, t, filler));
        assert_true(xs_set_permissions(r->guest->xs, t, filler, &owner, 1));
        for (unsigned i = 0; i < LIMIT_QUOTA_NODES; i++) {
            snprintf(key, sizeof(key), "%u", i);
            assert_int_equal(guest_xs_write(r->guest, t, filler, key, "x"), 0);
        }
    } while (!xs_transaction_end(r->guest->xs, t, false) && errno == EAGAIN);
}

static void unfill_one(struct room *r)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/%u", filler, unfilled++);
    assert_true(xs_rm(r->guest->xs, XBT_NULL, path));
}

static void unfill_to(struct room *r, unsigned count)
{
    for (unsigned excess = owned() - count; excess > 0; excess--)
        unfill_one(r);
    assert_int_equal(owned(), count);
}

static void without_room_for_nodes_a_disk_waits_and_says_why(void **state)
{
    struct room *r = *state;
    struct tool_disk other;
    unsigned lines;

    plug(r, &r->disk, XVDA, "root");
    connect_disk(r);
    fill(r);
    take_log();
    plug(r, &other, XVDB, "data");
    stays(r->guest, other.backend, "state", "1");
    assert_true(node_is(r->guest, other.backend, "blkgate-status", NULL)); /* not even that */
    unfill_to(r, LIMIT_QUOTA_NODES);
    /* The first node that finds room says it. */
    while (node_is(r->guest, other.backend, "blkgate-status", NULL)) {
        assert_in_range(owned(), LIMIT_QUOTA_NODES - 10, LIMIT_QUOTA_NODES);
        unfill_one(r);
        sleep_ms(LIMIT_XENSTORE_RETRY_MS + QUIET_MS);
    }
    print_message("the first at %u nodes counted\n", owned());
    wait_node(r->guest, other.backend, "blkgate-status", "failed:");
    stays(r->guest, other.backend, "state", "1");
    fe(r, "6"); /* the one that has its nodes goes on */
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
    sleep_ms(3000);
    lines = log_lines();
    assert_in_range(lines, 1, 2); /* however often it is tried */
    assert_true(xs_rm(r->guest->xs, XBT_NULL, filler));
    wait_node(r->guest, other.backend, "state", "2");
    wait_node(r->guest, other.backend, "blkgate-status", "ready");
    wait_node(r->guest, other.backend, "hotplug-status", "connected");
    be_stays(r, "4");
}

static void a_stop_without_room_for_nodes_is_clean(void **state)
{
    struct room *r = *state;

    plug(r, &r->disk, XVDA, "root");
    connect_disk(r);
    fill(r);
    backend_stop(r->backend);
    assert_int_equal(r->worker->suspends, 1);
    assert_true(node_is(r->guest, r->disk.backend, "state", "4"));
    start_in_driver(r);
    wait_count(r->worker, &r->worker->connects, 2);
    wait_b(r, "blkgate-status", "ready");
    be_stays(r, "4");
}

/* Owned by domain 0, which xl's are not, so that watches run out before nodes do. */
static void plug_lean(struct room *r, struct tool_disk *disk, uint32_t devid)
{
    struct xs_permissions perms[2] = {{.id = 0, .perms = XS_PERM_NONE},
                                      {.id = DRIVER, .perms = XS_PERM_READ | XS_PERM_WRITE}};
    const char *const nodes[][2] = {
        {"frontend", disk->frontend},
        {"frontend-id", "5"},
        {"params", "cd"},
        {"online", "1"},
        {"state", "1"},
    };
    xs_transaction_t t;

    snprintf(disk->backend, sizeof(disk->backend), "/local/domain/3/backend/qdisk/5/%u", devid);
    snprintf(disk->frontend, sizeof(disk->frontend), "/local/domain/5/device/vbd/%u", devid);
    disk->guest = r->guest;
    do {
        t = xs_transaction_start(r->guest->xs);
        xs_mkdir(r->guest->xs, t, disk->frontend);
        xs_set_permissions(r->guest->xs, t, disk->frontend, perms, 2);
        guest_xs_write(r->guest, t, disk->frontend, "state", "1");
        xs_mkdir(r->guest->xs, t, disk->backend);
        xs_set_permissions(r->guest->xs, t, disk->backend, perms, 2);
        for (unsigned i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
            guest_xs_write(r->guest, t, disk->backend, nodes[i][0], "%s", nodes[i][1]);
    } while (!xs_transaction_end(r->guest->xs, t, false) && errno == EAGAIN);
}

static unsigned count_of(struct room *r, const struct tool_disk *disks, const char *status)
{
    unsigned count = 0;

    for (unsigned i = 0; i < MANY; i++)
        count += node_is(r->guest, disks[i].backend, "blkgate-status", status);
    return count;
}

static void without_room_for_watches_some_wait_and_others_go_on(void **state)
{
    static struct tool_disk disks[MANY];
    struct room *r = *state;
    unsigned ready = 0, failed = 0, lines, i;
    int64_t end;

    take_log();
    for (i = 0; i < MANY; i++)
        plug_lean(r, &disks[i], 51712 + 16 * i);
    for (end = guest_clock_ms() + 4 * WAIT_MS; ready + failed < MANY; sleep_ms(50)) {
        assert_true(guest_clock_ms() < end);
        ready = count_of(r, disks, "ready");
        failed = count_of(r, disks, "failed:");
    }
    print_message("%u disks ready, %u without a watch\n", ready, failed);
    assert_in_range(ready, 96, 125); /* with oxenstored 100 watches or so, with xenstored 128 */
    sleep_ms(3000);
    lines = log_lines();
    assert_in_range(lines, failed, failed + 2);

    for (i = 0; !node_is(r->guest, disks[i].backend, "blkgate-status", "ready"); i++)
        ;
    r->disk = disks[i];
    fe_rings(r, "8", "3", "3");
    wait_be(r, "4");
    tool_remove(&r->disk);
    for (end = guest_clock_ms() + WAIT_MS; count_of(r, disks, "failed:") != failed - 1;
         sleep_ms(50))
        assert_true(guest_clock_ms() < end);
    assert_int_equal(count_of(r, disks, "ready"), ready);
}

/* What blkgate prints, run in the driver domain. */
static void command_says(const char *arguments, const char *text, bool does)
{
    char command[256], out[4096];
    size_t length;
    FILE *pipe;

    snprintf(command, sizeof(command), "XENSTORED_PATH=%s $SIM_LIB/../../blkgate %s 2>&1",
             simring_socket(driver->ring), arguments);
    pipe = popen(command, "r"); /* NOLINT */
    assert_non_null(pipe);
    length = fread(out, 1, sizeof(out) - 1, pipe);
    out[length] = '\0';
    assert_int_equal(pclose(pipe), 0);
    if ((strstr(out, text) != NULL) != does)
        fail_msg("blkgate %s: \"%s\" is%s in %s", arguments, text, does ? " not" : "", out);
}

static void the_command_says_when_the_quota_is_near(void **state)
{
    struct room *r = *state;
    char text[64];

    plug(r, &r->disk, XVDA, "root");
    connect_disk(r);
    backend_stop(r->backend); /* the ring has one client at a time */
    r->backend = NULL;
    command_says("list", "Connected", true);
    command_says("list", "nearly full", false);
    snprintf(text, sizeof(text), "nodes   %5u  1000\nwatches     5   100\n", owned());
    command_says("quota", text, true);
    command_says("quota --json", "{\"domid\": 3, \"disks\": 1, \"nodes\": ", true);
    command_says("quota --json", "\"watches\": 5, \"watches_quota\": 100, \"near\": false}", true);
    fill(r);
    unfill_to(r, LIMIT_QUOTA_NODES * LIMIT_QUOTA_NEAR_PERCENT / 100);
    command_says("list", "nearly full for this domain: 800 of 1000 nodes", true);
    command_says("quota --json", "\"near\": true}", true);
    unfill_one(r);
    command_says("list", "nearly full", false);
}

#define DRIVER_TEST(name) cmocka_unit_test_setup_teardown(name, driver_setup, driver_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        DRIVER_TEST(without_room_for_nodes_a_disk_waits_and_says_why),
        DRIVER_TEST(a_stop_without_room_for_nodes_is_clean),
        DRIVER_TEST(without_room_for_watches_some_wait_and_others_go_on),
        DRIVER_TEST(the_command_says_when_the_quota_is_near),
    };

    room_begin(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
