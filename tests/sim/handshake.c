/* handshake: backend and vbd against the real xenstored, with the toolstack and the guest's nodes
 * from guest.h, and a worker that has no rings and no server: it only answers orders, as told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gateway/backend.h"
#include "gateway/config.h"
#include "gateway/log.h"
#include "guest.h"
#include "stub-worker.h"
#include "xsproxy.h"

enum { DOMID = 5, XVDA = 51712, XVDB = 51728, WAIT_MS = 5000, QUIET_MS = 150 };

static unsigned ask(struct worker *w, const unsigned *counter)
{
    unsigned value;

    pthread_mutex_lock(&w->lock);
    value = *counter;
    pthread_mutex_unlock(&w->lock);
    return value;
}

static bool opened(struct worker *w, const char *name)
{
    bool is;

    pthread_mutex_lock(&w->lock);
    is = strcmp(w->opened, name) == 0;
    pthread_mutex_unlock(&w->lock);
    return is;
}

/* -- the room ------------------------------------------------------------------------------ */

static char name_root[] = "root", name_data[] = "data", name_cd[] = "cd";
static char name_alias[] = "alias", uri_alias[] = "nbd://H:10809/%72oot"; /* root again */
static char uri_root[] = "nbd://h/root", uri_data[] = "nbd://h/data", uri_cd[] = "nbd://h/cd";

static struct config_disk config_disks[] = {
    {.name = name_root, .export_uri = uri_root, .worker = -1},
    {.name = name_data, .export_uri = uri_data, .worker = -1, .shared = true},
    {.name = name_cd, .export_uri = uri_cd, .worker = -1, .readonly = true},
    {.name = name_alias, .export_uri = uri_alias, .worker = -1},
};

static const struct config config = {
    .workers = 1,
    .connect_timeout_ms = 1000,
    .queues = 1,
    .indirect_segments = 64,
    .disk_count = sizeof(config_disks) / sizeof(*config_disks),
    .disks = config_disks,
};

struct room {
    struct worker *worker;
    struct backend *backend;
    struct guest *guest;
    struct tool_disk disk;
};

static void sleep_ms(long ms)
{
    struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&nap, NULL);
}

static bool node_is(struct guest *guest, const char *directory, const char *key, const char *value)
{
    char path[256];
    char *text;
    bool is;

    snprintf(path, sizeof(path), "%s/%s", directory, key);
    text = xs_read(guest->xs, XBT_NULL, path, NULL);
    is = value ? text && strncmp(text, value, strlen(value)) == 0 &&
                     (value[strlen(value) - 1] == ':' || strlen(text) == strlen(value))
               : !text;
    free(text);
    return is;
}

static void print_node(struct guest *guest, const char *directory, const char *key)
{
    char path[256];
    char *text;

    snprintf(path, sizeof(path), "%s/%s", directory, key);
    text = xs_read(guest->xs, XBT_NULL, path, NULL);
    print_error("%s is %s%s\n", path, text ? text : "", text ? "" : "absent");
    free(text);
}

/* A value ending in ':' is a beginning; NULL is absence. */
static void wait_node(struct guest *guest, const char *directory, const char *key,
                      const char *value)
{
    int64_t end = guest_clock_ms() + WAIT_MS;

    while (!node_is(guest, directory, key, value)) {
        if (guest_clock_ms() > end) {
            print_node(guest, directory, key);
            fail_msg("and not %s", value ? value : "absent");
        }
        sleep_ms(2);
    }
}

static void stays(struct guest *guest, const char *directory, const char *key, const char *value)
{
    sleep_ms(QUIET_MS);
    if (!node_is(guest, directory, key, value)) {
        print_node(guest, directory, key);
        fail_msg("and not %s", value ? value : "absent");
    }
}

#define wait_be(r, state)   wait_node((r)->guest, (r)->disk.backend, "state", state)
#define be_stays(r, state)  stays((r)->guest, (r)->disk.backend, "state", state)
#define wait_b(r, key, val) wait_node((r)->guest, (r)->disk.backend, key, val)

static void wait_count(struct worker *w, const unsigned *counter, unsigned value)
{
    int64_t end = guest_clock_ms() + WAIT_MS;

    while (ask(w, counter) != value) {
        if (guest_clock_ms() > end)
            fail_msg("%u and not %u", ask(w, counter), value);
        sleep_ms(2);
    }
}

static void put(struct room *r, const char *directory, const char *key, const char *value)
{
    assert_int_equal(guest_xs_write(r->guest, XBT_NULL, directory, key, "%s", value), 0);
}

static void fe(struct room *r, const char *state)
{
    put(r, r->disk.frontend, "state", state);
}

/* The frontend's rings and its state, in one transaction as blkfront writes them. */
static void fe_rings(struct room *r, const char *ref, const char *port, const char *state)
{
    xs_transaction_t t;

    do {
        t = xs_transaction_start(r->guest->xs);
        guest_xs_write(r->guest, t, r->disk.frontend, "ring-ref", "%s", ref);
        guest_xs_write(r->guest, t, r->disk.frontend, "event-channel", "%s", port);
        guest_xs_write(r->guest, t, r->disk.frontend, "protocol", "x86_64-abi");
        guest_xs_write(r->guest, t, r->disk.frontend, "state", "%s", state);
    } while (!xs_transaction_end(r->guest->xs, t, false));
}

static void start(struct room *r)
{
    assert_int_equal(backend_start(&config, &r->worker, 1, &r->backend), 0);
}

static void attach(struct room *r, const char *kind, const char *params, const char *script)
{
    r->disk = (struct tool_disk){
        .guest = r->guest, .devid = XVDA, .kind = kind, .params = params, .script = script};
    assert_int_equal(tool_attach(&r->disk), 0);
    TELL(r->worker, snprintf(r->worker->fail_watch, sizeof(r->worker->fail_watch), "%s/state",
                             r->disk.backend));
}

static void connect_disk(struct room *r)
{
    wait_be(r, "2");
    fe_rings(r, "8", "3", "3");
    wait_be(r, "4");
    fe(r, "4");
}

static int setup(void **state)
{
    struct room *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    assert_int_equal(worker_start(0, &r->worker), 0);
    r->guest = guest_create(DOMID, 16);
    assert_non_null(r->guest);
    start(r);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct room *r = *state;
    struct xs_handle *xs = xs_open(0);

    TELL(r->worker, r->worker->hold_close = r->worker->hold_open = false);
    backend_stop(r->backend);
    assert_int_equal(r->worker->out_of_order, 0);
    worker_stop(r->worker);
    guest_destroy(r->guest);
    xs_rm(xs, XBT_NULL, "/local/domain/0/backend");
    xs_rm(xs, XBT_NULL, "/local/domain/0/error");
    xs_rm(xs, XBT_NULL, "/local/domain/3");
    xs_rm(xs, XBT_NULL, "/local/domain/5");
    xs_rm(xs, XBT_NULL, "/local/domain/6");
    xs_rm(xs, XBT_NULL, "/libxl");
    xs_close(xs);
    free(r);
    return 0;
}

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

static void connects_more_queues_and_pages_if_the_guest_read_more(void **state)
{
    struct room *r = *state;
    static const char *const nodes[][2] = {
        {"multi-queue-num-queues", "2"}, {"ring-page-order", "1"},
        {"queue-0/ring-ref0", "8"},      {"queue-0/ring-ref1", "9"},
        {"queue-0/event-channel", "3"},  {"queue-1/ring-ref0", "10"},
        {"queue-1/ring-ref1", "11"},     {"queue-1/event-channel", "4"},
        {"protocol", "x86_32-abi"},      {"state", "3"},
    };

    attach(r, "qdisk", "root", NULL);
    wait_be(r, "2");
    for (unsigned i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
        put(r, r->disk.frontend, nodes[i][0], nodes[i][1]);
    wait_be(r, "4");
    assert_int_equal(r->worker->connect.abi, BLKIF_ABI_X86_32);
    assert_int_equal(r->worker->connect.queue_count, 2);
    assert_int_equal(r->worker->connect.queue[1].page_count, 2);
    assert_int_equal(r->worker->connect.queue[1].refs[1], 11);
    assert_int_equal(r->worker->connect.queue[1].event_channel, 4);
}

/* blkfront never removes these; what we offered (0 and 1) nobody could rightly exceed. */
static void stale_nodes_of_an_earlier_kernel_do_not_count(void **state)
{
    struct room *r = *state;

    attach(r, "qdisk", "root", NULL);
    put(r, r->disk.frontend, "multi-queue-num-queues", "4");
    put(r, r->disk.frontend, "ring-page-order", "2");
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
    wait_b(r, "max-ring-page-order", "0"); /* ours, before the guest begins */
    wait_b(r, "multi-queue-max-queues", "1");
    fe_rings(r, "8", "3", "3");
    be_stays(r, "2");
    tool_hotplug_done(&r->disk);
    wait_be(r, "4");
}

/* A guest that runs may have read xen-blkback's limits before ours were there. */
static void what_xen_blkback_offered_is_served(void **state)
{
    struct room *r = *state;

    attach(r, "vbd", "root", "block-blkgate");
    wait_b(r, "blkgate-status", "ready");
    put(r, r->disk.backend, "max-ring-page-order", "4");
    put(r, r->disk.backend, "state", "2");
    wait_b(r, "max-ring-page-order", "0");
    put(r, r->disk.frontend, "ring-page-order", "1");
    put(r, r->disk.frontend, "ring-ref0", "8");
    put(r, r->disk.frontend, "ring-ref1", "9");
    put(r, r->disk.frontend, "event-channel", "3");
    put(r, r->disk.frontend, "protocol", "x86_64-abi");
    fe(r, "3");
    tool_hotplug_done(&r->disk);
    wait_be(r, "4");
    /* Once: they are not written under a guest that uses them. */
    put(r, r->disk.backend, "max-ring-page-order", "4");
    be_stays(r, "4");
    wait_b(r, "max-ring-page-order", "4");
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

static void second(struct room *r, struct tool_disk *disk, const char *params, bool readonly)
{
    *disk = (struct tool_disk){.guest = r->guest,
                               .devid = XVDB,
                               .kind = "qdisk",
                               .params = params,
                               .vdev = "xvdb",
                               .readonly = readonly};
    assert_int_equal(tool_attach(disk), 0);
}

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
        wait_b(r, "blkgate-released", NULL);
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
    struct config without = config;
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

static void start_with(struct room *r, const struct config_disk *disks)
{
    static struct config changed;

    changed = config;
    changed.disks = (struct config_disk *)(uintptr_t)disks;
    assert_int_equal(backend_start(&changed, &r->worker, 1, &r->backend), 0);
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
    static struct config_disk disks[sizeof(config_disks) / sizeof(*config_disks)];
    static char other[] = "nbd://h/other", same[] = "nbd://H:10809/root";

    memcpy(disks, config_disks, sizeof(disks));
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
    wait_b(r, "blkgate-released", NULL);
    wait_b(r, "blkgate-export", NULL);
    be_stays(r, "4");
}

static void a_server_that_has_something_else_now_is_held(void **state)
{
    struct room *r = *state;
    static struct config_disk disks[sizeof(config_disks) / sizeof(*config_disks)];

    memcpy(disks, config_disks, sizeof(disks));
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
    struct config driver = config;
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

/* -- a guest that plays -------------------------------------------------------------------- */

static long resident_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size = 0, resident = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &size, &resident), 2); /* NOLINT */
    fclose(file);
    return resident * 4;
}

static void flapping_is_bounded_work(void **state)
{
    struct room *r = *state;
    static const char *const states[] = {"1", "3", "4", "5", "6", "", "x", "0", "7", "3"};
    int64_t end = guest_clock_ms() + 3000;
    unsigned seed = 1, writes = 0;
    long before = 0;

    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
    while (guest_clock_ms() < end) {
        const char *next = states[(unsigned)rand_r(&seed) % (sizeof(states) / sizeof(*states))];

        if (rand_r(&seed) % 4 == 0)
            put(r, r->disk.frontend, "ring-ref", rand_r(&seed) % 2 ? "9" : "");
        fe(r, next);
        if (writes++ == 2000)
            before = resident_kib();
        if (rand_r(&seed) % 8 == 0)
            sleep_ms(1);
    }
    print_message("%u writes, %u lives, %u connects, RSS +%ld KiB\n", writes,
                  ask(r->worker, &r->worker->opens), ask(r->worker, &r->worker->connects),
                  resident_kib() - before);
    fe(r, "6");
    wait_be(r, "6");
    fe(r, "1");
    connect_disk(r);
}

static unsigned lines_of(FILE *file)
{
    unsigned lines = 0;
    int c;

    rewind(file);
    while ((c = fgetc(file)) != EOF)
        lines += c == '\n';
    return lines;
}

/* A guest whose server keeps nothing may reconnect as often as it likes, but not fill the log. */
static void reconnecting_does_not_flood_the_log(void **state)
{
    struct room *r = *state;
    FILE *file = tmpfile();
    int before = dup(STDERR_FILENO);
    unsigned lines;

    assert_non_null(file);
    TELL(r->worker, r->worker->not_flushed = "4096 unflushed bytes");
    attach(r, "qdisk", "root", NULL);
    log_set_level(LOG_LEVEL_WARNING);
    dup2(fileno(file), STDERR_FILENO);
    for (unsigned i = 0; i < 40; i++) {
        connect_disk(r);
        fe(r, "6");
        wait_be(r, "6");
        fe(r, "1");
    }
    dup2(before, STDERR_FILENO);
    log_set_level(LOG_LEVEL_ERROR);
    lines = lines_of(file);
    fclose(file);
    close(before);
    assert_in_range(lines, 1, 2 * LIMIT_LOG_LINES);
}

/* Before libxenstore's: a driver domain whose toolstack gave it no right to write. */
static atomic_uint denied;
static atomic_bool deny;

bool xs_write(struct xs_handle *xs, xs_transaction_t t, const char *path, const void *data,
              unsigned length)
{
    bool (*real)(struct xs_handle *, xs_transaction_t, const char *, const void *, unsigned);

    *(void **)(void *)&real = dlsym(RTLD_NEXT, "xs_write");
    if (atomic_load(&deny) && strstr(path, "/blkgate-status")) {
        atomic_fetch_add(&denied, 1);
        errno = EACCES;
        return false;
    }
    return real(xs, t, path, data, length);
}

static void what_may_not_be_written_is_not_tried_without_end(void **state)
{
    struct room *r = *state;

    atomic_store(&denied, 0);
    atomic_store(&deny, true);
    attach(r, "qdisk", "root", NULL);
    sleep_ms(500);
    atomic_store(&deny, false);
    assert_in_range(atomic_load(&denied), 1, 10);
    connect_disk(r);
}

static void nodes_that_come_and_go(void **state)
{
    struct room *r = *state;
    unsigned seed = 2;

    for (unsigned i = 0; i < 300; i++) {
        attach(r, i % 3 ? "qdisk" : "vbd3", i % 5 ? "root" : "data", NULL);
        if (rand_r(&seed) % 2)
            sleep_ms(rand_r(&seed) % 8);
        if (rand_r(&seed) % 2)
            fe_rings(r, "8", "3", "3");
        if (rand_r(&seed) % 2)
            sleep_ms(rand_r(&seed) % 8);
        if (rand_r(&seed) % 2)
            tool_destroy(&r->disk);
        tool_remove(&r->disk);
    }
    sleep_ms(QUIET_MS);
    assert_true(node_is(r->guest, "/local/domain/0/backend/qdisk", "5", NULL) ||
                node_is(r->guest, "/local/domain/0/backend/qdisk", "5/51712", NULL));
    assert_true(node_is(r->guest, "/local/domain/0/backend/vbd3/5", "51712", NULL));
    attach(r, "qdisk", "root", NULL);
    connect_disk(r);
}

/* libxenstore 4.17's own: its reader closes the socket of a dead xenstored without the lock under
 * which a request is written to it. */
const char *__tsan_default_suppressions(void); /* NOLINT */
const char *__tsan_default_suppressions(void)  /* NOLINT */
{
    return "race:xs_write_all\n";
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(connects),
        TEST(connects_ovmf_that_waits_for_nothing),
        TEST(connects_more_queues_and_pages_if_the_guest_read_more),
        TEST(stale_nodes_of_an_earlier_kernel_do_not_count),
        TEST(found_at_start_like_later),
        TEST(what_is_not_ours_is_left_alone),
        TEST(junk_beside_our_nodes_is_ignored),
        TEST(a_script_opens_the_gate),
        TEST(what_xen_blkback_offered_is_served),
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
        TEST(flapping_is_bounded_work),
        TEST(reconnecting_does_not_flood_the_log),
        TEST(what_may_not_be_written_is_not_tried_without_end),
        TEST(nodes_that_come_and_go),
    };

    signal(SIGPIPE, SIG_IGN); /* as main does */
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    log_set_level(getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
