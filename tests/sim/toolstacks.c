/* toolstacks: xenopsd (XAPI's), which knows a disk by its hotplug-status and shutdown-done; and
 * pygrub, for which libxl attaches the disk to domain 0 itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "room.h"

/* -- xenopsd ------------------------------------------------------------------------------- */

/* As ocaml/xenopsd/xc/device.ml adds a vbd: no script in B, whichever kind. */
static void xenopsd_add(struct room *r, const char *kind, const char *params)
{
    static const char private[] = "/xapi/uuid/private/vbd/51712";
    struct tool_disk *disk = &r->disk;
    xs_transaction_t t;

    *disk = (struct tool_disk){.guest = r->guest, .devid = XVDA, .kind = kind, .params = params};
    snprintf(disk->backend, sizeof(disk->backend), "/local/domain/0/backend/%s/5/51712", kind);
    snprintf(disk->frontend, sizeof(disk->frontend), "/local/domain/5/device/vbd/51712");
    do {
        t = xs_transaction_start(r->guest->xs);
        xs_rm(r->guest->xs, t, disk->frontend);
        xs_rm(r->guest->xs, t, disk->backend);
        guest_xs_write(r->guest, t, disk->frontend, "backend", "%s", disk->backend);
        guest_xs_write(r->guest, t, disk->frontend, "backend-id", "0");
        guest_xs_write(r->guest, t, disk->frontend, "state", "1");
        guest_xs_write(r->guest, t, disk->frontend, "virtual-device", "51712");
        guest_xs_write(r->guest, t, disk->frontend, "device-type", "disk");
        guest_xs_write(r->guest, t, disk->backend, "frontend", "%s", disk->frontend);
        guest_xs_write(r->guest, t, disk->backend, "frontend-id", "5");
        guest_xs_write(r->guest, t, disk->backend, "online", "1");
        guest_xs_write(r->guest, t, disk->backend, "removable", "0");
        guest_xs_write(r->guest, t, disk->backend, "state", "1");
        guest_xs_write(r->guest, t, disk->backend, "dev", "xvda");
        guest_xs_write(r->guest, t, disk->backend, "type", "phy");
        guest_xs_write(r->guest, t, disk->backend, "mode", "w");
        guest_xs_write(r->guest, t, disk->backend, "params", "%s", params);
        guest_xs_write(r->guest, t, private, "backend-kind", "%s", kind);
    } while (!xs_transaction_end(r->guest->xs, t, false));
}

/* Hotplug.wait_for_plug, up to 300 s there: a status or an error, and an error counts. */
static void xenopsd_waits_for_plug(struct room *r, const char *error)
{
    int64_t end = guest_clock_ms() + WAIT_MS;

    while (node_is(r->guest, r->disk.backend, "hotplug-status", NULL) &&
           node_is(r->guest, r->disk.backend, "hotplug-error", NULL)) {
        assert_true(guest_clock_ms() < end);
        sleep_ms(2);
    }
    assert_true(node_is(r->guest, r->disk.backend, "hotplug-error", error));
}

/* Generic.clean_shutdown_async. */
static void xenopsd_unplugs(struct room *r)
{
    assert_int_equal(tool_unplug(&r->disk), 0);
}

static void xenopsd_requests(struct room *r, const char *how)
{
    if (strcmp(how, "normal") == 0)
        put(r, r->disk.backend, "online", "0");
    put(r, r->disk.backend, "shutdown-request", how);
}

static void without_a_script_the_vbd_says_connected(void **state)
{
    struct room *r = *state;
    static const char *const kinds[] = {"vbd", "vbd3", "qdisk"};

    for (unsigned i = 0; i < 3; i++) {
        TELL(r->worker, r->worker->hold_open = true);
        xenopsd_add(r, kinds[i], "root");
        wait_b(r, "blkgate-status", "opening");
        stays(r->guest, r->disk.backend, "hotplug-status", NULL);
        TELL(r->worker, r->worker->hold_open = false);
        xenopsd_waits_for_plug(r, NULL);
        assert_true(node_is(r->guest, r->disk.backend, "hotplug-status", "connected"));
        connect_disk(r);
        fe(r, "5");
        fe(r, "6"); /* the guest alone, a reboot perhaps: it stays plugged */
        wait_be(r, "6");
        stays(r->guest, r->disk.backend, "hotplug-status", "connected");
        fe(r, "1");
        connect_disk(r);
        xenopsd_unplugs(r);
        be_stays(r, "5");
        fe(r, "5");
        fe(r, "6");
        wait_b(r, "hotplug-status", NULL);
        assert_true(node_is(r->guest, r->disk.backend, "state", "6"));
        tool_remove(&r->disk);
        wait_count(r->worker, &r->worker->ends, i + 1);
    }
}

static void without_a_script_the_vbd_says_why_not(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->open_fails = true);
    xenopsd_add(r, "vbd3", "root");
    xenopsd_waits_for_plug(r, "Connection refused");
    wait_b(r, "hotplug-status", "error");
    TELL(r->worker, r->worker->open_fails = false);
    wait_be(r, "5");
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1"); /* the guest tries again */
    connect_disk(r);
    wait_b(r, "hotplug-status", "connected");
    wait_b(r, "hotplug-error", NULL);
    TELL(r->worker, r->worker->lose = true); /* which is no word about the attaching any more */
    wait_be(r, "5");
    wait_b(r, "blkgate-status", "failed:");
    stays(r->guest, r->disk.backend, "hotplug-status", "connected");
    assert_true(node_is(r->guest, r->disk.backend, "hotplug-error", NULL));
}

/* It runs one of its own by default, which says "connected" whatever we say. */
static void what_another_script_said_stays(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->hold_open = true);
    xenopsd_add(r, "qdisk", "root");
    wait_b(r, "blkgate-status", "opening");
    tool_hotplug_done(&r->disk);
    TELL(r->worker, r->worker->hold_open = false; r->worker->open_fails = true);
    wait_be(r, "5");
    stays(r->guest, r->disk.backend, "hotplug-status", "connected");
    assert_true(node_is(r->guest, r->disk.backend, "hotplug-error", NULL));
}

/* With a script in B the word is the script's alone, the last one too. */
static void a_script_is_not_spoken_for(void **state)
{
    struct room *r = *state;

    attach(r, "vbd3", "root", "/etc/xen/scripts/block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    stays(r->guest, r->disk.backend, "hotplug-status", NULL);
    tool_hotplug_done(&r->disk);
    connect_disk(r);
    tool_destroy(&r->disk);
    wait_be(r, "6");
    stays(r->guest, r->disk.backend, "hotplug-status", "connected");
    tool_remove(&r->disk);
    TELL(r->worker, r->worker->open_fails = true);
    attach(r, "vbd3", "root", "/etc/xen/scripts/block-blkgate");
    wait_b(r, "blkgate-status", "failed:");
    stays(r->guest, r->disk.backend, "hotplug-error", NULL);
    assert_true(node_is(r->guest, r->disk.backend, "hotplug-status", NULL));
}

/* Generic.hard_shutdown: online = 0 and no frontend, but no state 5; it waits for 6, or for
 * hotplug-status to go. */
static void a_hard_shutdown_needs_no_state_5(void **state)
{
    struct room *r = *state;

    for (unsigned connected = 0; connected < 3; connected++) {
        TELL(r->worker, r->worker->hold_open = connected == 2);
        xenopsd_add(r, "vbd3", "root");
        if (connected == 1)
            connect_disk(r);
        else
            wait_b(r, "blkgate-status", connected == 2 ? "opening" : "ready");
        put(r, r->disk.backend, "online", "0");
        assert_true(xs_rm(r->guest->xs, XBT_NULL, r->disk.frontend));
        TELL(r->worker, r->worker->hold_open = false);
        wait_be(r, "6");
        wait_b(r, "hotplug-status", NULL);
        tool_remove(&r->disk);
        wait_count(r->worker, &r->worker->ends, connected + 1);
    }
}

/* Vbd_Common.shutdown_request_clean_shutdown_wait. */
static void shutdown_done_comes_after_the_flush(void **state)
{
    struct room *r = *state;

    xenopsd_add(r, "vbd3", "root");
    connect_disk(r);
    xenopsd_requests(r, "normal");
    wait_be(r, "5");
    be_stays(r, "5"); /* the guest is asked, and has time */
    assert_int_equal(ask(r->worker, &r->worker->closes), 0);
    TELL(r->worker, r->worker->hold_close = true);
    fe(r, "6");
    stays(r->guest, r->disk.backend, "shutdown-done", NULL);
    TELL(r->worker, r->worker->hold_close = false);
    wait_b(r, "shutdown-done", "1");
    assert_true(node_is(r->guest, r->disk.backend, "state", "6"));
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
    wait_b(r, "hotplug-status", NULL);
    fe(r, "1"); /* too late */
    be_stays(r, "6");
    tool_remove(&r->disk);
    wait_count(r->worker, &r->worker->ends, 1);
}

static void a_forced_shutdown_asks_no_guest(void **state)
{
    struct room *r = *state;

    xenopsd_add(r, "qdisk", "root");
    connect_disk(r);
    xenopsd_requests(r, "force"); /* online stays 1, as xenopsd leaves it */
    wait_b(r, "shutdown-done", "1");
    assert_true(node_is(r->guest, r->disk.backend, "state", "6"));
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
    fe(r, "1");
    be_stays(r, "6");
}

static void a_request_finds_what_never_came_and_what_is_closed(void **state)
{
    struct room *r = *state;

    xenopsd_add(r, "qdisk", "root");
    wait_be(r, "2");
    xenopsd_requests(r, "normal");
    wait_b(r, "shutdown-done", "1");
    assert_true(node_is(r->guest, r->disk.backend, "state", "6"));
    xenopsd_add(r, "qdisk", "root"); /* anew, under the same path */
    connect_disk(r);
    fe(r, "6");
    wait_be(r, "6");
    stays(r->guest, r->disk.backend, "shutdown-done", NULL);
    put(r, r->disk.backend, "shutdown-request", "normal"); /* that alone will do */
    wait_b(r, "shutdown-done", "1");
    fe(r, "1");
    be_stays(r, "6");
}

/* A guest at work is served on till it closes, by the daemon that finds the request. */
static void a_request_of_the_time_between_is_taken_up(void **state)
{
    struct room *r = *state;

    xenopsd_add(r, "qdisk", "root");
    connect_disk(r);
    backend_stop(r->backend);
    xenopsd_requests(r, "normal");
    start(r);
    wait_be(r, "5");
    wait_count(r->worker, &r->worker->connects, 2);
    stays(r->guest, r->disk.backend, "shutdown-done", NULL);
    fe(r, "6");
    wait_b(r, "shutdown-done", "1");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
    assert_int_equal(ask(r->worker, &r->worker->suspends), 1);
}

/* In a driver domain we remove B ourselves, but not from under who waits for an answer in it. */
static void who_asked_removes_the_nodes(void **state)
{
    static struct config driver; /* the teardown's, too */
    struct room *r = *state;
    static const char *const nodes[][2] = {
        {"frontend", "/local/domain/5/device/vbd/51712"},
        {"frontend-id", "5"},
        {"params", "root"},
        {"mode", "w"},
        {"online", "1"},
        {"state", "1"},
    };

    driver = room_config;
    driver.domid = 3;
    backend_stop(r->backend);
    assert_int_equal(backend_start(&driver, &r->worker, 1, &r->backend), 0);
    r->disk = (struct tool_disk){.guest = r->guest,
                                 .backend = "/local/domain/3/backend/qdisk/5/51712",
                                 .frontend = "/local/domain/5/device/vbd/51712"};
    fe(r, "1");
    for (unsigned i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
        put(r, r->disk.backend, nodes[i][0], nodes[i][1]);
    connect_disk(r);
    xenopsd_requests(r, "normal");
    wait_be(r, "5");
    fe(r, "6");
    wait_b(r, "shutdown-done", "1");
    sleep_ms(LIMIT_XENSTORE_RETRY_MS);
    be_stays(r, "6");
}

/* -- pygrub -------------------------------------------------------------------------------- */

/* libxl__device_disk_local_initiate_attach: the guest's disk, by its script, for domain 0; and only
 * when that is gone again the guest's own. */
static void pygrub_reads_the_disk_in_domain_0_before_the_guest(void **state)
{
    struct room *r = *state;
    struct guest zero = {.xs = r->guest->xs, .domid = 0};
    struct tool_disk local = {.guest = &zero,
                              .devid = XVDA,
                              .kind = "vbd",
                              .params = "root",
                              .script = "/etc/xen/scripts/block-blkgate"};

    assert_int_equal(tool_attach(&local), 0);
    wait_node(r->guest, local.backend, "blkgate-status", "ready");
    put(r, local.backend, "state", "2"); /* xen-blkback */
    r->disk = local;
    tool_hotplug_done(&r->disk);
    connect_disk(r);
    assert_true(opened(r->worker, "0/xvda (root)"));

    attach(r, "vbd", "root", "block-blkgate"); /* too early (hazard M4) */
    wait_b(r, "blkgate-status",
           "failed: its export is attached writable already, as 0/xvda (root) (detach that one, or "
           "attach read-only, or configure shared = yes)");
    stays(r->guest, local.backend, "state", "4");
    assert_int_equal(ask(r->worker, &r->worker->opens), 1);
    tool_remove(&r->disk);

    r->disk = local;
    tool_unplug(&r->disk);
    be_stays(r, "5");
    fe(r, "5");
    fe(r, "6");
    wait_be(r, "6");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
    tool_remove(&r->disk);
    wait_count(r->worker, &r->worker->ends, 1);
    assert_true(node_is(r->guest, "/local/domain/0/backend/vbd/0", "51712", NULL));

    attach(r, "vbd", "root", "block-blkgate");
    put(r, r->disk.backend, "state", "2");
    tool_hotplug_done(&r->disk);
    connect_disk(r);
    assert_true(opened(r->worker, "5/xvda (root)"));
}

/* Domain 0 is never dead, whatever xenstored says of domains, and its F is beside our B. */
static void a_disk_of_domain_0_outlives_other_domains(void **state)
{
    struct room *r = *state;
    struct guest zero = {.xs = r->guest->xs, .domid = 0};

    r->disk = (struct tool_disk){.guest = &zero, .devid = XVDA, .kind = "qdisk", .params = "root"};
    assert_int_equal(tool_attach(&r->disk), 0);
    connect_disk(r);
    guest_destroy(guest_create(6, 16)); /* @releaseDomain */
    be_stays(r, "4");
    backend_stop(r->backend);
    start(r);
    wait_count(r->worker, &r->worker->connects, 2);
    be_stays(r, "4");
    tool_destroy(&r->disk);
    wait_be(r, "6");
    tool_remove(&r->disk);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(without_a_script_the_vbd_says_connected),
        TEST(without_a_script_the_vbd_says_why_not),
        TEST(what_another_script_said_stays),
        TEST(a_script_is_not_spoken_for),
        TEST(a_hard_shutdown_needs_no_state_5),
        TEST(shutdown_done_comes_after_the_flush),
        TEST(a_forced_shutdown_asks_no_guest),
        TEST(a_request_finds_what_never_came_and_what_is_closed),
        TEST(a_request_of_the_time_between_is_taken_up),
        TEST(who_asked_removes_the_nodes),
        TEST(pygrub_reads_the_disk_in_domain_0_before_the_guest),
        TEST(a_disk_of_domain_0_outlives_other_domains),
    };

    room_begin(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
