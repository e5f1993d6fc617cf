#include "gateway/keep.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/faults.h"
#include "gateway/pages.h"
#include "gateway/slab.h"

enum { STAT_BLOCK_BYTES = 512 }; /* what st_blocks counts in */

struct keep {
    char *path;
    int fd;
    uint8_t *memory;
    uint64_t length_bytes;
    struct journal journal;
    void *tables; /* scratch, kept, and what a replay needs */
    size_t tables_bytes;
    uint32_t *scratch;
    struct slab *slab; /* over the data area; NULL for a disk that is never written */
    uint64_t data_bytes;
    uint64_t taken_bytes; /* of the data area: blocks that exist in the file */
    uint64_t given_bytes; /* of them: those that the slab has, since they were needed */
    struct kept *kept;    /* by the number of their record */
    uint32_t record_count;

    struct list done; /* done and wanted, in the order in which they were done */
    struct list ghosts;
    uint32_t ghost_count;
    uint64_t last_id;
    uint64_t mark;
    uint64_t unflushed_bytes;
    bool refused_room; /* keep_alloc or kept_add had nothing since the last flush */

    uint32_t fence_time_ms;

    struct journal_replay replay;
    uint32_t *replay_records, *replay_heap;
};

static _Atomic int64_t budget_left_bytes = LIMIT_SLAB_BYTES;

void keep_set_budget(uint64_t bytes)
{
    atomic_store(&budget_left_bytes, (int64_t)bytes);
}

/* -- the file ------------------------------------------------------------------------------ */

static struct keep *keep_new(const char *path)
{
    struct keep *keep = calloc(1, sizeof *keep);

    if (!keep)
        return NULL;
    keep->fd = -1;
    list_init(&keep->done);
    list_init(&keep->ghosts);
    keep->path = strdup(path);
    if (!keep->path) {
        free(keep);
        return NULL;
    }
    return keep;
}

static int make_directory(const char *path)
{
    char directory[LIMIT_PATH_BYTES];
    char *slash;

    if ((size_t)snprintf(directory, sizeof directory, "%s", path) >= sizeof directory)
        return -ENAMETOOLONG;
    slash = strrchr(directory, '/');
    if (!slash || slash == directory)
        return 0;
    *slash = '\0';
    return mkdir(directory, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int map_file(struct keep *keep)
{
    void *memory = mmap(NULL, keep->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, keep->fd, 0);

    if (memory == MAP_FAILED)
        return -errno;
    keep->memory = memory;
    (void)madvise(memory, keep->length_bytes, MADV_DONTDUMP); /* guests' data, in a core file? */
    return 0;
}

/* Everything beside the file that a keep needs, once the journal knows its sizes; in one piece, of
 * which an idle disk never touches most. */
static int make_tables(struct keep *keep, const struct journal_layout *layout)
{
    const size_t records = layout->geometry.record_count;
    uint32_t *words;

    keep->record_count = layout->geometry.record_count;
    keep->data_bytes = layout->geometry.data_bytes;
    keep->tables_bytes = records * sizeof *keep->kept +
                         (layout->scratch_count + 2 * records) * sizeof *keep->scratch;
    keep->tables = pages_map(keep->tables_bytes);
    if (!keep->tables)
        return -ENOMEM;
    keep->kept = keep->tables;
    words = (uint32_t *)(void *)(keep->kept + records);
    keep->scratch = words;
    keep->replay_records = words + layout->scratch_count;
    keep->replay_heap = keep->replay_records + records;
    if (keep->data_bytes == 0)
        return 0;
    return slab_create_over(keep->memory + layout->data_offset, keep->data_bytes, &keep->slab);
}

/* The next block of the data area exists from now on: no store into it can fail. */
static bool take_block(struct keep *keep)
{
    uint64_t at_bytes = keep->journal.layout.data_offset + keep->taken_bytes;
    int64_t block_bytes = (int64_t)slab_alloc_max();

    if (keep->taken_bytes == keep->data_bytes)
        return false;
    if (atomic_fetch_sub(&budget_left_bytes, block_bytes) >= block_bytes &&
        posix_fallocate(keep->fd, (off_t)at_bytes, (off_t)block_bytes) == 0) {
        keep->taken_bytes += (uint64_t)block_bytes;
        return true;
    }
    atomic_fetch_add(&budget_left_bytes, block_bytes);
    return false;
}

static bool grow(struct keep *keep)
{
    if (!keep->slab || (keep->given_bytes == keep->taken_bytes && !take_block(keep)))
        return false;
    keep->given_bytes += slab_alloc_max();
    return slab_extend(keep->slab);
}

static void return_budget(struct keep *keep)
{
    if (keep->taken_bytes > LIMIT_KEPT_FLOOR_BYTES)
        atomic_fetch_add(&budget_left_bytes, (int64_t)(keep->taken_bytes - LIMIT_KEPT_FLOOR_BYTES));
}

void keep_close(struct keep *keep)
{
    if (!keep)
        return;
    return_budget(keep);
    slab_destroy(keep->slab);
    if (keep->memory)
        munmap(keep->memory, keep->length_bytes);
    if (keep->fd >= 0)
        close(keep->fd);
    pages_unmap(keep->tables, keep->tables_bytes);
    free(keep->path);
    free(keep);
}

void keep_remove(struct keep *keep)
{
    if (keep)
        unlink(keep->path);
    keep_close(keep);
}

int keep_create(const char *path, uint32_t entry_count, bool writable,
                const struct journal_identity *identity, struct keep **ret_keep,
                char ret_reason[static LIMIT_REASON_BYTES])
{
    const struct journal_geometry geometry = {
        .entry_count = entry_count,
        .record_count = writable ? LIMIT_RECORDS_PER_DISK : 1,
        .data_bytes = writable ? LIMIT_KEPT_PER_DISK_BYTES : 0,
    };
    struct journal_layout layout;
    struct keep *keep = keep_new(path);
    uint64_t first_bytes;
    int err = keep ? journal_layout(&geometry, &layout) : -ENOMEM;

    if (err < 0)
        goto fail;
    err = make_directory(path);
    if (err < 0)
        goto fail;
    unlink(path);
    keep->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (keep->fd < 0 || flock(keep->fd, LOCK_EX | LOCK_NB) < 0) {
        err = -errno;
        goto fail;
    }
    keep->length_bytes = layout.length_bytes;
    first_bytes = layout.data_offset + (writable ? LIMIT_KEPT_FLOOR_BYTES : 0);
    err = ftruncate(keep->fd, (off_t)layout.length_bytes) < 0
              ? -errno
              : -posix_fallocate(keep->fd, 0, (off_t)first_bytes);
    if (err < 0)
        goto fail;
    err = map_file(keep);
    if (err < 0)
        goto fail;
    err = make_tables(keep, &layout);
    if (err < 0)
        goto fail;
    journal_format(keep->memory, &layout, identity);
    err = journal_open(&keep->journal, keep->memory, keep->length_bytes, keep->scratch, ret_reason);
    if (err < 0)
        goto fail;
    keep->taken_bytes = writable ? LIMIT_KEPT_FLOOR_BYTES : 0;
    *ret_keep = keep;
    return 0;
fail:
    snprintf(ret_reason, LIMIT_REASON_BYTES,
             "the kept file %.90s cannot be made: %s (is its tmpfs full?)", path, strerror(-err));
    keep_remove(keep);
    return err;
}

/* -- opening what an earlier life left ------------------------------------------------------- */

/* Blocks that exist, whole. Space is taken from the file's begin on and never given back, so that
 * its amount says up to where; holes do not, for to SEEK_HOLE space that was never written is one.
 */
static uint64_t existing_bytes(const struct keep *keep, uint64_t taken_bytes)
{
    uint64_t before_bytes = keep->journal.layout.data_offset;
    uint64_t bytes = taken_bytes > before_bytes ? taken_bytes - before_bytes : 0;

    bytes = bytes / slab_alloc_max() * slab_alloc_max();
    return bytes < keep->data_bytes ? bytes : keep->data_bytes;
}

static int take_existing_blocks(struct keep *keep, uint64_t taken_bytes)
{
    keep->taken_bytes = existing_bytes(keep, taken_bytes);
    if (keep->data_bytes > 0 && keep->taken_bytes < LIMIT_KEPT_FLOOR_BYTES)
        return -EBADMSG;
    if (keep->taken_bytes > LIMIT_KEPT_FLOOR_BYTES) /* ours already, whatever the budget is */
        atomic_fetch_sub(&budget_left_bytes, (int64_t)(keep->taken_bytes - LIMIT_KEPT_FLOOR_BYTES));
    return 0;
}

/* Holds bytes that an earlier life had there. */
static int claim(struct keep *keep, uint64_t data_at_bytes, uint32_t length_bytes)
{
    if (!keep->slab || data_at_bytes + length_bytes > keep->taken_bytes)
        return -EBADMSG;
    while (data_at_bytes + length_bytes > keep->given_bytes)
        if (!grow(keep))
            return -EBADMSG;
    return slab_claim(keep->slab, journal_data(&keep->journal, data_at_bytes), length_bytes)
               ? 0
               : -EBADMSG;
}

static void set_ghost_link(struct keep *keep, struct kept *kept)
{
    bool is_ghost = kept->parked != 0;

    if (is_ghost == list_linked(&kept->ghost_link))
        return;
    if (is_ghost) {
        list_append(&keep->ghosts, &kept->ghost_link);
        keep->ghost_count++;
    } else {
        list_remove(&kept->ghost_link);
        keep->ghost_count--;
    }
}

static void want(struct keep *keep, struct kept *kept)
{
    kept->wanted = true;
    kept->done_mark = ++keep->mark;
    list_append(&keep->done, &kept->done_link);
    keep->unflushed_bytes += kept->length_bytes;
}

static void settle(struct keep *keep, struct kept *kept);

/* Whole seconds, of a clock that goes on while the host sleeps. */
static uint32_t clock_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint32_t)now.tv_sec;
}

/* Can no server execute anything of it any more? */
static bool is_over(const struct journal_record *record, uint32_t fence_time_ms)
{
    uint32_t age_s = (clock_s() - record->gone_s) % JOURNAL_GONE_MODULUS;

    if (age_s > JOURNAL_GONE_MODULUS / 2) /* it is a second ahead, since seconds are whole */
        age_s = 0;
    return record->gone && age_s >= (fence_time_ms + 999) / 1000;
}

/* A record as it was left: all that may be at a server is a ghost of bit 0, the crash. */
static int restore(struct keep *keep, uint32_t number, const struct journal_record *record)
{
    struct kept *kept = &keep->kept[number];
    bool done = record->state == JOURNAL_DONE || record->state == JOURNAL_DONE_OUT;
    bool late = record->state != JOURNAL_DONE && !is_over(record, keep->fence_time_ms);

    *kept = (struct kept){
        .id = ++keep->last_id,
        .number = number,
        .state = record->state,
        .kind = record->kind,
        .over = record->state != JOURNAL_SENT,
        .parked = late ? 1 : 0,
        .gone = record->gone,
        .gone_s = record->gone ? record->gone_s : clock_s() + 1,
        .offset_bytes = record->offset_bytes,
        .length_bytes = record->length_bytes,
    };
    list_init(&kept->requests);
    if (record->kind == JOURNAL_WRITE && record->state != JOURNAL_GHOST) {
        if (claim(keep, record->data_at_bytes, record->length_bytes) < 0)
            return -EBADMSG;
        kept->data = journal_data(&keep->journal, record->data_at_bytes);
    }
    if (done)
        want(keep, kept);
    settle(keep, kept);
    return 0;
}

static int restore_all(struct keep *keep)
{
    struct journal_record record;
    uint32_t count = journal_records_by_age(&keep->journal, keep->replay_records);
    int err = 0;

    for (uint32_t i = 0; err == 0 && i < count; i++) {
        journal_record(&keep->journal, keep->replay_records[i], &record);
        err = restore(keep, keep->replay_records[i], &record);
    }
    return err;
}

static int open_file(struct keep *keep, char *reason)
{
    struct journal_layout layout;
    struct stat status;
    int err;

    keep->fd = open(keep->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (keep->fd < 0 || flock(keep->fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    if (fstat(keep->fd, &status) < 0)
        return -errno;
    /* Longer than it is would be SIGBUS at the first touch; a short one is never mapped. */
    if (!S_ISREG(status.st_mode) || status.st_size < LIMIT_PAGE_BYTES)
        return -ENODATA;
    keep->length_bytes = (uint64_t)status.st_size;
    err = map_file(keep);
    if (err < 0)
        return err;
    err = journal_peek(keep->memory, keep->length_bytes, &layout, reason);
    if (err < 0)
        return err;
    err = make_tables(keep, &layout);
    if (err < 0)
        return err;
    err = journal_open(&keep->journal, keep->memory, keep->length_bytes, keep->scratch, reason);
    if (err < 0)
        return err;
    err = take_existing_blocks(keep, (uint64_t)status.st_blocks * STAT_BLOCK_BYTES);
    return err < 0 ? err : restore_all(keep);
}

int keep_open(const char *path, uint32_t fence_time_ms, struct keep **ret_keep,
              char ret_reason[static LIMIT_REASON_BYTES])
{
    struct keep *keep = keep_new(path);
    char why[LIMIT_REASON_BYTES] = "";
    int err = -ENOMEM;

    if (keep) {
        keep->fence_time_ms = fence_time_ms;
        err = open_file(keep, why);
    }
    if (err == 0) {
        *ret_keep = keep;
        return 0;
    }
    keep_close(keep);
    if (err == -ENODATA)
        err = -ENOENT;
    snprintf(ret_reason, LIMIT_REASON_BYTES, "the kept file %.60s cannot be used: %.90s", path,
             why[0] ? why : strerror(-err));
    return err;
}

struct journal *keep_journal(struct keep *keep)
{
    return &keep->journal;
}

/* -- the bytes of writes --------------------------------------------------------------------- */

void *keep_alloc(struct keep *keep, size_t bytes)
{
    void *run = slab_alloc(keep->slab, bytes);

    if (!run && bytes <= slab_alloc_max() && grow(keep))
        run = slab_alloc(keep->slab, bytes);
    keep->refused_room |= !run;
    return run;
}

void keep_hold(struct keep *keep, const void *data, size_t bytes)
{
    slab_hold(keep->slab, data, bytes);
}

void keep_drop(struct keep *keep, const void *data, size_t bytes)
{
    slab_drop(keep->slab, data, bytes);
}

uint64_t keep_data_at(const struct keep *keep, const void *data)
{
    return (uint64_t)((const uint8_t *)data - journal_data(&keep->journal, 0));
}

/* -- records --------------------------------------------------------------------------------- */

/* What the file is to say of it. */
static enum journal_record_state state_of(const struct kept *kept)
{
    bool late = kept->out > 0 || kept->parked != 0;

    if (!kept->over)
        return JOURNAL_SENT;
    if (kept->wanted)
        return late ? JOURNAL_DONE_OUT : JOURNAL_DONE;
    if (late)
        return JOURNAL_GHOST;
    return kept->asked_bytes > 0 ? kept->state : JOURNAL_FREE;
}

/* Since when, if it is only the earlier lives' connections. (Of a session of this life it is not
 * known: its sockets may be open yet.) */
static void settle_gone(struct keep *keep, struct kept *kept)
{
    bool gone = kept->parked == 1 && kept->out == 0 && kept->gone_s != 0;

    if (gone == kept->gone || kept->state == JOURNAL_FREE)
        return;
    kept->gone = gone;
    journal_record_gone(&keep->journal, kept->number, gone, kept->gone_s);
}

static void settle(struct keep *keep, struct kept *kept)
{
    enum journal_record_state state = state_of(kept);

    set_ghost_link(keep, kept);
    settle_gone(keep, kept);
    if (state == kept->state)
        return;
    /* The journal's arrows: from there it is two steps. */
    if (kept->state == JOURNAL_DONE_OUT && state == JOURNAL_FREE)
        journal_record_set(&keep->journal, kept->number, JOURNAL_GHOST);
    journal_record_set(&keep->journal, kept->number, state);
    kept->state = state;
    if ((state == JOURNAL_FREE || state == JOURNAL_GHOST) && kept->data) {
        keep_drop(keep, kept->data, kept->length_bytes);
        kept->data = NULL;
    }
}

struct kept *kept_add(struct keep *keep, enum journal_record_kind kind, bool fua,
                      uint64_t offset_bytes, uint32_t length_bytes, void *data)
{
    const struct journal_record record = {
        .kind = kind,
        .state = JOURNAL_SENT,
        .fua = fua,
        .length_bytes = length_bytes,
        .offset_bytes = offset_bytes,
        .data_at_bytes = data ? keep_data_at(keep, data) : 0,
    };
    uint32_t number;
    struct kept *kept;

    if (journal_record_add(&keep->journal, &record, &number) < 0) {
        keep->refused_room = true;
        return NULL;
    }
    kept = &keep->kept[number];
    *kept = (struct kept){
        .id = ++keep->last_id,
        .number = number,
        .state = JOURNAL_SENT,
        .kind = kind,
        .asked_bytes = length_bytes,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
        .data = data,
    };
    list_init(&kept->requests);
    if (data)
        keep_hold(keep, data, length_bytes);
    return kept;
}

void kept_sent(struct keep *keep, struct kept *kept)
{
    kept->out++;
    settle(keep, kept);
}

void kept_returned(struct keep *keep, struct kept *kept)
{
    assert(kept->out > 0);
    kept->out--;
    settle(keep, kept);
}

void kept_done(struct keep *keep, struct kept *kept, bool durable)
{
    kept->over = true;
    if (!durable)
        want(keep, kept);
    settle(keep, kept);
}

void kept_refused(struct keep *keep, struct kept *kept)
{
    kept->over = true;
    settle(keep, kept);
}

void kept_release(struct keep *keep, struct kept *kept, uint32_t length_bytes)
{
    assert(kept->asked_bytes >= length_bytes);
    kept->asked_bytes -= length_bytes;
    settle(keep, kept);
}

/* -- sessions -------------------------------------------------------------------------------- */

void keep_lost(struct keep *keep, uint32_t parked)
{
    for (uint32_t i = 0; i < journal_records_end(&keep->journal); i++) {
        struct kept *kept = &keep->kept[i];

        if (kept->state == JOURNAL_FREE || kept->out == 0)
            continue;
        kept->out = 0;
        kept->gone_s = 0; /* of this life, though its bit be 0, once the crash is over */
        if (!fault_is("no-ghosts"))
            kept->parked |= parked;
        settle(keep, kept);
    }
}

void keep_fenced(struct keep *keep, uint32_t parked)
{
    list_each_safe (node, &keep->ghosts) {
        struct kept *kept = container_of(node, struct kept, ghost_link);

        kept->parked &= ~parked;
        settle(keep, kept);
    }
}

static bool ranges_overlap(uint64_t a_bytes, uint64_t a_length, uint64_t b_bytes, uint64_t b_length)
{
    return a_bytes < b_bytes + b_length && b_bytes < a_bytes + a_length;
}

bool keep_ghost_overlaps(const struct keep *keep, uint64_t offset_bytes, uint64_t length_bytes,
                         bool trim, const struct kept *own, uint64_t twin)
{
    list_each (node, &keep->ghosts) {
        const struct kept *kept = container_of(node, struct kept, ghost_link);

        if (kept != own && kept->id != twin && !(trim && kept->kind == JOURNAL_TRIM) &&
            ranges_overlap(offset_bytes, length_bytes, kept->offset_bytes, kept->length_bytes))
            return true;
    }
    return false;
}

uint32_t keep_ghosts(const struct keep *keep)
{
    return keep->ghost_count;
}

uint32_t keep_parked(const struct keep *keep)
{
    uint32_t parked = 0;

    list_each (node, &keep->ghosts)
        parked |= container_of(node, const struct kept, ghost_link)->parked;
    return parked;
}

uint64_t keep_flush_mark(const struct keep *keep)
{
    return keep->mark;
}

void keep_flushed(struct keep *keep, uint64_t mark)
{
    keep->refused_room = false;
    list_each_safe (node, &keep->done) {
        struct kept *kept = container_of(node, struct kept, done_link);

        if (kept->done_mark > mark)
            return;
        list_remove(&kept->done_link);
        kept->wanted = false;
        keep->unflushed_bytes -= kept->length_bytes;
        settle(keep, kept);
    }
}

bool keep_is_flushed(const struct keep *keep)
{
    return list_empty(&keep->done);
}

uint64_t keep_unflushed_bytes(const struct keep *keep)
{
    return keep->unflushed_bytes;
}

static bool can_grow(const struct keep *keep)
{
    return keep->given_bytes < keep->taken_bytes ||
           (keep->taken_bytes < keep->data_bytes &&
            atomic_load(&budget_left_bytes) >= (int64_t)slab_alloc_max());
}

/* Early enough that nobody need wait for the flush. */
bool keep_is_pressed(const struct keep *keep)
{
    if (list_empty(&keep->done))
        return false;
    return keep->refused_room || journal_records_left(&keep->journal) < keep->record_count / 2 ||
           (slab_left_bytes(keep->slab) < keep->given_bytes / 4 && !can_grow(keep));
}

void keep_replay_begin(struct keep *keep)
{
    uint32_t count = 0;

    list_each (node, &keep->done) {
        if (!fault_is("no-replay"))
            keep->replay_records[count++] = container_of(node, struct kept, done_link)->number;
    }
    journal_replay_begin(&keep->replay, &keep->journal, keep->replay_records, count,
                         keep->replay_heap);
}

bool keep_replay_next(struct keep *keep, struct kept **ret_kept, struct journal_part *ret_part)
{
    if (!journal_replay_next(&keep->replay, ret_part))
        return false;
    *ret_kept = &keep->kept[ret_part->record];
    return true;
}

/* -- after a crash --------------------------------------------------------------------------- */

static struct kept *find_by_data(struct keep *keep, const uint8_t *data)
{
    for (uint32_t i = 0; i < journal_records_end(&keep->journal); i++) {
        struct kept *kept = &keep->kept[i];

        if (kept->state != JOURNAL_FREE && kept->data && data >= kept->data &&
            data < kept->data + kept->length_bytes)
            return kept;
    }
    return NULL;
}

int keep_adopt(struct keep *keep, const struct journal_entry *entry, struct kept **ret_kept)
{
    const uint8_t *data = journal_data(&keep->journal, entry->data_at_bytes);
    struct kept *kept = find_by_data(keep, data);
    int err;

    /* A record is of whole requests. */
    if (kept && data + entry->length_bytes > kept->data + kept->length_bytes)
        return -EBADMSG;
    err = claim(keep, entry->data_at_bytes, entry->length_bytes);
    if (err < 0)
        return err;
    if (kept)
        kept->asked_bytes += entry->length_bytes;
    *ret_kept = kept;
    return 0;
}

void keep_adopted(struct keep *keep)
{
    for (uint32_t i = 0; i < journal_records_end(&keep->journal); i++) {
        struct kept *kept = &keep->kept[i];

        if (kept->state == JOURNAL_SENT && kept->asked_bytes == 0)
            kept_refused(keep, kept);
    }
}
