/* room: see room.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "room.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/log.h"

unsigned ask(struct worker *w, const unsigned *counter)
{
    unsigned value;

    pthread_mutex_lock(&w->lock);
    value = *counter;
    pthread_mutex_unlock(&w->lock);
    return value;
}

bool opened(struct worker *w, const char *name)
{
    bool is;

    pthread_mutex_lock(&w->lock);
    is = strcmp(w->opened, name) == 0;
    pthread_mutex_unlock(&w->lock);
    return is;
}
static char name_root[] = "root", name_data[] = "data", name_cd[] = "cd";
static char name_alias[] = "alias", uri_alias[] = "nbd://H:10809/%72oot"; /* root again, ... */
static char uri_detour[] = "nbd://detour/root";                           /* ... by its 2nd path */
static char uri_root[] = "nbd://h/root", uri_data[] = "nbd://h/data", uri_cd[] = "nbd://h/cd";

struct config_disk room_disks[ROOM_DISKS] = {
    {.name = name_root, .export_uris = {uri_root}, .export_count = 1, .worker = -1},
    {.name = name_data, .export_uris = {uri_data}, .export_count = 1, .worker = -1, .shared = true},
    {.name = name_cd, .export_uris = {uri_cd}, .export_count = 1, .worker = -1, .readonly = true},
    {.name = name_alias, .export_uris = {uri_detour, uri_alias}, .export_count = 2, .worker = -1},
};

char room_keep[96];

const struct config room_config = {
    .keep_dir = room_keep,
    .workers = 1,
    .connect_timeout_ms = 1000,
    .queues = 1,
    .indirect_segments = 64,
    .disk_count = ROOM_DISKS,
    .disks = room_disks,
};

void sleep_ms(long ms)
{
    struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&nap, NULL);
}

bool node_is(struct guest *guest, const char *directory, const char *key, const char *value)
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

void print_node(struct guest *guest, const char *directory, const char *key)
{
    char path[256];
    char *text;

    snprintf(path, sizeof(path), "%s/%s", directory, key);
    text = xs_read(guest->xs, XBT_NULL, path, NULL);
    print_error("%s is %s%s\n", path, text ? text : "", text ? "" : "absent");
    free(text);
}

void wait_node(struct guest *guest, const char *directory, const char *key, const char *value)
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

void stays(struct guest *guest, const char *directory, const char *key, const char *value)
{
    sleep_ms(QUIET_MS);
    if (!node_is(guest, directory, key, value)) {
        print_node(guest, directory, key);
        fail_msg("and not %s", value ? value : "absent");
    }
}

void wait_count(struct worker *w, const unsigned *counter, unsigned value)
{
    int64_t end = guest_clock_ms() + WAIT_MS;

    while (ask(w, counter) != value) {
        if (guest_clock_ms() > end)
            fail_msg("%u and not %u", ask(w, counter), value);
        sleep_ms(2);
    }
}

void put(struct room *r, const char *directory, const char *key, const char *value)
{
    assert_int_equal(guest_xs_write(r->guest, XBT_NULL, directory, key, "%s", value), 0);
}

void fe(struct room *r, const char *state)
{
    put(r, r->disk.frontend, "state", state);
}

/* The frontend's rings and its state, in one transaction as blkfront writes them. */
void fe_rings(struct room *r, const char *ref, const char *port, const char *state)
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

void start(struct room *r)
{
    assert_int_equal(backend_start(&room_config, &r->worker, 1, &r->backend), 0);
}

void attach(struct room *r, const char *kind, const char *params, const char *script)
{
    r->disk = (struct tool_disk){
        .guest = r->guest, .devid = XVDA, .kind = kind, .params = params, .script = script};
    assert_int_equal(tool_attach(&r->disk), 0);
    TELL(r->worker, snprintf(r->worker->fail_watch, sizeof(r->worker->fail_watch), "%s/state",
                             r->disk.backend));
}

void connect_disk(struct room *r)
{
    wait_be(r, "2");
    fe_rings(r, "8", "3", "3");
    wait_be(r, "4");
    fe(r, "4");
}

int room_setup(void **state)
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

int room_teardown(void **state)
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
    xs_rm(xs, XBT_NULL, "/local/domain/0/device");
    xs_rm(xs, XBT_NULL, "/local/domain/3");
    xs_rm(xs, XBT_NULL, "/local/domain/5");
    xs_rm(xs, XBT_NULL, "/local/domain/6");
    xs_rm(xs, XBT_NULL, "/libxl");
    xs_close(xs);
    free(r);
    return 0;
}

void second(struct room *r, struct tool_disk *disk, const char *params, bool readonly)
{
    *disk = (struct tool_disk){.guest = r->guest,
                               .devid = XVDB,
                               .kind = "qdisk",
                               .params = params,
                               .vdev = "xvdb",
                               .readonly = readonly};
    assert_int_equal(tool_attach(disk), 0);
}

void start_with(struct room *r, const struct config_disk *disks)
{
    static struct config changed;

    changed = room_config;
    changed.disks = (struct config_disk *)(uintptr_t)disks;
    assert_int_equal(backend_start(&changed, &r->worker, 1, &r->backend), 0);
}

void room_begin(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* as main does */
    snprintf(room_keep, sizeof(room_keep), "%s/keep", getenv("BLKGATE_SIM"));
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    log_set_level(getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
}
