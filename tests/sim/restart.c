/* restart: what a stop leaves, what a start takes up, and a xenstored that dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "room.h"
#include "xsproxy.h"

/* -- stop and start ------------------------------------------------------------------------ */

static void a_stop_is_not_seen_by_the_guest(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    for (unsigned i = 1; i <= 3; i++) {
        backend_stop(r->backend);
        assert_int_equal(r->worker->ends, i);
        assert_true(node_is(r->guest, r->disk.backend, "state", "4"));
        assert_true(node_is(r->guest, r->disk.backend, "blkgate-released", "1"));
        start(r);
        wait_count(r->worker, &r->worker->connects, i + 1);
        wait_b(r, "blkgate-released", "0");
        be_stays(r, "4");
    }
    fe(r, "5");
    wait_be(r, "5");
    backend_stop(r->backend); /* closing: served on until 6 */
    start(r);
    wait_count(r->worker, &r->worker->connects, 5);
    be_stays(r, "5");
    fe(r, "6");
    wait_be(r, "6");
}

static void what_happened_meanwhile_is_taken_up(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    backend_stop(r->backend);
    fe(r, "6");
    start(r);
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
    backend_stop(r->backend);
    fe(r, "1"); /* kexec */
    start(r);
    wait_be(r, "2");
    connect_disk(r);
    backend_stop(r->backend);
    tool_destroy(&r->disk);
    start(r);
    wait_be(r, "6");
    assert_int_equal(r->worker->connects, 3);
}

static void after_an_unclean_end_it_is_held(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    backend_stop(r->backend);
    xs_rm(r->guest->xs, XBT_NULL, "/local/domain/0/backend/qdisk/5/51712/blkgate-released");
    start(r);
    wait_b(r, "blkgate-status", "held:");
    be_stays(r, "4");
    backend_stop(r->backend); /* still held */
    assert_true(node_is(r->guest, r->disk.backend, "blkgate-released", NULL));
    start(r);
    wait_b(r, "blkgate-status", "held:");
    assert_int_equal(r->worker->opens, 1);
    fe(r, "5");
    wait_be(r, "5");
    be_stays(r, "5");
    assert_int_equal(r->worker->opens, 1);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
}

static void a_disk_that_left_the_configuration_is_held(void **state)
{
    struct room *r = *state;
    struct config without = room_config;
    static const char *const kinds[] = {"qdisk", "vbd"};

    without.disk_count = 0;
    for (unsigned i = 0; i < 2; i++) {
        attach(r, kinds[i], "root", NULL);
        connect_disk(r);
        backend_stop(r->backend);
        assert_int_equal(backend_start(&without, &r->worker, 1, &r->backend), 0);
        wait_b(r, "blkgate-status", "held:");
        print_node(r->guest, r->disk.backend, "blkgate-status");
        be_stays(r, "4");
        backend_stop(r->backend);
        start(r);
        wait_count(r->worker, &r->worker->connects, 2 * i + 2);
        be_stays(r, "4");
        tool_remove(&r->disk);
        wait_count(r->worker, &r->worker->ends, 2 * i + 2);
    }
}

/* Attached while nobody served, and found first: the guest that has the disk keeps it. */
static void a_newcomer_does_not_take_a_released_disk(void **state)
{
    struct room *r = *state;
    struct tool_disk other;

    attach(r, "vbd3", "root", NULL);
    connect_disk(r);
    backend_stop(r->backend);
    second(r, &other, "root", false);
    start(r);
    wait_count(r->worker, &r->worker->connects, 2);
    be_stays(r, "4");
    wait_node(r->guest, other.backend, "blkgate-status", "failed:");
}

static void is_held_and_then_served_on(struct room *r, const char *reason)
{
    char held[200];

    snprintf(held, sizeof(held), "held: %s", reason);
    wait_b(r, "blkgate-status", held);
    be_stays(r, "4");
    backend_stop(r->backend); /* in this state, too, and with the mark kept */
    assert_true(node_is(r->guest, r->disk.backend, "state", "4"));
    TELL(r->worker, r->worker->no_flush = false; r->worker->capacity_sectors = 0);
}

/* Another export under a mounted file system would be wrong bytes. */
static void a_changed_export_is_held_and_not_swapped(void **state)
{
    struct room *r = *state;
    static struct config_disk disks[sizeof(room_disks) / sizeof(*room_disks)];
    static char other[] = "nbd://h/other", same[] = "nbd://H:10809/root";

    memcpy(disks, room_disks, sizeof(disks));
    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    backend_stop(r->backend);
    disks[0].export_uri = other;
    start_with(r, disks);
    is_held_and_then_served_on(r, "its export in the configuration is not the one that the guest "
                                  "is connected to: write that one, or have the guest close it");
    assert_int_equal(r->worker->opens, 1);
    disks[0].export_uri = same;
    start_with(r, disks);
    wait_count(r->worker, &r->worker->connects, 2);
    wait_b(r, "blkgate-released", "0");
    be_stays(r, "4");
}

static void a_server_that_has_something_else_now_is_held(void **state)
{
    struct room *r = *state;
    static struct config_disk disks[sizeof(room_disks) / sizeof(*room_disks)];

    memcpy(disks, room_disks, sizeof(disks));
    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    backend_stop(r->backend);
    TELL(r->worker, r->worker->capacity_sectors = 8191);
    start(r);
    is_held_and_then_served_on(r, "its export has 8191 sectors, and the guest was told 8192");
    TELL(r->worker, r->worker->no_flush = true);
    start(r);
    is_held_and_then_served_on(r, "its export cannot flush, and the guest was told that it can");
    disks[0].readonly = true;
    start_with(r, disks);
    is_held_and_then_served_on(r, "it is read-only, and the guest was told that it is writable");
    assert_int_equal(ask(r->worker, &r->worker->connects), 1);
    TELL(r->worker, r->worker->capacity_sectors = 9000); /* grown: the guest is told */
    start(r);
    wait_count(r->worker, &r->worker->connects, 2);
    wait_b(r, "sectors", "9000");
    TELL(r->worker, r->worker->capacity_sectors = 0);
    backend_stop(r->backend);
    start(r);
    wait_b(r, "blkgate-status", "held:");
    fe(r, "6"); /* the guest closes what is held */
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
    tool_remove(&r->disk);
    wait_count(r->worker, &r->worker->ends, 6);
}

/* In a driver domain nobody else removes what is closed and not wanted. */
static void a_driver_domain_removes_its_nodes(void **state)
{
    struct room *r = *state;
    struct config driver = room_config;
    static const char *const nodes[][2] = {
        {"frontend", "/local/domain/5/device/vbd/51712"},
        {"frontend-id", "5"},
        {"params", "aio:root"},
        {"mode", "w"},
        {"online", "1"},
        {"state", "1"},
    };

    driver.domid = 3;
    backend_stop(r->backend);
    assert_int_equal(backend_start(&driver, &r->worker, 1, &r->backend), 0);
    r->disk = (struct tool_disk){.guest = r->guest,
                                 .devid = XVDA,
                                 .kind = "qdisk",
                                 .backend = "/local/domain/3/backend/qdisk/5/51712",
                                 .frontend = "/local/domain/5/device/vbd/51712"};
    fe(r, "1");
    for (unsigned i = 0; i < sizeof(nodes) / sizeof(*nodes); i++) /* one by one, too */
        put(r, r->disk.backend, nodes[i][0], nodes[i][1]);
    connect_disk(r);
    fe(r, "6");
    wait_be(r, "6");
    be_stays(r, "6");
    fe(r, "1");
    connect_disk(r);
    put(r, r->disk.backend, "online", "0");
    put(r, r->disk.backend, "state", "5");
    fe(r, "6");
    wait_be(r, "6");
    be_stays(r, "6"); /* long enough to be seen */
    wait_node(r->guest, "/local/domain/3/backend/qdisk/5", "51712", NULL);
    wait_count(r->worker, &r->worker->ends, 1);
}

static void a_stop_ends_in_every_state(void **state)
{
    struct room *r = *state;

    TELL(r->worker, r->worker->open_fails = true);
    attach(r, "qdisk", "root", NULL);
    wait_be(r, "5");
    backend_stop(r->backend); /* failed */
    start(r);
    TELL(r->worker, r->worker->open_fails = false);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    wait_be(r, "2");
    backend_stop(r->backend); /* ready */
    start(r);
    connect_disk(r);
    TELL(r->worker, r->worker->hold_close = true);
    fe(r, "6");
    sleep_ms(QUIET_MS);
    TELL(r->worker, r->worker->hold_close = false);
    backend_stop(r->backend); /* closing, or just closed: the guest gets its 6 */
    assert_true(node_is(r->guest, r->disk.backend, "state", "6"));
    start(r);
    tool_remove(&r->disk);
    backend_stop(r->backend); /* gone */
    start(r);
}

/* -- xenstored dies ------------------------------------------------------------------------- */

/* The backend reaches xenstored through a proxy; everybody else directly. */
static struct xsproxy *through_proxy(struct room *r, char *ret_direct, size_t bytes)
{
    struct xsproxy *proxy;
    char path[96];

    backend_stop(r->backend);
    snprintf(ret_direct, bytes, "%s", getenv("XENSTORED_PATH"));
    snprintf(path, sizeof(path), "%s/proxy", getenv("BLKGATE_SIM"));
    proxy = xsproxy_start(path, ret_direct);
    assert_non_null(proxy);
    setenv("XENSTORED_PATH", path, 1);
    start(r);
    return proxy;
}

static void end_proxy(struct room *r, struct xsproxy *proxy, const char *direct)
{
    backend_stop(r->backend);
    setenv("XENSTORED_PATH", direct, 1);
    xsproxy_end(proxy);
    start(r);
}

static void a_dead_xenstored_is_noticed_and_all_is_looked_at_again(void **state)
{
    struct room *r = *state;
    struct tool_disk other;
    char direct[128];
    struct xsproxy *proxy = through_proxy(r, direct, sizeof(direct));

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    second(r, &other, "data", false);
    wait_node(r->guest, other.backend, "state", "2");
    xsproxy_cut(proxy);
    sleep_ms(QUIET_MS);
    fe(r, "5"); /* nobody sees it */
    tool_remove(&other);
    be_stays(r, "4");
    sleep_ms(LIMIT_XENSTORE_HEARTBEAT_MS);
    xsproxy_mend(proxy);
    wait_be(r, "5");
    wait_count(r->worker, &r->worker->ends, 1); /* that of the removed one */
    assert_int_equal(ask(r->worker, &r->worker->closes), 0);
    fe(r, "6"); /* watches are back */
    wait_be(r, "6");
    second(r, &other, "data", false);
    wait_node(r->guest, other.backend, "state", "2");
    end_proxy(r, proxy, direct);
}

static void a_xenstored_that_forgot_a_connected_disk_does_not_end_it(void **state)
{
    struct room *r = *state;
    char direct[128];
    struct xsproxy *proxy = through_proxy(r, direct, sizeof(direct));

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    xsproxy_cut(proxy);
    sleep_ms(QUIET_MS);
    tool_remove(&r->disk);
    sleep_ms(LIMIT_XENSTORE_HEARTBEAT_MS);
    xsproxy_mend(proxy);
    sleep_ms(LIMIT_XENSTORE_RETRY_MS + QUIET_MS);
    assert_int_equal(ask(r->worker, &r->worker->closes), 0);
    assert_int_equal(ask(r->worker, &r->worker->ends), 0);
    end_proxy(r, proxy, direct);
    assert_int_equal(ask(r->worker, &r->worker->ends), 1);
}

static void a_stop_does_not_need_xenstored(void **state)
{
    struct room *r = *state;
    char direct[128];
    struct xsproxy *proxy = through_proxy(r, direct, sizeof(direct));

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    xsproxy_cut(proxy);
    sleep_ms(QUIET_MS);
    end_proxy(r, proxy, direct);
    assert_int_equal(ask(r->worker, &r->worker->ends), 1);
    wait_b(r, "blkgate-status", "held:"); /* for want of the mark */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_stop_is_not_seen_by_the_guest),
        TEST(what_happened_meanwhile_is_taken_up),
        TEST(after_an_unclean_end_it_is_held),
        TEST(a_disk_that_left_the_configuration_is_held),
        TEST(a_newcomer_does_not_take_a_released_disk),
        TEST(a_changed_export_is_held_and_not_swapped),
        TEST(a_server_that_has_something_else_now_is_held),
        TEST(a_driver_domain_removes_its_nodes),
        TEST(a_stop_ends_in_every_state),
        TEST(a_dead_xenstored_is_noticed_and_all_is_looked_at_again),
        TEST(a_xenstored_that_forgot_a_connected_disk_does_not_end_it),
        TEST(a_stop_does_not_need_xenstored),
    };

    room_begin(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
