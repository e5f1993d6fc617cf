/* mischief: a guest that plays with its nodes, and a toolstack that gave too few rights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/log.h"
#include "room.h"

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

/* Before libxenstore's: a driver domain whose toolstack gave it no right to write, or whose quota
 * is used up. tests/sim/quota.c has the real thing. */
static atomic_uint denied;
static _Atomic(const char *) deny; /* where this is in the path; NULL: nowhere */
static atomic_int deny_errno;
static atomic_bool deny_watch; /* a watch there, and not a write */

static bool is_denied(const char *path, bool watch)
{
    const char *where = atomic_load(&deny);

    if (!where || !strstr(path, where) || watch != atomic_load(&deny_watch))
        return false;
    atomic_fetch_add(&denied, 1);
    errno = atomic_load(&deny_errno);
    return true;
}

static void deny_with(const char *where, int error)
{
    atomic_store(&denied, 0);
    atomic_store(&deny_errno, error);
    atomic_store(&deny_watch, where && strstr(where, "/device/"));
    atomic_store(&deny, where);
}

bool xs_write(struct xs_handle *xs, xs_transaction_t t, const char *path, const void *data,
              unsigned length)
{
    bool (*real)(struct xs_handle *, xs_transaction_t, const char *, const void *, unsigned);

    *(void **)(void *)&real = dlsym(RTLD_NEXT, "xs_write");
    return !is_denied(path, false) && real(xs, t, path, data, length);
}

bool xs_watch(struct xs_handle *xs, const char *path, const char *token)
{
    bool (*real)(struct xs_handle *, const char *, const char *);

    *(void **)(void *)&real = dlsym(RTLD_NEXT, "xs_watch");
    return !is_denied(path, true) && real(xs, path, token);
}

static void what_may_not_be_written_is_not_tried_without_end(void **state)
{
    struct room *r = *state;

    deny_with("/blkgate-status", EACCES);
    attach(r, "qdisk", "root", NULL);
    sleep_ms(500);
    assert_in_range(atomic_load(&denied), 1, 10);
    deny_with(NULL, 0);
    connect_disk(r);
}

/* By C xenstored's words, and by oxenstored's, whose EQUOTA libxenstore does not know. */
static void what_a_quota_refuses_is_said_and_tried_again(void **state)
{
    struct room *r = *state;
    static const struct {
        const char *where;
        int error;
        const char *says;
    } rows[] = {
        {"/multi-queue-max-queues", ENOSPC, "No space left on device"},
        {"/multi-queue-max-queues", EINVAL, "Invalid argument"},
        {"/device/vbd/51712/state", E2BIG, "Argument list too long"},
        {"/device/vbd/51712/state", EINVAL, "Invalid argument"},
    };
    char reason[200];

    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        snprintf(
            reason, sizeof(reason),
            "failed: xenstored takes no more from this domain: %s (its quota? see blkgate quota); "
            "tried again every second",
            rows[i].says);
        deny_with(rows[i].where, rows[i].error);
        attach(r, "vbd3", "root", NULL);
        wait_b(r, "blkgate-status", reason);
        be_stays(r, "1");
        deny_with(NULL, 0);
        wait_be(r, "2");
        wait_b(r, "blkgate-status", "ready");
        wait_b(r, "hotplug-status", "connected");
        wait_b(r, "hotplug-error", NULL);
        connect_disk(r);
        tool_remove(&r->disk);
    }
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(flapping_is_bounded_work),
        TEST(reconnecting_does_not_flood_the_log),
        TEST(what_may_not_be_written_is_not_tried_without_end),
        TEST(what_a_quota_refuses_is_said_and_tried_again),
        TEST(nodes_that_come_and_go),
    };

    room_begin(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
