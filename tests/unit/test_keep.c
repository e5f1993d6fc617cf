/*
 * keep: the kept file as a disk uses it, on a tmpfs of its own.
 *
 * By hand: the file and who may be trusted to have written it, the floor and the budget, a full
 * tmpfs, records, ghosts, flush marks, replay, what a crash leaves. At random: a disk's whole use
 * of it against a server that loses its cache, its connection, and time (laws 5 and 9).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/keep.h"
#include "gateway/slab.h"
#include "identity.h"

enum { FENCE_MS = 10000 };
enum { ENTRIES = 32, BLOCK = 2 << 20, DISK_BYTES = 1 << 30 };

static char directory[] = "/tmp/blkgate-keep-XXXXXX";
static char path[64], other_path[64];
static char reason[LIMIT_REASON_BYTES];

static const struct journal_identity identity = {
    .device_nonce = 0x1234,
    .export_id = 0x5678,
    .export_bytes = DISK_BYTES,
    .domid = 7,
    .handle = 51712,
    .flags = 5,
};

/* -- a file at a time ------------------------------------------------------------------------ */

static struct keep *make_at(const char *at)
{
    struct keep *keep = NULL;

    reason[0] = '\0';
    if (keep_create(at, ENTRIES, true, &identity, &keep, reason) < 0)
        fail_msg("%s", reason);
    return keep;
}

static struct keep *make(void)
{
    return make_at(path);
}

/* As the next life of the daemon finds it. */
static struct keep *open_again(void)
{
    struct keep *keep = NULL;

    reason[0] = '\0';
    if (keep_open(path, FENCE_MS, &keep, reason) < 0)
        fail_msg("%s", reason);
    return keep;
}

static struct keep *crash(struct keep *keep)
{
    keep_close(keep);
    return open_again();
}

static int setup(void **state)
{
    (void)state;
    keep_set_budget(64 << 20);
    unlink(path);
    unlink(other_path);
    return 0;
}

static void put_file(const void *bytes, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), length);
    close(fd);
}

static bool exists(const char *at)
{
    return access(at, F_OK) == 0;
}

static void a_file_outlives_its_daemon(void **state)
{
    char deep[80];
    struct keep *keep;
    struct stat status;

    (void)state;
    snprintf(deep, sizeof deep, "%s/made/file", directory); /* its directory, too */
    keep = make_at(deep);
    assert_int_equal(stat(deep, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600); /* a guest's data */
    keep_remove(keep);
    assert_false(exists(deep));
    snprintf(deep, sizeof deep, "%s/made", directory);
    assert_int_equal(stat(deep, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    rmdir(deep);

    keep = crash(make());
    assert_identity_equal(&keep_journal(keep)->identity, &identity);
    assert_true(keep_is_flushed(keep));
    keep_close(keep);
    keep = make(); /* anew, whatever was there */
    keep_remove(keep);
    keep_remove(NULL);
    keep_close(NULL);
}

static void a_disk_never_written_keeps_nothing(void **state)
{
    struct keep *keep;
    struct stat status;

    (void)state;
    assert_int_equal(keep_create(path, ENTRIES, false, &identity, &keep, reason), 0);
    assert_int_equal(stat(path, &status), 0);
    assert_true(status.st_blocks * 512 < 64 << 10);
    keep = crash(keep);
    assert_true(keep_is_flushed(keep));
    assert_false(keep_is_pressed(keep));
    keep_remove(keep);
}

static void opens(int expected, const char *text)
{
    struct keep *keep = NULL;
    int err = keep_open(path, FENCE_MS, &keep, reason);

    if (err != expected || keep)
        fail_msg("%s: %d and not %d", reason, err, expected);
    if (text && !strstr(reason, text))
        fail_msg("\"%s\" is not about \"%s\"", reason, text);
}

static void what_is_no_kept_file_is_not_used_and_left_alone(void **state)
{
    static char bytes[3 * LIMIT_PAGE_BYTES];
    struct keep *keep;
    struct stat status;
    uint64_t length;
    int fd;

    (void)state;
    opens(-ENOENT, NULL);
    put_file("short", 5);
    opens(-ENOENT, NULL);
    put_file(bytes, sizeof bytes); /* begun, and never finished: nothing depended on it */
    opens(-ENOENT, NULL);
    memset(bytes, 0xa5, sizeof bytes);
    put_file(bytes, sizeof bytes);
    opens(-EBADMSG, path);
    assert_true(exists(path));
    unlink(path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    opens(-ELOOP, path);
    keep = make(); /* in its place, not through it */
    assert_int_equal(lstat(path, &status), 0);
    assert_true(S_ISREG(status.st_mode));
    /* Cut off, at any page: never read beyond its end, which would be SIGBUS. */
    length = keep_journal(keep)->layout.data_offset + LIMIT_KEPT_FLOOR_BYTES;
    keep_close(keep);
    for (uint64_t cut = length; cut >= LIMIT_PAGE_BYTES; cut -= 61 * LIMIT_PAGE_BYTES) {
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, (off_t)cut), 0);
        close(fd);
        opens(-EBADMSG, NULL);
        if (cut < 61 * LIMIT_PAGE_BYTES)
            break;
    }
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(keep_open(path, FENCE_MS, &keep, reason) < 0);
    rmdir(path);
    assert_int_equal(keep_create("/proc/none/at/all", ENTRIES, true, &identity, &keep, reason),
                     -ENOENT);
    assert_non_null(strstr(reason, "/proc/none/at/all"));
}

/* -- memory ---------------------------------------------------------------------------------- */

static unsigned take_all(struct keep *keep, void *runs[], unsigned count)
{
    unsigned got = 0;

    while (got < count && (runs[got] = keep_alloc(keep, BLOCK)))
        got++;
    return got;
}

static void a_floor_for_each_and_a_budget_for_all(void **state)
{
    void *runs[64], *others[64];
    struct keep *one, *other;

    (void)state;
    assert_int_equal(BLOCK, slab_alloc_max());
    keep_set_budget(3 * BLOCK);
    one = make();
    other = make_at(other_path);
    assert_int_equal(take_all(one, runs, 64), 4);
    assert_int_equal(take_all(other, others, 64), 1); /* its own; the rest is the first's */
    keep_drop(one, runs[3], BLOCK);
    assert_null(keep_alloc(other, 1)); /* what a file has it keeps ... */
    keep_remove(one);                  /* ... as long as it is there */
    assert_int_equal(take_all(other, others + 1, 63), 3);
    keep_remove(other);
    one = make(); /* all of it is there again */
    assert_int_equal(take_all(one, runs, 64), 4);
    keep_remove(one);

    keep_set_budget(UINT32_MAX);
    one = make();
    assert_int_equal(take_all(one, runs, 64), LIMIT_KEPT_PER_DISK_BYTES / BLOCK);
    assert_null(keep_alloc(one, BLOCK + 1));
    keep_remove(one);
}

/* What an earlier life had grown to is its file's, whatever the budget is by now. */
static void memory_survives_a_crash(void **state)
{
    void *runs[64];
    struct keep *keep;

    (void)state;
    keep_set_budget(2 * BLOCK);
    keep = make();
    assert_int_equal(take_all(keep, runs, 64), 3);
    keep_close(keep);
    keep_set_budget(BLOCK);
    keep = open_again();
    assert_int_equal(take_all(keep, runs, 64), 3);
    keep_close(keep);
    keep = open_again();
    keep_remove(keep);
    keep = make(); /* the budget came through all that */
    assert_int_equal(take_all(keep, runs, 64), 2);
    keep_remove(keep);
}

static void fill(const char *name, uint64_t leave_bytes)
{
    static const char page[LIMIT_PAGE_BYTES];
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    off_t length = 0;

    assert_true(fd >= 0);
    while (write(fd, page, sizeof page) == (ssize_t)sizeof page)
        length += (off_t)sizeof page;
    assert_int_equal(ftruncate(fd, length - (off_t)leave_bytes), 0);
    close(fd);
}

/* On a tmpfs that is full, an attach fails, and says so; a disk that runs goes on with what it has.
 * A store into a page that could not be had would be SIGBUS. */
static void a_full_tmpfs_fails_an_attach_and_no_running_disk(void **state)
{
    char filler[80];
    void *runs[64];
    struct keep *keep = make(), *second = NULL;
    unsigned count;

    (void)state;
    snprintf(filler, sizeof filler, "%s/filler", directory);
    fill(filler, BLOCK); /* a file wants its tables besides */
    assert_int_equal(keep_create(other_path, ENTRIES, true, &identity, &second, reason), -ENOSPC);
    assert_non_null(strstr(reason, "tmpfs"));
    assert_false(exists(other_path));
    count = take_all(keep, runs, 64);
    assert_int_equal(count, 2); /* the floor, and the one that was left */
    for (unsigned i = 0; i < count; i++)
        memset(runs[i], 0x5a, BLOCK);
    fill(filler, 0);
    assert_null(keep_alloc(keep, 1));
    keep = crash(keep);
    assert_int_equal(take_all(keep, runs, 64), 2);
    unlink(filler);
    /* Nothing of the budget was lost on the way. */
    keep_set_budget(3 * BLOCK);
    keep_remove(keep);
    keep = make();
    assert_int_equal(take_all(keep, runs, 64), 5); /* one came back with the file above */
    keep_remove(keep);
}

static struct kept *add(struct keep *keep, uint64_t offset_bytes, uint32_t length_bytes)
{
    void *run = keep_alloc(keep, length_bytes);
    struct kept *kept;

    assert_non_null(run);
    kept = kept_add(keep, JOURNAL_WRITE, false, offset_bytes, length_bytes, run);
    assert_non_null(kept);
    return kept; /* both its request and its record hold the bytes */
}

static struct kept *send(struct keep *keep, uint64_t offset_bytes, uint32_t length_bytes)
{
    struct kept *kept = add(keep, offset_bytes, length_bytes);

    kept_sent(keep, kept);
    return kept;
}

/* Its request, the only one, is answered. */
static void release(struct keep *keep, struct kept *kept)
{
    if (kept->kind == JOURNAL_WRITE)
        keep_drop(keep, kept->data, kept->length_bytes);
    kept_release(keep, kept, kept->length_bytes);
}

static void answered(struct keep *keep, struct kept *kept)
{
    kept_returned(keep, kept);
    kept_done(keep, kept, false);
    release(keep, kept);
}

static enum journal_record_state in_file(struct keep *keep, uint32_t number)
{
    struct journal_record record;

    return journal_record(keep_journal(keep), number, &record) ? record.state : JOURNAL_FREE;
}

static struct kept *adopt(struct keep *keep, const struct journal_entry *entry)
{
    struct kept *kept = NULL;

    assert_int_equal(keep_adopt(keep, entry, &kept), 0);
    return kept;
}

/* Out of memory, out of records, or soon to be: a flush is due, if it would help. */
static void pressed_in_time(void **state)
{
    struct keep *keep;
    struct kept *kept[8];

    (void)state;
    keep_set_budget(0);
    keep = make();
    assert_false(keep_is_pressed(keep));
    for (unsigned i = 0; i < 6; i++) {
        kept[i] = send(keep, i * 262144, 262144);
        assert_false(keep_is_pressed(keep)); /* nothing is done: what would a flush cover? */
    }
    for (unsigned i = 0; i < 6; i++)
        answered(keep, kept[i]);
    assert_false(keep_is_pressed(keep)); /* a quarter is left ... */
    kept[6] = send(keep, 6 * 262144, 262144);
    assert_true(keep_is_pressed(keep)); /* ... and now less */
    keep_flushed(keep, keep_flush_mark(keep));
    assert_false(keep_is_pressed(keep));
    answered(keep, kept[6]);
    assert_false(keep_is_pressed(keep));
    assert_null(keep_alloc(keep, BLOCK)); /* somebody waits */
    assert_true(keep_is_pressed(keep));
    keep_flushed(keep, keep_flush_mark(keep));
    assert_false(keep_is_pressed(keep));
    keep_drop(keep, keep_alloc(keep, BLOCK), BLOCK); /* nothing was lost on the way */
    keep_set_budget(BLOCK);
    kept[0] = send(keep, 0, 262144 * 7);
    answered(keep, kept[0]);
    assert_false(keep_is_pressed(keep)); /* it can grow yet */
    keep_remove(keep);
}

static void records_end_too(void **state)
{
    struct keep *keep = make();
    struct kept *first = NULL, *kept;

    (void)state;
    for (uint32_t i = 0; i < LIMIT_RECORDS_PER_DISK; i++) {
        kept = kept_add(keep, JOURNAL_TRIM, false, i * 4096, 4096, NULL);
        assert_non_null(kept);
        first = first ? first : kept;
        kept_sent(keep, kept);
        answered(keep, kept);
        assert_int_equal(keep_is_pressed(keep), i >= LIMIT_RECORDS_PER_DISK / 2);
    }
    assert_null(kept_add(keep, JOURNAL_TRIM, false, 0, 4096, NULL));
    assert_true(keep_is_pressed(keep));
    keep_flushed(keep, first->done_mark); /* one comes back, and that is all */
    assert_non_null(kept = kept_add(keep, JOURNAL_TRIM, false, 0, 4096, NULL));
    assert_null(kept_add(keep, JOURNAL_TRIM, false, 0, 4096, NULL));
    kept_refused(keep, kept);
    release(keep, kept);
    keep_flushed(keep, keep_flush_mark(keep));
    assert_true(keep_is_flushed(keep));
    assert_int_equal(journal_records_left(keep_journal(keep)), LIMIT_RECORDS_PER_DISK);
    keep_remove(keep);
}

/* -- flushes --------------------------------------------------------------------------------- */

/* A flush covers what was done when it was sent, and nothing that came after. */
static void a_flush_covers_what_was_done_before_it(void **state)
{
    struct keep *keep = make();
    struct kept *before = send(keep, 0, 4096), *late = send(keep, 8192, 4096);
    uint32_t late_number = late->number;
    uint64_t mark;

    (void)state;
    assert_true(keep_is_flushed(keep));
    answered(keep, before);
    assert_int_equal(in_file(keep, before->number), JOURNAL_DONE);
    assert_int_equal(keep_unflushed_bytes(keep), 4096);
    mark = keep_flush_mark(keep);
    answered(keep, late);
    keep_flushed(keep, mark);
    assert_false(keep_is_flushed(keep));
    assert_int_equal(keep_unflushed_bytes(keep), 4096);
    assert_int_equal(in_file(keep, before->number), JOURNAL_FREE);
    assert_int_equal(in_file(keep, late_number), JOURNAL_DONE);
    keep_flushed(keep, mark); /* nothing more by the same */
    assert_false(keep_is_flushed(keep));
    keep_flushed(keep, keep_flush_mark(keep));
    assert_true(keep_is_flushed(keep));
    assert_int_equal(keep_unflushed_bytes(keep), 0);
    keep_remove(keep);
}

/* A flush may overtake the answer: the bytes are the request's until then. */
static void a_flush_before_the_answer(void **state)
{
    struct keep *keep = make();
    struct kept *kept = send(keep, 0, BLOCK);
    void *data = kept->data;
    uint32_t number = kept->number;

    (void)state;
    keep_set_budget(0);
    kept_returned(keep, kept);
    kept_done(keep, kept, false);
    keep_flushed(keep, keep_flush_mark(keep));
    assert_true(keep_is_flushed(keep));
    assert_int_not_equal(in_file(keep, number), JOURNAL_FREE); /* its entry has not been answered */
    assert_null(keep_alloc(keep, 1));
    release(keep, kept);
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    assert_ptr_equal(keep_alloc(keep, BLOCK), data);
    keep_drop(keep, data, BLOCK);

    kept = send(keep, 0, BLOCK); /* and with a ghost, which needs the range alone */
    number = kept->number;
    keep_lost(keep, 1);
    kept_sent(keep, kept);
    kept_returned(keep, kept);
    kept_done(keep, kept, false);
    keep_flushed(keep, keep_flush_mark(keep));
    assert_int_equal(in_file(keep, number), JOURNAL_GHOST);
    assert_null(keep_alloc(keep, 1));
    keep_drop(keep, data, BLOCK);
    kept_release(keep, kept, BLOCK);
    assert_ptr_equal(keep_alloc(keep, BLOCK), data);
    assert_int_equal(keep_ghosts(keep), 1);
    keep_remove(keep);
}

static void what_is_durable_at_once_needs_no_flush(void **state)
{
    struct keep *keep = make();
    struct kept *kept = send(keep, 0, 4096);
    uint32_t number = kept->number;

    (void)state;
    kept_returned(keep, kept);
    kept_done(keep, kept, true);
    assert_true(keep_is_flushed(keep));
    release(keep, kept);
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    keep_remove(keep);
}

/* A record of several requests lives until the last of them is answered; their bytes, even of one
 * page, each as long as its own request. */
static void one_record_of_several_requests(void **state)
{
    struct keep *keep = make();
    uint8_t *data = keep_alloc(keep, 3 * 1024);
    struct kept *kept;
    uint32_t number;

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        keep_hold(keep, data + i * 1024, 1024);
    keep_drop(keep, data, 3 * 1024);
    kept = kept_add(keep, JOURNAL_WRITE, true, 4096, 3 * 1024, data);
    number = kept->number;
    kept_sent(keep, kept);
    kept_returned(keep, kept);
    kept_done(keep, kept, true);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_not_equal(in_file(keep, number), JOURNAL_FREE);
        keep_drop(keep, data + i * 1024, 1024);
        kept_release(keep, kept, 1024);
    }
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    for (unsigned i = 0; i < LIMIT_KEPT_FLOOR_BYTES / BLOCK; i++)
        assert_non_null(keep_alloc(keep, BLOCK)); /* nothing is held any more */
    keep_remove(keep);
}

/* -- ghosts ---------------------------------------------------------------------------------- */

static bool may_write(const struct keep *keep, uint64_t offset_bytes, uint64_t length_bytes)
{
    return !keep_ghost_overlaps(keep, offset_bytes, length_bytes, false, NULL, 0);
}

static void a_ghost_is_in_the_way_until_all_its_sessions_are_over(void **state)
{
    struct keep *keep = make();
    struct kept *kept = send(keep, 4096, 4096), *alone = send(keep, 65536, 4096);
    uint32_t number = kept->number;

    (void)state;
    assert_int_equal(keep_ghosts(keep), 0);
    assert_true(may_write(keep, 4096, 4096)); /* in its own session its age is enough */
    keep_lost(keep, 1);
    assert_int_equal(keep_ghosts(keep), 2);
    assert_int_equal(keep_parked(keep), 1);
    assert_false(may_write(keep, 0, 4608));
    assert_false(may_write(keep, 7680, 4096));
    assert_true(may_write(keep, 0, 4096));
    assert_true(may_write(keep, 8192, 4096));
    assert_false(keep_ghost_overlaps(keep, 4096, 4096, false, kept, 0)); /* the same bytes */
    assert_true(keep_ghost_overlaps(keep, 4096, 4096, true, NULL, 0));   /* a trim is not */
    kept_sent(keep, kept);
    keep_lost(keep, 4); /* again; the other was not sent again */
    assert_int_equal(keep_parked(keep), 5);
    kept_sent(keep, kept);
    answered(keep, kept);
    assert_int_equal(in_file(keep, number), JOURNAL_DONE_OUT);
    keep_flushed(keep, keep_flush_mark(keep));
    assert_int_equal(in_file(keep, number), JOURNAL_GHOST);
    assert_false(may_write(keep, 4096, 512));
    keep_fenced(keep, 4 | 2 | 8); /* the later one, and others' */
    assert_int_equal(keep_ghosts(keep), 2);
    assert_false(may_write(keep, 4096, 512)); /* of the first session, yet */
    keep_fenced(keep, 1);
    assert_true(may_write(keep, 4096, 512));
    assert_true(may_write(keep, 65536, 4096));
    assert_int_equal(in_file(keep, alone->number), JOURNAL_SENT); /* its request waits */
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    assert_int_equal(keep_ghosts(keep) + keep_parked(keep), 0);
    kept_refused(keep, alone);
    release(keep, alone);
    assert_int_equal(journal_records_left(keep_journal(keep)), LIMIT_RECORDS_PER_DISK);
    keep_remove(keep);
}

static void what_was_answered_in_its_session_is_no_ghost(void **state)
{
    struct keep *keep = make();
    struct kept *kept = send(keep, 0, 4096);

    (void)state;
    answered(keep, kept);
    keep_lost(keep, 1);
    assert_int_equal(keep_ghosts(keep), 0);
    assert_true(may_write(keep, 0, 4096));
    assert_false(keep_is_flushed(keep)); /* but it is written again */
    keep_remove(keep);
}

static void a_trim_may_pass_a_ghost_that_trims(void **state)
{
    struct keep *keep = make();
    struct kept *trim = kept_add(keep, JOURNAL_TRIM, false, 0, 65536, NULL);
    struct kept *zeroes = kept_add(keep, JOURNAL_ZEROES, false, 65536, 65536, NULL);

    (void)state;
    kept_sent(keep, trim);
    kept_sent(keep, zeroes);
    keep_lost(keep, 2);
    assert_false(keep_ghost_overlaps(keep, 0, 65536, true, NULL, 0));
    assert_true(keep_ghost_overlaps(keep, 0, 65536, false, NULL, 0));
    assert_true(keep_ghost_overlaps(keep, 65536, 512, true, NULL, 0)); /* zeroes are written */
    keep_remove(keep);
}

/* The server failed it: its bytes are not wanted, but what it was told before may still come. */
static void refused_with_ghosts_and_without(void **state)
{
    struct keep *keep = make();
    struct kept *kept = send(keep, 0, BLOCK);
    void *data = kept->data;
    uint32_t number = kept->number;

    (void)state;
    keep_set_budget(0);
    kept_returned(keep, kept);
    kept_refused(keep, kept);
    release(keep, kept);
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    kept = send(keep, 0, BLOCK);
    assert_ptr_equal(kept->data, data);
    number = kept->number;
    keep_lost(keep, 1);
    kept_sent(keep, kept);
    kept_returned(keep, kept);
    kept_refused(keep, kept);
    assert_null(keep_alloc(keep, 1)); /* the bytes are the request's yet: it may try others' way */
    keep_drop(keep, data, BLOCK);
    kept_release(keep, kept, BLOCK);
    assert_int_equal(in_file(keep, number), JOURNAL_GHOST);
    assert_false(may_write(keep, 0, 512));
    assert_true(keep_is_flushed(keep));
    assert_ptr_equal(keep_alloc(keep, BLOCK), data); /* a ghost needs no bytes */
    keep_fenced(keep, 1);
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    assert_int_equal(keep_ghosts(keep), 0);
    keep_remove(keep);
}

/* Fenced between the reply and the answer, and before the flush. */
static void the_end_of_a_ghost_leaves_what_is_not_flushed(void **state)
{
    struct keep *keep = make();
    struct kept *kept = send(keep, 0, 4096);
    uint32_t number = kept->number;

    (void)state;
    keep_lost(keep, 1);
    kept_sent(keep, kept);
    kept_returned(keep, kept);
    kept_done(keep, kept, false);
    keep_fenced(keep, 1);
    assert_int_equal(in_file(keep, number), JOURNAL_DONE);
    release(keep, kept);
    assert_int_equal(in_file(keep, number), JOURNAL_DONE);
    assert_non_null(kept->data);
    keep_flushed(keep, keep_flush_mark(keep));
    assert_int_equal(in_file(keep, number), JOURNAL_FREE);
    keep_remove(keep);
}

/* -- replay ---------------------------------------------------------------------------------- */

static void the_newest_bytes_are_written_again_once_each(void **state)
{
    struct keep *keep = make();
    struct kept *old = send(keep, 0, 16384), *new, *kept;
    struct journal_part part;
    uint64_t covered = 0;

    (void)state;
    answered(keep, old);
    new = send(keep, 4096, 4096);
    answered(keep, new);
    answered(keep, send(keep, 65536, 4096));
    (void)send(keep, 0, 512); /* not answered: sent again by its request, not here */
    keep_lost(keep, 1);
    keep_replay_begin(keep);
    while (keep_replay_next(keep, &kept, &part)) {
        const struct kept *expected = part.offset_bytes < 65536 ? old : NULL;

        if (part.offset_bytes >= 4096 && part.offset_bytes < 8192)
            expected = new;
        if (expected)
            assert_ptr_equal(kept, expected);
        assert_int_equal(part.data_at_bytes,
                         keep_data_at(keep, kept->data) + part.offset_bytes - kept->offset_bytes);
        covered += part.length_bytes;
        kept_sent(keep, kept);
    }
    assert_int_equal(covered, 16384 + 4096);
    assert_int_equal(in_file(keep, old->number), JOURNAL_DONE_OUT);
    assert_int_equal(old->out, 2); /* in two parts: over when both are */
    kept_returned(keep, old);
    assert_int_equal(in_file(keep, old->number), JOURNAL_DONE_OUT);
    keep_lost(keep, 2);
    kept_sent(keep, old);
    kept_returned(keep, old);
    assert_int_equal(in_file(keep, old->number), JOURNAL_DONE_OUT); /* a replay is a ghost, too */
    assert_false(may_write(keep, 12288, 4096));
    keep_fenced(keep, 3);
    assert_int_equal(in_file(keep, old->number), JOURNAL_DONE);
    keep_remove(keep);
}

/* -- after a crash --------------------------------------------------------------------------- */

static struct journal_entry entry_of(const struct keep *keep, const void *data, uint32_t bytes)
{
    return (struct journal_entry){.data_at_bytes = keep_data_at(keep, data), .length_bytes = bytes};
}

static void a_crash_leaves_what_it_found(void **state)
{
    struct keep *keep = make();
    struct kept *sent = send(keep, 0, 4096), *orphan = send(keep, 8192, 4096);
    struct kept *done = send(keep, 16384, 4096), *out = send(keep, 32768, 4096);
    uint8_t *copied = keep_alloc(keep, 4096);
    struct journal_entry of_sent = entry_of(keep, sent->data, 4096);
    struct journal_entry of_done = entry_of(keep, done->data, 4096);
    struct journal_entry of_copied = entry_of(keep, copied, 4096);
    uint32_t orphan_number = orphan->number, out_number = out->number;

    (void)state;
    memset(done->data, 0xd0, 4096);
    memset(out->data, 0x07, 4096);
    memset(copied, 0xc0, 4096);
    keep_lost(keep, 8);
    kept_sent(keep, out);
    answered(keep, out);
    kept_sent(keep, done);
    kept_returned(keep, done);
    kept_done(keep, done, false); /* not answered to the guest */
    keep_fenced(keep, 8);
    kept_sent(keep, out); /* of a replay */
    keep = crash(keep);
    assert_int_equal(keep_unflushed_bytes(keep), 8192);
    assert_int_equal(keep_parked(keep), 1);
    assert_int_equal(keep_ghosts(keep), 3); /* two sent, and the replay */
    assert_true(may_write(keep, 16384, 4096));

    sent = adopt(keep, &of_sent);
    assert_non_null(sent);
    assert_int_equal(sent->offset_bytes, 0);
    assert_int_equal(sent->asked_bytes, 4096);
    assert_false(sent->over);
    done = adopt(keep, &of_done);
    assert_non_null(done);
    assert_true(done->over); /* to be answered, not sent */
    assert_int_equal(*done->data, 0xd0);
    assert_null(adopt(keep, &of_copied)); /* to be sent, for the first time */
    copied = journal_data(keep_journal(keep), of_copied.data_at_bytes);
    assert_int_equal(*(uint8_t *)copied, 0xc0);
    keep_adopted(keep);
    assert_int_equal(in_file(keep, orphan_number), JOURNAL_GHOST);
    assert_int_equal(in_file(keep, out_number), JOURNAL_DONE_OUT);

    /* And all of it comes to its end. */
    keep_drop(keep, copied, 4096);
    release(keep, done);
    kept_sent(keep, sent);
    answered(keep, sent);
    keep_flushed(keep, keep_flush_mark(keep));
    assert_false(may_write(keep, 0, 512));
    assert_false(may_write(keep, 32768, 512));
    keep_fenced(keep, 1);
    assert_int_equal(keep_ghosts(keep), 0);
    assert_int_equal(journal_records_left(keep_journal(keep)), LIMIT_RECORDS_PER_DISK);
    assert_non_null(keep_alloc(keep, BLOCK)); /* one of the floor's: all runs were given back */
    keep_remove(keep);
}

static struct keep *crash_with(struct keep *keep, uint32_t fence_time_ms)
{
    keep_close(keep);
    keep = NULL;
    if (keep_open(path, fence_time_ms, &keep, reason) < 0)
        fail_msg("%s", reason);
    return keep;
}

/* Else a daemon that crashes again and again would have everybody wait who writes where it was. */
static void a_ghosts_time_goes_on_over_crashes(void **state)
{
    struct keep *keep = make();
    struct kept *kept = kept_add(keep, JOURNAL_TRIM, false, 0, 4096, NULL);

    (void)state;
    kept_sent(keep, kept);
    keep = crash_with(keep, 0); /* its connection has only just gone */
    assert_int_equal(keep_ghosts(keep), 1);
    keep_adopted(keep);
    keep = crash_with(keep, FENCE_MS); /* it was not sent again, but it is not over yet */
    assert_int_equal(keep_ghosts(keep), 1);
    keep = crash_with(keep, 0); /* since the first crash, it is */
    assert_int_equal(keep_ghosts(keep), 0);

    kept = kept_add(keep, JOURNAL_TRIM, false, 0, 4096, NULL);
    kept_sent(keep, kept);
    kept_returned(keep, kept);
    kept_done(keep, kept, false);
    release(keep, kept);
    kept_sent(keep, kept); /* a replay: at a server once more */
    keep = crash_with(keep, 0);
    assert_int_equal(keep_ghosts(keep), 1);
    keep_remove(keep);
}

/* The crash's place is free once that is over, and the next lost session may have it: its sockets
 * are open, and its time has not begun. */
static void a_session_in_the_crashs_place_is_not_the_crash(void **state)
{
    struct keep *keep = make();
    struct kept *kept = kept_add(keep, JOURNAL_TRIM, false, 0, 4096, NULL);
    struct journal_record record;
    struct journal_part part;
    uint32_t number = kept->number;

    (void)state;
    kept_sent(keep, kept);
    kept_returned(keep, kept);
    kept_done(keep, kept, false);
    release(keep, kept);
    keep = crash_with(keep, 0);
    keep_fenced(keep, 1);
    keep_replay_begin(keep);
    assert_true(keep_replay_next(keep, &kept, &part));
    kept_sent(keep, kept);
    keep_lost(keep, 1);
    assert_true(journal_record(keep_journal(keep), number, &record));
    assert_false(record.gone);
    keep = crash_with(keep, 0);
    assert_int_equal(keep_ghosts(keep), 1);
    keep_remove(keep);
}

/* Sent in chunks, or copied where its first segment lies in its frame: found by any byte of it. */
static void a_request_is_found_by_where_its_bytes_lie(void **state)
{
    struct keep *keep = make();
    uint8_t *run = keep_alloc(keep, 20000);
    struct kept *kept = kept_add(keep, JOURNAL_WRITE, true, 1536, 16384, run + 1536);
    struct journal_entry entry = entry_of(keep, run + 1536, 16384);
    struct journal_entry outside = {.data_at_bytes = LIMIT_KEPT_PER_DISK_BYTES - 4096,
                                    .length_bytes = 4096};
    struct journal_entry beyond = entry_of(keep, run + 1536 + 512, 16384);

    (void)state;
    kept_sent(keep, kept);
    memset(run + 1536, 0x77, 16384);
    keep = crash(keep);
    kept = adopt(keep, &entry);
    assert_non_null(kept);
    for (unsigned i = 0; i < 16384; i++)
        assert_int_equal(kept->data[i], 0x77);
    /* Memory that was never there; more than its record. */
    assert_int_equal(keep_adopt(keep, &outside, &kept), -EBADMSG);
    assert_int_equal(keep_adopt(keep, &beyond, &kept), -EBADMSG);
    keep_remove(keep);
}

/* Sent together once: found as one by each of them, and to be sent as one only if all are there. */
static void requests_of_one_record_are_found_together(void **state)
{
    for (unsigned missing = 0; missing < 4; missing++) { /* 3: none */
        struct keep *keep = make();
        uint8_t *data = keep_alloc(keep, 3 * 1536);
        struct kept *kept = kept_add(keep, JOURNAL_WRITE, true, 0, 3 * 1536, data);
        struct journal_entry entries[3];
        uint32_t number = kept->number;

        (void)state;
        for (unsigned i = 0; i < 3; i++)
            entries[i] = entry_of(keep, data + i * 1536, 1536);
        kept_sent(keep, kept);
        keep = crash(keep);
        for (unsigned i = 0; i < 3; i++)
            assert_true(i == missing || (kept = adopt(keep, &entries[i])) != NULL);
        assert_int_equal(kept->number, number);
        assert_int_equal(kept->asked_bytes == kept->length_bytes, missing == 3);
        for (unsigned i = 0; i < 3 && missing < 3; i++)
            if (i != missing)
                kept_release(keep, kept, 1536);
        keep_adopted(keep);
        assert_int_equal(in_file(keep, number), missing < 3 ? JOURNAL_GHOST : JOURNAL_SENT);
        keep_remove(keep);
    }
}

/* -- a disk's whole use of it, at random ----------------------------------------------------- */

enum {
    SECTORS = 48,
    SLOTS = 32,
    COMMANDS = 512,
    STEPS = 60000,
    NONCE = 99,
    CRASH_BIT = 1,
};

enum life { UNUSED, WAITING, SENT, REPLIED };

struct request {
    enum life life;
    uint64_t age;
    bool trim, failed, alone;
    uint32_t entry, at, count, into, version;
    struct kept *kept;
    struct list kept_link;
    uint8_t *data;
};

/* At the server, or in a socket on the way there. */
struct command {
    bool used, trim;
    uint32_t parked;   /* the bit of its lost session; 0: of this one */
    struct kept *kept; /* this session's */
    bool replay;       /* else it is of kept->requests */
    uint32_t at, count, values[SECTORS];
};

static struct world {
    struct keep *keep;
    struct journal_queue queue;
    uint32_t rsp_prod, req_prod, versions, places, next_at;
    uint64_t ages;
    bool up, replaying, flushing;
    uint64_t flush_mark;
    struct request requests[SLOTS];
    struct command commands[COMMANDS];
    uint32_t cache[SECTORS], disk[SECTORS]; /* the server's */
    uint32_t promised[SECTORS];
    bool unknown[SECTORS]; /* a write of it was answered ERROR */
    unsigned losses, crashes, ghosts, waits, merged, splits;
} w;

static unsigned dice(unsigned sides)
{
    return (unsigned)rand() % sides;
}

static void adopt_rings(bool first)
{
    struct journal *journal = keep_journal(w.keep);
    struct journal_connection connection = {
        .abi = BLKIF_ABI_X86_64,
        .queue_count = 1,
        .ring[0] = {.nonce = NONCE, .slots = SLOTS, .event_channel = 1, .page_count = 1},
    };
    struct ring_view view = {.nonce = NONCE, .rsp_prod = w.rsp_prod, .req_prod = w.req_prod};
    uint32_t taken;

    if (first)
        assert_int_equal(journal_connect(journal, &connection, &w.rsp_prod), 0);
    assert_int_equal(journal_recover(journal, 0, &view, &w.queue, &taken, reason), 0);
    assert_int_equal(taken, w.req_prod - w.rsp_prod);
}

/* A guest's request is its slot, as a guest of this ABI writes it; its id is the version that its
 * bytes have. Segments of one sector each, the first of them anywhere in its frame. */
static void write_slot(uint8_t *slot, const struct request *request)
{
    const uint64_t id = request->version, sector = request->at, sectors = request->count;

    memset(slot, 0, LIMIT_SLOT_BYTES);
    slot[0] = request->trim ? BLKIF_DISCARD : BLKIF_WRITE;
    slot[1] = request->trim ? 0 : (uint8_t)request->count;
    memcpy(slot + 8, &id, sizeof id);
    memcpy(slot + 16, &sector, sizeof sector);
    if (request->trim)
        memcpy(slot + 24, &sectors, sizeof sectors);
    for (uint32_t i = 0; !request->trim && i < request->count; i++)
        slot[24 + 8 * i + 4] = slot[24 + 8 * i + 5] = (uint8_t)(i == 0 ? request->into : 0);
}

static uint32_t bytes_of(const struct request *request)
{
    return request->count * LIMIT_SECTOR_BYTES;
}

/* The bytes of requests side by side, in one piece; each holds its own part. */
static bool copy_in(struct request *const group[], unsigned count)
{
    uint32_t into = group[0]->into * LIMIT_SECTOR_BYTES, bytes = into;
    uint8_t *run, *data;

    for (unsigned i = 0; i < count; i++)
        bytes += bytes_of(group[i]);
    run = keep_alloc(w.keep, bytes);
    if (!run)
        return false;
    data = run + into;
    for (unsigned i = 0; i < count; i++) {
        struct request *request = group[i];

        request->data = data;
        data += bytes_of(request);
        keep_hold(w.keep, request->data, bytes_of(request));
        for (uint32_t at = 0; at < bytes_of(request); at += sizeof request->version)
            memcpy(request->data + at, &request->version, sizeof request->version);
        journal_copied(&w.queue, request->entry, keep_data_at(w.keep, request->data),
                       bytes_of(request));
    }
    keep_drop(w.keep, run, bytes);
    return true;
}

static void take(void)
{
    struct request *request = w.requests;
    uint8_t *slot;

    while (request < w.requests + SLOTS && request->life != UNUSED)
        request++;
    if (request == w.requests + SLOTS)
        return;
    *request = (struct request){
        .life = WAITING, .age = ++w.ages, .trim = dice(10) == 0, .version = ++w.versions};
    request->at = dice(3) ? w.next_at % SECTORS : dice(SECTORS);
    request->count = 1 + dice(SECTORS - request->at < 11 ? SECTORS - request->at : 11);
    w.next_at = request->at + request->count;
    request->into = dice(8);
    if (request->trim)
        request->version = 0;
    w.req_prod++;
    assert_non_null(slot = journal_next_slot(&w.queue));
    write_slot(slot, request);
    request->entry = journal_taken(&w.queue);
}

static bool overlap(uint32_t at, uint32_t count, uint32_t other_at, uint32_t other_count)
{
    return at < other_at + other_count && other_at < at + count;
}

static bool may_start(const struct request *request)
{
    for (const struct request *other = w.requests; other < w.requests + SLOTS; other++)
        if (other->life != UNUSED && other->age < request->age &&
            overlap(other->at, other->count, request->at, request->count))
            return false;
    if (keep_ghost_overlaps(w.keep, request->at * LIMIT_SECTOR_BYTES,
                            request->count * LIMIT_SECTOR_BYTES, request->trim, request->kept, 0)) {
        w.waits++;
        return false;
    }
    return true;
}

static struct command *new_command(struct kept *kept, bool replay)
{
    struct command *command = w.commands;

    while (command->used)
        assert_true(++command < w.commands + COMMANDS);
    *command = (struct command){.used = true, .kept = kept, .replay = replay};
    return command;
}

static bool room_for_command(void)
{
    unsigned used = 0;

    for (unsigned i = 0; i < COMMANDS; i++)
        used += w.commands[i].used;
    return used < COMMANDS - 2 * SECTORS;
}

/* What the bytes are when they leave: nobody else may have got at them. */
static void load_values(struct command *command, const uint8_t *data)
{
    uint32_t first, word;

    for (uint32_t i = 0; i < command->count; i++) {
        memcpy(&first, data + i * LIMIT_SECTOR_BYTES, sizeof first);
        for (uint32_t at = 0; at < LIMIT_SECTOR_BYTES; at += sizeof word) {
            memcpy(&word, data + i * LIMIT_SECTOR_BYTES + at, sizeof word);
            assert_int_equal(word, first);
        }
        command->values[i] = first;
    }
}

/* All that were sent together once; or `request` and what waits beside it. 0: not now. */
static unsigned gather(struct request *request, struct request *group[])
{
    unsigned count = 0;
    uint32_t end = request->at + request->count;

    if (request->kept) {
        list_each (node, &request->kept->requests) {
            group[count] = container_of(node, struct request, kept_link);
            if (!may_start(group[count++]))
                return 0;
        }
        return count;
    }
    group[count++] = request;
    if (request->trim || request->alone || request->data || !may_start(request))
        return may_start(request) ? count : 0;
    for (unsigned i = 0; i < SLOTS;) {
        struct request *other = &w.requests[i++];

        if (other->life == WAITING && other->at == end && !other->trim && !other->alone &&
            !other->data && may_start(other)) {
            group[count++] = other;
            end += other->count;
            i = 0; /* the next one may be any */
        }
    }
    return count;
}

static bool have_record(struct request *const group[], unsigned count)
{
    struct kept *kept;
    uint32_t bytes = 0;

    if (group[0]->kept)
        return true;
    for (unsigned i = 0; i < count; i++)
        bytes += bytes_of(group[i]);
    kept = kept_add(w.keep, group[0]->trim ? JOURNAL_TRIM : JOURNAL_WRITE, false,
                    group[0]->at * LIMIT_SECTOR_BYTES, bytes, group[0]->data);
    for (unsigned i = 0; kept && i < count; i++) {
        group[i]->kept = kept;
        list_append(&kept->requests, &group[i]->kept_link);
    }
    return kept != NULL;
}

static void start(struct request *request)
{
    struct request *group[SLOTS];
    struct command *command;
    unsigned count, at = 0;

    if (request->life != WAITING || !w.up || w.replaying || !room_for_command())
        return;
    count = gather(request, group);
    if (count == 0 || (!request->trim && !group[0]->data && !copy_in(group, count)))
        return;
    if (!have_record(group, count))
        return;
    w.merged += count > 1;
    kept_sent(w.keep, request->kept);
    command = new_command(request->kept, false);
    command->trim = request->trim;
    command->at = group[0]->at;
    for (unsigned i = 0; i < count; i++) {
        group[i]->life = SENT;
        command->count += group[i]->count;
    }
    if (request->trim)
        return;
    load_values(command, group[0]->data);
    for (unsigned i = 0; i < count; at += group[i++]->count)
        assert_int_equal(command->values[at], group[i]->version);
}

static void execute(struct command *command)
{
    for (uint32_t i = 0; i < command->count; i++)
        w.cache[command->at + i] = command->values[i];
}

static void leave_record(struct request *request)
{
    list_remove(&request->kept_link);
    kept_release(w.keep, request->kept, bytes_of(request));
    request->kept = NULL;
}

/* One of them is bad, nobody knows which: each is tried alone. */
static void split(struct kept *kept)
{
    kept_refused(w.keep, kept);
    list_each_safe (node, &kept->requests) {
        struct request *request = container_of(node, struct request, kept_link);

        request->life = WAITING;
        request->alone = true;
        leave_record(request);
    }
    w.splits++;
}

static void server_answers(struct command *command)
{
    struct kept *kept = command->kept;
    bool fails = !command->replay && dice(40) == 0;

    if (!fails || dice(2))
        execute(command);
    kept_returned(w.keep, kept);
    command->used = false;
    if (command->replay)
        return;
    if (fails && kept->requests.next != kept->requests.prev) {
        split(kept);
        return;
    }
    if (!fails)
        kept_done(w.keep, kept, false);
    list_each (node, &kept->requests) {
        struct request *request = container_of(node, struct request, kept_link);

        request->life = REPLIED;
        request->failed = fails;
    }
}

static void answer(struct request *request)
{
    journal_answering(&w.queue, request->entry, w.rsp_prod);
    journal_pushing(&w.queue, w.rsp_prod + 1);
    w.rsp_prod++;
    journal_pushed(&w.queue);
    for (uint32_t i = request->at; i < request->at + request->count; i++) {
        w.unknown[i] = request->failed;
        w.promised[i] = request->version;
    }
    if (request->failed)
        kept_refused(w.keep, request->kept);
    leave_record(request);
    if (request->data)
        keep_drop(w.keep, request->data, bytes_of(request));
    request->life = UNUSED;
}

static unsigned in_flight(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < COMMANDS; i++)
        count += w.commands[i].used && w.commands[i].parked == 0;
    return count;
}

/* The session, or the daemon, is gone; perhaps the server, and its cache with it. */
static void part(uint32_t bit)
{
    for (unsigned i = 0; i < COMMANDS; i++) {
        struct command *command = &w.commands[i];

        if (!command->used || command->parked)
            continue;
        command->parked = bit;
        if (!command->replay)
            list_each (node, &command->kept->requests)
                container_of(node, struct request, kept_link)->life = WAITING;
        command->kept = NULL;
    }
    if (dice(2))
        memcpy(w.cache, w.disk, sizeof w.cache);
    w.up = w.replaying = w.flushing = false;
}

static void lose(void)
{
    uint32_t bit = 2;

    while (w.places & bit)
        bit <<= 1;
    if (bit > 1u << 5) /* all places are taken: there would be no session */
        return;
    w.places |= bit;
    part(bit);
    keep_lost(w.keep, bit);
    w.losses++;
    if (keep_ghosts(w.keep) > w.ghosts)
        w.ghosts = keep_ghosts(w.keep);
}

static void fence(uint32_t bit)
{
    for (unsigned i = 0; i < COMMANDS; i++)
        if (w.commands[i].parked & bit)
            w.commands[i].used = false;
    w.places &= ~bit;
    keep_fenced(w.keep, bit);
}

static void connect_again(void)
{
    struct journal_part piece;
    struct kept *kept;

    if (!room_for_command())
        return;
    w.up = w.replaying = true;
    keep_replay_begin(w.keep);
    while (keep_replay_next(w.keep, &kept, &piece)) {
        struct command *command = new_command(kept, true);

        command->trim = kept->kind == JOURNAL_TRIM;
        command->at = (uint32_t)(piece.offset_bytes / LIMIT_SECTOR_BYTES);
        command->count = piece.length_bytes / LIMIT_SECTOR_BYTES;
        kept_sent(w.keep, kept);
        if (!command->trim)
            load_values(command, journal_data(keep_journal(w.keep), piece.data_at_bytes));
    }
}

/* By place, whatever the order in which they were taken. */
static void join_record(struct request *request)
{
    struct list *at = &request->kept->requests;

    while (at->prev != &request->kept->requests &&
           container_of(at->prev, struct request, kept_link)->at > request->at)
        at = at->prev;
    list_append(at, &request->kept_link);
}

static void readopt(uint32_t number)
{
    struct request *request = w.requests;
    struct journal_entry entry;
    struct blkif_req req;

    while (request->life != UNUSED)
        request++;
    assert_true(journal_entry(keep_journal(w.keep), number, &entry));
    blkif_req_decode(BLKIF_ABI_X86_64, entry.slot, &req);
    *request = (struct request){.life = WAITING,
                                .age = ++w.ages,
                                .entry = number,
                                .trim = req.op == BLKIF_DISCARD,
                                .at = (uint32_t)req.sector,
                                .count = req.op == BLKIF_WRITE ? req.segment_count
                                                               : (uint32_t)req.sector_count,
                                .into = req.seg[0].first_sect,
                                .version = (uint32_t)req.id};
    if (entry.length_bytes == 0)
        return;
    request->data = journal_data(keep_journal(w.keep), entry.data_at_bytes);
    request->kept = adopt(w.keep, &entry);
    if (request->kept)
        join_record(request);
    if (request->kept && request->kept->over)
        request->life = REPLIED;
}

static void crash_and_come_back(void)
{
    uint32_t order[ENTRIES], count;

    part(CRASH_BIT);
    for (unsigned i = 0; i < COMMANDS; i++)
        if (w.commands[i].used)
            w.commands[i].parked = CRASH_BIT;
    w.places = CRASH_BIT;
    w.keep = crash(w.keep);
    adopt_rings(false);
    memset(w.requests, 0, sizeof w.requests);
    count = journal_entries_by_age(keep_journal(w.keep), order);
    assert_int_equal(count, w.req_prod - w.rsp_prod);
    for (uint32_t i = 0; i < count; i++)
        readopt(order[i]);
    for (const struct request *request = w.requests; request < w.requests + SLOTS; request++)
        assert_true(request->life != WAITING || !request->kept ||
                    request->kept->asked_bytes == request->kept->length_bytes);
    keep_adopted(w.keep);
    w.crashes++;
}

/* What a read would bring now, where nobody is writing. */
static void check_cache(void)
{
    bool busy[SECTORS] = {false};

    for (const struct request *request = w.requests; request < w.requests + SLOTS; request++)
        for (uint32_t i = 0; request->life != UNUSED && i < request->count; i++)
            busy[request->at + i] = true;
    for (uint32_t i = 0; i < SECTORS; i++)
        if (!busy[i] && !w.unknown[i] && w.cache[i] != w.promised[i])
            fail_msg("step of version %u: sector %u has %u, and %u was answered OKAY", w.versions,
                     i, w.cache[i], w.promised[i]);
}

static void step_session(void)
{
    struct command *command = &w.commands[dice(COMMANDS)];

    if (!w.up) {
        if (dice(4) == 0)
            connect_again();
        return;
    }
    for (unsigned i = 0; i < COMMANDS && (!command->used || command->parked); i++)
        command = &w.commands[(unsigned)(command - w.commands + 1) % COMMANDS];
    if (command->used && !command->parked)
        server_answers(command);
    if (w.replaying && in_flight() == 0) {
        w.replaying = false;
        check_cache();
    }
    if (w.up && !w.replaying && !w.flushing && (keep_is_pressed(w.keep) || dice(20) == 0)) {
        w.flushing = true;
        w.flush_mark = keep_flush_mark(w.keep);
    } else if (w.flushing && dice(4) == 0) {
        w.flushing = false;
        memcpy(w.disk, w.cache, sizeof w.disk);
        keep_flushed(w.keep, w.flush_mark);
    }
}

static void step_late(void)
{
    struct command *command = &w.commands[dice(COMMANDS)];

    for (unsigned i = 0; i < COMMANDS && (!command->used || !command->parked); i++)
        command = &w.commands[(unsigned)(command - w.commands + 1) % COMMANDS];
    if (command->used && command->parked && dice(8) == 0) {
        execute(command); /* once, or never */
        command->used = false;
    }
    if (dice(30) == 0)
        fence(1u << dice(6));
}

static void step_requests(void)
{
    if (dice(2))
        take();
    for (struct request *request = w.requests; request < w.requests + SLOTS; request++) {
        if (request->life == WAITING && dice(3) == 0)
            start(request);
        else if (request->life == REPLIED && dice(2))
            answer(request);
    }
}

static void finish(void)
{
    for (uint32_t bit = 1; bit < 1u << 6; bit <<= 1)
        fence(bit);
    for (int i = 0; i < STEPS && (w.req_prod != w.rsp_prod || w.replaying || w.flushing); i++) {
        step_session();
        for (struct request *request = w.requests; request < w.requests + SLOTS; request++) {
            if (request->life == WAITING)
                start(request);
            else if (request->life == REPLIED)
                answer(request);
        }
    }
    assert_int_equal(w.req_prod, w.rsp_prod);
    check_cache();
    keep_flushed(w.keep, keep_flush_mark(w.keep));
    assert_int_equal(journal_records_left(keep_journal(w.keep)), LIMIT_RECORDS_PER_DISK);
    assert_non_null(keep_alloc(w.keep, BLOCK)); /* no run was lost either */
}

static void nothing_answered_is_lost_whatever_goes(void **state)
{
    unsigned losses = 0, crashes = 0, ghosts = 0, waits = 0, merged = 0, splits = 0;

    (void)state;
    for (unsigned seed = 1; seed <= 8; seed++) {
        srand(seed);
        keep_set_budget(0);
        memset(&w, 0, sizeof w);
        w.keep = make();
        adopt_rings(true);
        for (int i = 0; i < STEPS / 8; i++) {
            step_requests();
            step_session();
            step_late();
            if (w.up && !w.replaying)
                check_cache();
            if (w.up && dice(60) == 0)
                lose();
            if (dice(300) == 0)
                crash_and_come_back();
        }
        finish();
        keep_remove(w.keep);
        losses += w.losses, crashes += w.crashes, waits += w.waits;
        merged += w.merged, splits += w.splits;
        ghosts = w.ghosts > ghosts ? w.ghosts : ghosts;
    }
    printf(
        "keep: %u sessions lost, %u crashes, up to %u ghosts, in the way %u times, %u commands of "
        "several requests, %u of them split\n",
        losses, crashes, ghosts, waits, merged, splits);
    assert_true(losses > 200 && crashes > 50 && ghosts > 10 && waits > 1000);
    assert_true(merged > 1000 && splits > 20);
}

/* -- where ------------------------------------------------------------------------------------ */

/* In a mount namespace of our own: nothing of it is left, however this ends. */
static int make_tmpfs(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/file", directory);
    snprintf(other_path, sizeof other_path, "%s/other", directory);
    if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return -1;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    return mount("keep", directory, "tmpfs", 0, "size=160m,mode=700");
}

static int drop_tmpfs(void **state)
{
    (void)state;
    umount(directory);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_file_outlives_its_daemon, setup),
        cmocka_unit_test_setup(a_disk_never_written_keeps_nothing, setup),
        cmocka_unit_test_setup(what_is_no_kept_file_is_not_used_and_left_alone, setup),
        cmocka_unit_test_setup(a_floor_for_each_and_a_budget_for_all, setup),
        cmocka_unit_test_setup(memory_survives_a_crash, setup),
        cmocka_unit_test_setup(a_full_tmpfs_fails_an_attach_and_no_running_disk, setup),
        cmocka_unit_test_setup(pressed_in_time, setup),
        cmocka_unit_test_setup(records_end_too, setup),
        cmocka_unit_test_setup(a_flush_covers_what_was_done_before_it, setup),
        cmocka_unit_test_setup(a_flush_before_the_answer, setup),
        cmocka_unit_test_setup(what_is_durable_at_once_needs_no_flush, setup),
        cmocka_unit_test_setup(one_record_of_several_requests, setup),
        cmocka_unit_test_setup(a_ghost_is_in_the_way_until_all_its_sessions_are_over, setup),
        cmocka_unit_test_setup(what_was_answered_in_its_session_is_no_ghost, setup),
        cmocka_unit_test_setup(a_trim_may_pass_a_ghost_that_trims, setup),
        cmocka_unit_test_setup(refused_with_ghosts_and_without, setup),
        cmocka_unit_test_setup(the_end_of_a_ghost_leaves_what_is_not_flushed, setup),
        cmocka_unit_test_setup(the_newest_bytes_are_written_again_once_each, setup),
        cmocka_unit_test_setup(a_crash_leaves_what_it_found, setup),
        cmocka_unit_test_setup(a_ghosts_time_goes_on_over_crashes, setup),
        cmocka_unit_test_setup(a_session_in_the_crashs_place_is_not_the_crash, setup),
        cmocka_unit_test_setup(a_request_is_found_by_where_its_bytes_lie, setup),
        cmocka_unit_test_setup(requests_of_one_record_are_found_together, setup),
        cmocka_unit_test_setup(nothing_answered_is_lost_whatever_goes, setup),
    };

    return cmocka_run_group_tests(tests, make_tmpfs, drop_tmpfs);
}
