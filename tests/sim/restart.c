/* restart: what a stop or a crash leaves, what a start takes up, and a xenstored that dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/ring.h"
#include "room.h"
#include "xsproxy.h"

/* -- stop, crash and start ------------------------------------------------------------------ */

/* What the nodes say is the same after a stop and after a crash: the disk's kept file knows what
 * was in flight, and the daemon is to bring the two together. */
static void is_taken_up(struct room *r, unsigned connects, uint64_t nonce)
{
    wait_count(r->worker, &r->worker->connects, connects);
    pthread_mutex_lock(&r->worker->lock);
    assert_true(r->worker->open.resume);
    assert_int_equal(r->worker->open.device_nonce, nonce);
    pthread_mutex_unlock(&r->worker->lock);
    be_stays(r, "4");
}

static uint64_t device_nonce(struct room *r)
{
    char text[24];
    uint64_t nonce;

    pthread_mutex_lock(&r->worker->lock);
    nonce = r->worker->open.device_nonce;
    pthread_mutex_unlock(&r->worker->lock);
    assert_true(nonce != 0);
    snprintf(text, sizeof(text), "%016llx", (unsigned long long)nonce);
    wait_b(r, "blkgate-device", text);
    return nonce;
}

static void a_stop_is_not_seen_by_the_guest(void **state)
{
    struct room *r = *state;
    uint64_t nonce;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    assert_false(r->worker->open.resume);
    nonce = device_nonce(r);
    for (unsigned i = 1; i <= 3; i++) {
        backend_stop(r->backend);
        assert_int_equal(r->worker->ends, i);
        assert_int_equal(r->worker->suspends, i); /* not closed: all it has is kept */
        assert_true(node_is(r->guest, r->disk.backend, "state", "4"));
        start(r);
        is_taken_up(r, i + 1, nonce);
    }
    fe(r, "5");
    wait_be(r, "5");
    backend_stop(r->backend); /* closing: served on until 6 */
    start(r);
    wait_count(r->worker, &r->worker->connects, 5);
    assert_true(r->worker->open.resume);
    be_stays(r, "5");
    assert_int_equal(ask(r->worker, &r->worker->closes), 0);
    fe(r, "6");
    wait_be(r, "6");
    assert_int_equal(ask(r->worker, &r->worker->closes), 1);
}

/* Died at any point of the handshake: the next daemon goes on from what the nodes say. */
static void a_crash_at_any_point_of_the_handshake(void **state)
{
    struct room *r = *state;
    uint64_t nonce;

    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    backend_stop(r->backend);
    start(r); /* offered, and no frontend yet */
    connect_disk(r);
    assert_false(r->worker->open.resume);
    nonce = device_nonce(r);
    backend_stop(r->backend);
    put(r, r->disk.backend, "state",
        "2"); /* rings served, 4 not written: no request was sent yet */
    fe(r, "3");
    start(r);
    wait_be(r, "4");
    assert_false(r->worker->open.resume);
    assert_int_equal(r->worker->open.device_nonce, nonce); /* what is kept is this device's */
    backend_stop(r->backend); /* 4 written, and the frontend has not seen it */
    start(r);
    is_taken_up(r, 3, nonce);
    backend_stop(r->backend);
    fe(r, "4");
    xs_rm(r->guest->xs, XBT_NULL, "/local/domain/0/backend/qdisk/5/51712/blkgate-device");
    start(r); /* another program's, or an older daemon's: a device that no file of ours is about */
    wait_count(r->worker, &r->worker->connects, 4);
    assert_true(r->worker->open.resume);
    assert_true(device_nonce(r) != nonce);
    be_stays(r, "4");
}

/* What B shows is a promise: the configuration has less now, and there is room for as much. Bug:
 * the frontend that took it was refused. */
static void what_the_last_one_offered_has_room(void **state)
{
    struct room *r = *state;
    uint32_t entries;

    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    entries = r->worker->open.entry_count;
    backend_stop(r->backend);
    put(r, r->disk.backend, "multi-queue-max-queues", "3");
    put(r, r->disk.backend, "max-ring-page-order", "2");
    start(r);
    connect_disk(r);
    assert_int_equal(r->worker->open.entry_count, 3 * ring_slots(BLKIF_ABI_X86_64, 1u << 2));
    assert_true(r->worker->open.entry_count > entries);
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
    assert_false(r->worker->open.resume);
    backend_stop(r->backend);
    fe(r, "1"); /* kexec */
    start(r);
    wait_be(r, "2");
    connect_disk(r);
    assert_false(r->worker->open.resume); /* these rings are new */
    backend_stop(r->backend);
    tool_destroy(&r->disk);
    start(r);
    wait_be(r, "6");
    assert_int_equal(r->worker->connects, 3);
}

static const char *keep_path(void)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/qdisk-%d-%d", room_keep, DOMID, XVDA);
    return path;
}

static void put_kept_file(void)
{
    FILE *file;

    assert_true(mkdir(room_keep, 0700) == 0 || errno == EEXIST);
    file = fopen(keep_path(), "w");
    assert_non_null(file);
    fclose(file);
}

/* Who sees 6 may open the disk elsewhere: what is kept is at the server before that. */
static void what_was_kept_is_flushed_before_it_is_closed(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    for (unsigned dies = 0; dies < 2; dies++) {
        backend_stop(r->backend);
        put_kept_file();
        if (dies)
            tool_destroy(&r->disk);
        else
            fe(r, "6");
        TELL(r->worker, r->worker->hold_close = true);
        start(r);
        be_stays(r, dies ? "5" : "4"); /* 5 is the toolstack's */
        TELL(r->worker, r->worker->hold_close = false);
        wait_be(r, "6");
        assert_int_equal(ask(r->worker, &r->worker->closes), dies + 1);
        assert_true(r->worker->close.resume);
        remove(keep_path()); /* as the disk does at its end */
        if (dies)
            break;
        fe(r, "1");
        connect_disk(r);
    }
}

/* Without B there is no device: the next one there is another. */
static void what_was_kept_goes_with_the_device(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    put_kept_file();
    backend_stop(r->backend);
    assert_int_equal(access(keep_path(), F_OK), 0);
    start(r);
    wait_count(r->worker, &r->worker->connects, 2);
    tool_remove(&r->disk);
    wait_count(r->worker, &r->worker->ends, 2);
    for (int i = 0; i < 100 && access(keep_path(), F_OK) == 0; i++)
        sleep_ms(20);
    assert_int_not_equal(access(keep_path(), F_OK), 0);
    rmdir(room_keep);
}

/* A file that is damaged, another version's, or not about these rings: the disk says so, and nobody
 * may guess. */
static void what_the_disk_cannot_take_up_is_held(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    for (unsigned i = 0; i < 2; i++) {
        backend_stop(r->backend);
        if (i == 0)
            TELL(r->worker, r->worker->open_refused = true);
        else
            TELL(r->worker, r->worker->connect_refused = true);
        start(r);
        wait_b(r, "blkgate-status", "held: cannot be mapped");
        be_stays(r, "4");
        assert_int_equal(ask(r->worker, &r->worker->closes), 0); /* which would drop what is kept */
        backend_stop(r->backend);                                /* still held */
        assert_true(node_is(r->guest, r->disk.backend, "state", "4"));
        start(r);
        wait_b(r, "blkgate-status", "held: cannot be mapped");
        backend_stop(r->backend);
        TELL(r->worker, r->worker->open_refused = r->worker->connect_refused = false);
        start(r); /* put right: taken up as if nothing had been */
        wait_b(r, "blkgate-status", "ready");
        be_stays(r, "4");
        assert_true(r->worker->open.resume);
    }
    backend_stop(r->backend);
    TELL(r->worker, r->worker->open_refused = true);
    start(r);
    wait_b(r, "blkgate-status", "held:");
    fe(r, "5"); /* it ends with the frontend */
    wait_be(r, "5");
    be_stays(r, "5");
    TELL(r->worker, r->worker->open_refused = false);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
    assert_false(r->worker->open.resume);
}

static void a_disk_that_left_the_configuration_is_held(void **state)
{
    static struct config without;
    struct room *r = *state;
    static const char *const kinds[] = {"qdisk", "vbd"};

    without = room_config;
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
static void a_newcomer_does_not_take_a_disk_in_use(void **state)
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
    backend_stop(r->backend); /* in this state, too */
    assert_true(node_is(r->guest, r->disk.backend, "state", "4"));
    assert_int_equal(r->worker->closes, 0);
    TELL(r->worker, r->worker->no_flush = false; r->worker->capacity_sectors = 0);
}

/* Another export under a mounted file system would be wrong bytes. */
static void a_changed_export_is_held_and_not_swapped(void **state)
{
    struct room *r = *state;
    static struct config_disk disks[sizeof(room_disks) / sizeof(*room_disks)];
    static char other[] = "nbd://h/other", same[] = "nbd://H:10809/root";
    char before[24];
    char *export;

    memcpy(disks, room_disks, sizeof(disks));
    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    export = xs_read(r->guest->xs, XBT_NULL, "/local/domain/0/backend/qdisk/5/51712/blkgate-export",
                     NULL);
    assert_non_null(export);
    snprintf(before, sizeof(before), "%s", export);
    free(export);
    backend_stop(r->backend);
    disks[0].export_uris[0] = other;
    start_with(r, disks);
    is_held_and_then_served_on(r, "its export in the configuration is not the one that the guest "
                                  "is connected to: write that one, or have the guest close it");
    assert_int_equal(r->worker->opens, 1);
    disks[0].export_uris[0] = same;
    start_with(r, disks);
    wait_count(r->worker, &r->worker->connects, 2);
    wait_b(r, "blkgate-export", before);
    be_stays(r, "4");
    backend_stop(r->backend);
    disks[0].export_uris[0] = other; /* one more path, and preferred, but the old one is there */
    disks[0].export_uris[1] = same;
    disks[0].export_count = 2;
    start_with(r, disks);
    wait_count(r->worker, &r->worker->connects, 3);
    be_stays(r, "4");
}

/* The disk has its file to go by; without one, the nodes say what the guest was told. */
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
    static struct config driver; /* the teardown's, too */
    struct room *r = *state;
    static const char *const nodes[][2] = {
        {"frontend", "/local/domain/5/device/vbd/51712"},
        {"frontend-id", "5"},
        {"params", "aio:root"},
        {"mode", "w"},
        {"online", "1"},
        {"state", "1"},
    };

    driver = room_config;
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

/* Not by ThreadSanitizer. When xenstored is gone, libxenstore's reader and who writes a request
 * both close the socket, without a lock (4.17; nothing of ours); and while the sanitizer reports
 * that, under its own lock, xs_close cancels the reader: the lock is held for ever, and the test
 * hangs. */
#ifndef __SANITIZE_THREAD__

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
    wait_count(r->worker, &r->worker->connects, 2); /* nothing had to be written for that */
    be_stays(r, "4");
}

#endif

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_stop_is_not_seen_by_the_guest),
        TEST(a_crash_at_any_point_of_the_handshake),
        TEST(what_the_last_one_offered_has_room),
        TEST(what_happened_meanwhile_is_taken_up),
        TEST(what_was_kept_is_flushed_before_it_is_closed),
        TEST(what_was_kept_goes_with_the_device),
        TEST(what_the_disk_cannot_take_up_is_held),
        TEST(a_disk_that_left_the_configuration_is_held),
        TEST(a_newcomer_does_not_take_a_disk_in_use),
        TEST(a_changed_export_is_held_and_not_swapped),
        TEST(a_server_that_has_something_else_now_is_held),
        TEST(a_driver_domain_removes_its_nodes),
        TEST(a_stop_ends_in_every_state),
#ifndef __SANITIZE_THREAD__ /* see through_proxy */
        TEST(a_dead_xenstored_is_noticed_and_all_is_looked_at_again),
        TEST(a_xenstored_that_forgot_a_connected_disk_does_not_end_it),
        TEST(a_stop_does_not_need_xenstored),
#endif
    };

    room_begin(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
