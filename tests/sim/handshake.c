/* handshake: a vbd's first connect, its troubles, its end and its next beginning. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "room.h"

/* -- connecting ---------------------------------------------------------------------------- */

static void connects(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    wait_b(r, "blkgate-status", "ready");
    wait_b(r, "max-ring-page-order", "0");
    wait_b(r, "multi-queue-max-queues", "1");
    wait_b(r, "feature-max-indirect-segments", "64");
    be_stays(r, "2");
    fe_rings(r, "8", "3", "3");
    wait_be(r, "4");
    wait_b(r, "sectors", "8192");
    wait_b(r, "sector-size", "512");
    wait_b(r, "physical-sector-size", "4096");
    wait_b(r, "info", "0");
    wait_b(r, "feature-flush-cache", "1");
    wait_b(r, "feature-barrier", "0");
    wait_b(r, "feature-persistent", "0");
    wait_b(r, "feature-discard", "0");
    wait_b(r, "discard-secure", "0");
    wait_b(r, "feature-max-indirect-segments", "64");
    assert_int_equal(r->worker->connect.indirect_segments, 64);
    assert_int_equal(r->worker->connect.abi, BLKIF_ABI_X86_64);
    assert_int_equal(r->worker->connect.queue_count, 1);
    assert_int_equal(r->worker->connect.queue[0].page_count, 1);
    assert_int_equal(r->worker->connect.queue[0].refs[0], 8);
    assert_int_equal(r->worker->connect.queue[0].event_channel, 3);
    fe(r, "4");
    be_stays(r, "4");
    assert_int_equal(ask(r->worker, &r->worker->connects), 1);
}

static void connects_ovmf_that_waits_for_nothing(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->hold_open = true);
    attach(r, "vbd3", "cd", NULL);
    fe_rings(r, "8", "3", "4");
    wait_b(r, "blkgate-status", "opening");
    be_stays(r, "1");
    TELL(r->worker, r->worker->hold_open = false);
    wait_be(r, "4");
    wait_b(r, "info", "4");
}

/* Rings of 8, 9 .. and ports of 3, 4 .., in one transaction as blkfront writes them. */
static void ask_for(struct room *r, unsigned queues, unsigned order)
{
    xs_transaction_t t;

    do {
        t = xs_transaction_start(r->guest->xs);
        guest_xs_write(r->guest, t, r->disk.frontend, "multi-queue-num-queues", "%u", queues);
        guest_xs_write(r->guest, t, r->disk.frontend, "ring-page-order", "%u", order);
        for (unsigned ring = 0, ref = 8; ring < queues; ring++) {
            char dir[160], key[24];

            snprintf(dir, sizeof(dir), queues > 1 ? "%s/queue-%u" : "%s", r->disk.frontend, ring);
            for (unsigned page = 0; page < 1u << order; page++) {
                snprintf(key, sizeof(key), "ring-ref%u", page);
                guest_xs_write(r->guest, t, dir, key, "%u", ref++);
            }
            guest_xs_write(r->guest, t, dir, "event-channel", "%u", 3 + ring);
        }
        guest_xs_write(r->guest, t, r->disk.frontend, "protocol", "x86_32-abi");
        guest_xs_write(r->guest, t, r->disk.frontend, "state", "3");
    } while (!xs_transaction_end(r->guest->xs, t, false));
}

static void start_offering(struct room *r, unsigned queues, unsigned order, unsigned segments)
{
    static struct config more;

    backend_stop(r->backend); /* which reads it */
    more = room_config;
    more.queues = queues;
    more.ring_page_order = order;
    more.indirect_segments = segments;
    assert_int_equal(backend_start(&more, &r->worker, 1, &r->backend), 0);
}

static void connects_as_many_queues_and_pages_as_are_offered(void **state)
{
    struct room *r = *state;

    start_offering(r, 2, 1, 64);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    ask_for(r, 2, 1);
    wait_be(r, "4");
    assert_int_equal(r->worker->connect.abi, BLKIF_ABI_X86_32);
    assert_int_equal(r->worker->connect.queue_count, 2);
    assert_int_equal(r->worker->connect.queue[1].page_count, 2);
    assert_int_equal(r->worker->connect.queue[1].refs[1], 11);
    assert_int_equal(r->worker->connect.queue[1].event_channel, 4);
}

static void more_than_was_offered_is_refused_and_may_be_mended(void **state)
{
    struct room *r = *state;
    static const char error[] = "/local/domain/0/error/backend/qdisk/5/51712";

    start_offering(r, 2, 1, 64);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    ask_for(r, 3, 0);
    wait_be(r, "5");
    wait_b(r, "blkgate-status",
           "failed: the frontend's multi-queue-num-queues is 3, and 2 were offered");
    wait_node(r->guest, error, "error",
              "5 the frontend's multi-queue-num-queues is 3, and 2 were offered");
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    wait_be(r, "2");
    ask_for(r, 2, 2);
    wait_be(r, "5");
    wait_node(r->guest, error, "error", "5 the frontend's ring-page-order is 2, and 1 was offered");
    assert_int_equal(ask(r->worker, &r->worker->connects), 0);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    wait_be(r, "2");
    ask_for(r, 2, 1);
    wait_be(r, "4");
    wait_node(r->guest, error, "error", NULL);
}

/* Taken up again by a daemon whose configuration allows less: the guest was told more. */
static void what_a_guest_was_told_outlives_the_configuration(void **state)
{
    struct room *r = *state;

    start_offering(r, 2, 1, 256);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    ask_for(r, 2, 1);
    wait_be(r, "4");
    start_offering(r, 1, 0, 0);
    wait_count(r->worker, &r->worker->connects, 2);
    be_stays(r, "4");
    assert_int_equal(r->worker->connect.indirect_segments, 256);
    assert_int_equal(r->worker->connect.queue_count, 2);
    assert_int_equal(r->worker->connect.queue[1].page_count, 2);
    wait_b(r, "feature-max-indirect-segments", "256");
    start_offering(r, 4, 4, 256);
    wait_count(r->worker, &r->worker->connects, 3);
    be_stays(r, "4");
    wait_b(r, "multi-queue-max-queues", "2");
    start_offering(r, 1, 0, 0);
    wait_count(r->worker, &r->worker->connects, 4);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1"); /* from its next connection on it is the configuration's word */
    wait_be(r, "2");
    wait_b(r, "multi-queue-max-queues", "1");
    wait_b(r, "feature-max-indirect-segments", "0");
    ask_for(r, 2, 1);
    wait_be(r, "5");
}

/* blkfront never removes these; and what is offered nobody could rightly exceed. */
static void stale_nodes_of_an_earlier_kernel_do_not_count(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    put(r, r->disk.frontend, "multi-queue-num-queues", "4");
    put(r, r->disk.frontend, "ring-page-order", "2");
    connect_disk(r);
    assert_int_equal(r->worker->connect.queue_count, 1);
    assert_int_equal(r->worker->connect.queue[0].page_count, 1);
    start_offering(r, 2, 1, 64); /* less than then, and more than one */
    wait_count(r->worker, &r->worker->connects, 2);
    assert_int_equal(r->worker->connect.queue_count, 1);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
    assert_int_equal(r->worker->connect.queue_count, 1);
    assert_int_equal(r->worker->connect.queue[0].page_count, 1);
}

static void found_at_start_like_later(void **state)
{
    struct room *r = *state;

    backend_stop(r->backend);
    attach(r, "qdisk", "root", NULL);
    start(r);
    connect_disk(r);
}

/* -- ownership and scripts ----------------------------------------------------------------- */

static void what_is_not_ours_is_left_alone(void **state)
{
    struct room *r = *state;
    static const struct {
        const char *kind, *params, *script;
    } others[] = {
        {"vbd", "root", "/etc/xen/scripts/block"},
        {"vbd", "/dev/vg/root", NULL},
        {"qdisk", "/images/root.img", NULL},
        {"qdisk", "nbd://h/root", NULL},
        {"vbd3", "rootx", NULL},
        {"vbd3", "", NULL},
    };

    for (unsigned i = 0; i < sizeof(others) / sizeof(*others); i++) {
        attach(r, others[i].kind, others[i].params, others[i].script);
        fe_rings(r, "8", "3", "3");
        stays(r->guest, r->disk.backend, "state", "1");
        assert_true(node_is(r->guest, r->disk.backend, "blkgate-status", NULL));
        tool_unplug(&r->disk);
        stays(r->guest, r->disk.backend, "state", "5");
        tool_remove(&r->disk);
    }
    assert_int_equal(ask(r->worker, &r->worker->opens), 0);
}

static void junk_beside_our_nodes_is_ignored(void **state)
{
    struct room *r = *state;
    static const char *const junk[] = {
        "/local/domain/0/backend/qdisk/x/51712/state",
        "/local/domain/0/backend/qdisk/5/junk/state",
        "/local/domain/0/backend/qdisk/5/51712x/state",
        "/local/domain/0/backend/qdisk/99999/51712/state",
        "/local/domain/0/backend/qdisk/5/51712/state/deeper",
        "/local/domain/0/backend/qdisk/5/51744/frontend",
        "/local/domain/5/device/vbd/51712/state/deeper/still",
    };

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    for (unsigned i = 0; i < sizeof(junk) / sizeof(*junk); i++)
        assert_true(xs_write(r->guest->xs, XBT_NULL, junk[i], "1", 1));
    be_stays(r, "4");
}

static void a_script_opens_the_gate(void **state)
{
    struct room *r = *state;

    attach(r, "vbd", "root", "/etc/xen/scripts/block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    be_stays(r, "1");
    put(r, r->disk.backend, "max-ring-page-order", "4"); /* xen-blkback */
    put(r, r->disk.backend, "multi-queue-max-queues", "2");
    put(r, r->disk.backend, "state", "2");
    wait_b(r, "feature-max-indirect-segments",
           "64"); /* ours, before the guest begins, and no less */
    wait_b(r, "max-ring-page-order", "4");
    wait_b(r, "multi-queue-max-queues", "2");
    fe_rings(r, "8", "3", "3");
    be_stays(r, "2");
    tool_hotplug_done(&r->disk);
    wait_be(r, "4");
}

/* Where the export is, libxl's QEMU may know and the guest may not; a QEMU could write to what our
 * configuration calls read-only. */
static void a_script_finds_the_export(void **state)
{
    struct room *r = *state;
    char path[256];
    struct xs_permissions *permissions;
    unsigned count = 0;

    attach(r, "vbd", "root", "block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    assert_true(node_is(r->guest, r->disk.backend, "blkgate-uri", "nbd://h/root"));
    snprintf(path, sizeof(path), "%s/blkgate-uri", r->disk.backend);
    permissions = xs_get_permissions(r->guest->xs, XBT_NULL, path, &count);
    assert_non_null(permissions);
    assert_int_equal(count, 1);
    assert_int_equal(permissions[0].id, 0);
    assert_int_equal(permissions[0].perms, XS_PERM_NONE);
    free(permissions);
    tool_remove(&r->disk);

    attach(r, "vbd", "cd", "block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    assert_true(node_is(r->guest, r->disk.backend, "blkgate-uri", NULL));
    tool_remove(&r->disk);

    attach(r, "qdisk", "root", NULL);
    wait_b(r, "blkgate-status", "ready");
    assert_true(node_is(r->guest, r->disk.backend, "blkgate-uri", NULL));
}

/* A guest that runs may have read xen-blkback's limits: those are served, whatever the
 * configuration says (hazard H8c). */
static void what_xen_blkback_offered_is_served(void **state)
{
    struct room *r = *state;

    attach(r, "vbd", "root", "block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    put(r, r->disk.backend, "max-ring-page-order", "1");
    put(r, r->disk.backend, "multi-queue-max-queues", "99"); /* of which we serve 16 */
    put(r, r->disk.backend, "feature-max-indirect-segments", "256");
    put(r, r->disk.backend, "state", "2");
    wait_b(r, "multi-queue-max-queues", "16");
    wait_b(r, "max-ring-page-order", "1");
    ask_for(r, 2, 1);
    be_stays(r, "2");
    tool_hotplug_done(&r->disk);
    wait_be(r, "4");
    assert_int_equal(r->worker->connect.queue_count, 2);
    assert_int_equal(r->worker->connect.queue[1].page_count, 2);
    assert_int_equal(r->worker->connect.indirect_segments, 256);
    wait_b(r, "feature-max-indirect-segments", "256");
    /* Once: they are not written under a guest that uses them. */
    put(r, r->disk.backend, "max-ring-page-order", "4");
    be_stays(r, "4");
    wait_b(r, "max-ring-page-order", "4");
}

/* A frontend that was connected by xen-blkback's limits before the script was done. */
static void what_nobody_offered_is_one_ring_of_one_page(void **state)
{
    struct room *r = *state;

    attach(r, "vbd", "root", "block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    fe_rings(r, "8", "3", "3");
    put(r, r->disk.backend, "state", "2");
    tool_hotplug_done(&r->disk);
    wait_be(r, "4");
    assert_int_equal(r->worker->connect.indirect_segments, 0);
    wait_b(r, "feature-max-indirect-segments", "0");
}

static void without_blkback_state_2_is_ours_after_a_while(void **state)
{
    struct room *r = *state;
    int64_t begin = guest_clock_ms();

    attach(r, "vbd", "root", "block-blkgate");
    wait_be(r, "2");
    assert_in_range(guest_clock_ms() - begin, LIMIT_UNCLAIMED_MS - 100, 9000);
}

static void the_script_hears_of_an_unknown_disk(void **state)
{
    struct room *r = *state;

    attach(r, "vbd", "nosuch", "/x/block-blkgate");
    wait_b(r, "blkgate-status", "failed:");
    be_stays(r, "1");
    wait_be(r, "2"); /* so that libxl runs the script at all */
    be_stays(r, "2");
    tool_unplug(&r->disk);
    wait_be(r, "6");
}

static void the_script_hears_of_an_unreachable_server(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->open_fails = true);
    attach(r, "vbd", "root", "block-blkgate");
    put(r, r->disk.backend, "state", "2");
    wait_b(r, "blkgate-status", "failed: Connection refused");
    be_stays(r, "2");
    assert_int_equal(ask(r->worker, &r->worker->opens), 1);
    tool_hotplug_done(&r->disk); /* handed over in spite of it */
    wait_be(r, "5");
}

/* -- trouble ------------------------------------------------------------------------------- */

static void without_a_script_an_unreachable_server_is_state_5(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->open_fails = true);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "5");
    wait_b(r, "blkgate-status", "failed: Connection refused");
    wait_node(r->guest, "/local/domain/0/error/backend/qdisk/5/51712", "error",
              "5 Connection refused");
    be_stays(r, "5");
    fe(r, "6");
    wait_be(r, "6");
    TELL(r->worker, r->worker->open_fails = false);
    fe(r, "1");
    connect_disk(r);
    wait_node(r->guest, "/local/domain/0/error/backend/qdisk/5/51712", "error", NULL);
}

static void bad_nodes_are_refused_and_may_be_mended(void **state)
{
    struct room *r = *state;
    static const char *const bad[][2] = {
        {"", "3"},
        {"8", ""},
        {"0", "3"},
        {"8", "0"},
        {"x", "3"},
        {" 8", "3"},
        {"8 ", "3"},
        {"+8", "3"},
        {"4294967296", "3"},
        {"8", "-1"},
        {"99999999999999999999999999", "3"},
    };

    attach(r, "qdisk", "root", NULL);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        wait_be(r, "2");
        fe_rings(r, bad[i][0], bad[i][1], "3");
        wait_be(r, "5");
        wait_b(r, "blkgate-status", "failed:");
        fe(r, "6");
        wait_be(r, "6");
        fe(r, "1");
    }
    assert_int_equal(ask(r->worker, &r->worker->connects), 0);
    connect_disk(r);
}

static void doubles_and_excess_are_refused(void **state)
{
    struct room *r = *state;
    static const char *const bad[][2] = {
        {"queue-1/ring-ref", "8"},
        {"queue-1/event-channel", "3"},
        {"multi-queue-num-queues", "0"},
        {"multi-queue-num-queues", "17"},
        {"multi-queue-num-queues", "2x"},
        {"ring-page-order", "5"},
        {"ring-page-order", ""},
        {"protocol", "x86_64"},
        {"protocol", ""},
    };
    static const char *const good[][2] = {
        {"multi-queue-num-queues", "2"}, {"queue-0/ring-ref", "8"},
        {"queue-0/event-channel", "3"},  {"queue-1/ring-ref", "9"},
        {"queue-1/event-channel", "4"},  {"protocol", "x86_64-abi"},
    };

    start_offering(r, 16, 4, 64);
    attach(r, "qdisk", "root", NULL);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        wait_be(r, "2");
        for (unsigned j = 0; j < sizeof(good) / sizeof(*good); j++)
            put(r, r->disk.frontend, good[j][0], good[j][1]);
        put(r, r->disk.frontend, bad[i][0], bad[i][1]);
        fe(r, "3");
        wait_be(r, "5");
        fe(r, "6");
        wait_be(r, "6");
        put(r, r->disk.frontend, bad[i][0], "");
        if (strcmp(bad[i][0], "ring-page-order") == 0) {
            char path[200];

            snprintf(path, sizeof(path), "%s/ring-page-order", r->disk.frontend);
            xs_rm(r->guest->xs, XBT_NULL, path);
        }
        fe(r, "1");
    }
    assert_int_equal(ask(r->worker, &r->worker->connects), 0);
}

static void rings_that_cannot_be_mapped_are_refused(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->connect_refused = true);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    fe_rings(r, "8", "3", "3");
    wait_be(r, "5");
    wait_b(r, "blkgate-status", "failed: cannot be mapped");
    wait_count(r->worker, &r->worker->closes, 1);
    assert_int_equal(ask(r->worker, &r->worker->fails), 0);
    fe(r, "6");
    wait_be(r, "6");
    TELL(r->worker, r->worker->connect_refused = false);
    fe(r, "1");
    connect_disk(r);
}

static void a_lost_server_shows_state_5_before_errors(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    TELL(r->worker, r->worker->lose = true);
    wait_be(r, "5");
    wait_count(r->worker, &r->worker->fails, 1);
    assert_int_equal(r->worker->state_at_fail, 5);
    wait_b(r, "blkgate-status", "failed: Connection reset by peer");
    assert_int_equal(ask(r->worker, &r->worker->closes), 0);
    fe(r, "6");
    wait_be(r, "6");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
    fe(r, "1");
    connect_disk(r);
}

/* -- closing and beginning again ----------------------------------------------------------- */

static void closes_and_reopens(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    for (unsigned life = 1; life <= 3; life++) {
        connect_disk(r);
        fe(r, "5");
        wait_be(r, "5");
        be_stays(r, "5");
        TELL(r->worker, r->worker->hold_close = true);
        fe(r, "6");
        be_stays(r, "5"); /* till it is drained */
        TELL(r->worker, r->worker->hold_close = false);
        wait_be(r, "6");
        be_stays(r, "6");
        assert_int_equal(ask(r->worker, &r->worker->closes), life);
        fe(r, "1");
    }
    wait_be(r, "2");
}

static void grub_closes_without_5_and_windows_before_it_opens(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    fe(r, "5"); /* Windows */
    wait_be(r, "5");
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    wait_be(r, "2");
    fe_rings(r, "8", "3", "3"); /* GRUB: stays at 3 */
    wait_be(r, "4");
    fe(r, "3");
    be_stays(r, "4");
    fe_rings(r, "", "", "3"); /* and empties its nodes before it closes */
    be_stays(r, "4");
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
}

static void a_guest_that_begins_anew_is_connected_anew(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    fe(r, "1"); /* kexec */
    wait_be(r, "2");
    connect_disk(r);
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
    fe_rings(r, "9", "4", "3"); /* new rings without a word */
    wait_count(r->worker, &r->worker->connects, 3);
    wait_be(r, "4");
    assert_int_equal(r->worker->connect.queue[0].refs[0], 9);
    fe_rings(r, "9", "4", "3"); /* the same once more: nothing */
    be_stays(r, "4");
    assert_int_equal(ask(r->worker, &r->worker->connects), 3);
    wait_count(r->worker, &r->worker->opens, 3);
}

static void unplug_waits_for_a_guest_at_work(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    tool_unplug(&r->disk);
    be_stays(r, "5");
    assert_int_equal(ask(r->worker, &r->worker->closes), 0);
    fe(r, "5");
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    be_stays(r, "6");
    tool_remove(&r->disk);
    wait_count(r->worker, &r->worker->ends, 1);
    stays(r->guest, r->disk.backend, "state", NULL);
}

static void unplug_does_not_wait_for_a_guest_that_never_came(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    tool_unplug(&r->disk);
    wait_be(r, "6");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
}

static void force_closes(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    tool_destroy(&r->disk);
    wait_be(r, "6");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
}

static void a_removed_node_is_never_made_again(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    tool_remove(&r->disk);
    wait_count(r->worker, &r->worker->ends, 1);
    stays(r->guest, "/local/domain/0/backend/qdisk/5", "51712", NULL);
    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
}

static void a_node_made_anew_is_a_new_device(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    attach(r, "qdisk", "data", NULL); /* removed and made in one transaction */
    wait_be(r, "2");
    wait_count(r->worker, &r->worker->ends, 1);
    connect_disk(r);
    attach(r, "qdisk", "data", NULL);
    wait_be(r, "2");
    attach(r, "qdisk", "root", NULL); /* before anybody connected */
    wait_count(r->worker, &r->worker->ends, 3);
    connect_disk(r);
}

/* Between finding a device and the first word into its nodes another may take its place. */
static void a_node_made_anew_before_we_spoke_is_a_new_device(void **state)
{
    struct room *r = *state;

    backend_stop(r->backend);
    attach(r, "qdisk", "root", NULL);
    assert_true(xs_rm(r->guest->xs, XBT_NULL, r->disk.frontend));
    start(r); /* waits for a frontend */
    stays(r->guest, r->disk.backend, "blkgate-status", NULL);
    attach(r, "qdisk", "data", NULL);
    connect_disk(r);
    assert_true(opened(r->worker, "5/xvda (data)"));
}

/* xen-blkback may have written 2 before we looked. */
static void a_node_made_anew_in_state_2_is_a_new_device(void **state)
{
    struct room *r = *state;
    xs_transaction_t t;

    attach(r, "vbd", "root", "block-blkgate");
    tool_hotplug_done(&r->disk);
    connect_disk(r);
    fe(r, "6");
    wait_be(r, "6");
    backend_stop(r->backend);
    start(r);
    be_stays(r, "6");
    do {
        t = xs_transaction_start(r->guest->xs);
        xs_rm(r->guest->xs, t, r->disk.backend);
        guest_xs_write(r->guest, t, r->disk.backend, "frontend", "%s", r->disk.frontend);
        guest_xs_write(r->guest, t, r->disk.backend, "frontend-id", "5");
        guest_xs_write(r->guest, t, r->disk.backend, "params", "data");
        guest_xs_write(r->guest, t, r->disk.backend, "mode", "w");
        guest_xs_write(r->guest, t, r->disk.backend, "state", "2");
        guest_xs_write(r->guest, t, r->disk.frontend, "state", "1");
    } while (!xs_transaction_end(r->guest->xs, t, false));
    connect_disk(r);
    assert_true(opened(r->worker, "5/xvda (data)"));
}

static void nothing_is_left_of_a_device_that_failed(void **state)
{
    struct room *r = *state;
    static const char errors[] = "/local/domain/0/error/backend/qdisk";

    TELL(r->worker, r->worker->open_fails = true);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "5");
    wait_node(r->guest, errors, "5/51712/error", "5 Connection refused");
    tool_remove(&r->disk);
    wait_node(r->guest, errors, "5", NULL);
    stays(r->guest, "/local/domain/0/backend/qdisk/5", "51712", NULL);
}

static void a_dead_domain_is_closed(void **state)
{
    struct room *r = *state;
    char backend[128];

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    snprintf(backend, sizeof(backend), "%s", r->disk.backend);
    guest_destroy(r->guest);
    r->guest = guest_create(6, 16); /* for its xenstore handle */
    wait_node(r->guest, backend, "state", "6");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
}

/* -- sharing ------------------------------------------------------------------------------- */

static void writable_twice_is_refused_unless_shared(void **state)
{
    struct room *r = *state;
    struct tool_disk other;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    second(r, &other, "root", false);
    wait_node(r->guest, other.backend, "state", "5");
    wait_node(r->guest, other.backend, "blkgate-status", "failed:");
    print_node(r->guest, other.backend, "blkgate-status");
    tool_remove(&other);
    second(r, &other, "root", true);
    wait_node(r->guest, other.backend, "state", "2");
    tool_remove(&other);
    tool_remove(&r->disk);
    attach(r, "qdisk", "data", NULL);
    wait_be(r, "2");
    second(r, &other, "data", false);
    wait_node(r->guest, other.backend, "state", "2");
}

static void one_export_by_two_names_is_one_export(void **state)
{
    struct room *r = *state;
    struct tool_disk other;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    second(r, &other, "alias", false);
    wait_node(r->guest, other.backend, "blkgate-status", "failed:");
    be_stays(r, "4");
}

static void one_that_lets_go_is_waited_for(void **state)
{
    struct room *r = *state;
    struct tool_disk other;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    TELL(r->worker, r->worker->hold_close = true);
    tool_destroy(&r->disk);
    second(r, &other, "root", false);
    wait_node(r->guest, other.backend, "blkgate-status", "opening");
    stays(r->guest, other.backend, "state", "1");
    TELL(r->worker, r->worker->hold_close = false);
    wait_be(r, "6");
    wait_node(r->guest, other.backend, "state", "2");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(connects),
        TEST(connects_ovmf_that_waits_for_nothing),
        TEST(connects_as_many_queues_and_pages_as_are_offered),
        TEST(more_than_was_offered_is_refused_and_may_be_mended),
        TEST(what_a_guest_was_told_outlives_the_configuration),
        TEST(stale_nodes_of_an_earlier_kernel_do_not_count),
        TEST(found_at_start_like_later),
        TEST(what_is_not_ours_is_left_alone),
        TEST(junk_beside_our_nodes_is_ignored),
        TEST(a_script_opens_the_gate),
        TEST(a_script_finds_the_export),
        TEST(what_xen_blkback_offered_is_served),
        TEST(what_nobody_offered_is_one_ring_of_one_page),
        TEST(without_blkback_state_2_is_ours_after_a_while),
        TEST(the_script_hears_of_an_unknown_disk),
        TEST(the_script_hears_of_an_unreachable_server),
        TEST(without_a_script_an_unreachable_server_is_state_5),
        TEST(bad_nodes_are_refused_and_may_be_mended),
        TEST(doubles_and_excess_are_refused),
        TEST(rings_that_cannot_be_mapped_are_refused),
        TEST(a_lost_server_shows_state_5_before_errors),
        TEST(closes_and_reopens),
        TEST(grub_closes_without_5_and_windows_before_it_opens),
        TEST(a_guest_that_begins_anew_is_connected_anew),
        TEST(unplug_waits_for_a_guest_at_work),
        TEST(unplug_does_not_wait_for_a_guest_that_never_came),
        TEST(force_closes),
        TEST(a_removed_node_is_never_made_again),
        TEST(a_node_made_anew_is_a_new_device),
        TEST(a_node_made_anew_before_we_spoke_is_a_new_device),
        TEST(a_node_made_anew_in_state_2_is_a_new_device),
        TEST(nothing_is_left_of_a_device_that_failed),
        TEST(a_dead_domain_is_closed),
        TEST(writable_twice_is_refused_unless_shared),
        TEST(one_export_by_two_names_is_one_export),
        TEST(one_that_lets_go_is_waited_for),
    };

    room_begin(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
