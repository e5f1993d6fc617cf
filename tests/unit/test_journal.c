/*
 * journal: what a kept file holds, what is refused as one, and what is to be written again.
 *
 * What a kill leaves is searched by journal_model; here the file is damaged, forged and read back.
 * A file lies in memory of exactly its length, so that AddressSanitizer sees a step beside it.
 * Random tests take their seed from BLKGATE_SEED and name it.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "identity.h"
#include "proto/journal.h"
#include "proto/journal_private.h"

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum { SECTOR = LIMIT_SECTOR_BYTES };

static uint64_t seed_given(void)
{
    const char *seed = getenv("BLKGATE_SEED");

    return seed ? strtoull(seed, NULL, 0) : 20240917;
}

/* splitmix64 */
static uint64_t random_next(uint64_t *random)
{
    uint64_t z = *random += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint32_t random_below(uint64_t *random, uint32_t bound)
{
    return (uint32_t)(random_next(random) % bound);
}

/* ---- a kept file ---- */

struct kept {
    uint8_t *memory;
    struct journal_layout layout;
    uint32_t *scratch, *order, *heap;
    struct journal journal;
    char reason[LIMIT_REASON_BYTES];
};

static const struct journal_identity identity = {
    .device_nonce = 0x1122334455667788,
    .export_id = 0x99aabbccddeeff00,
    .export_bytes = 4 << 20,
    .domid = 7,
    .handle = 51712,
    .flags = 5,
};

static void kept_alloc(struct kept *kept, uint32_t entries, uint32_t records, uint32_t data_pages)
{
    struct journal_geometry geometry = {entries, records, (uint64_t)data_pages * LIMIT_PAGE_BYTES};

    memset(kept, 0, sizeof(*kept));
    assert_int_equal(journal_layout(&geometry, &kept->layout), 0);
    kept->memory = aligned_alloc(LIMIT_PAGE_BYTES, kept->layout.length_bytes);
    assert_non_null(kept->memory);
    memset(kept->memory, 0, kept->layout.length_bytes);
}

static void *array(void *old, uint32_t count)
{
    void *new = realloc(old, count * sizeof(uint32_t));

    assert_non_null(new);
    return new;
}

/* As one must: what the file says of itself tells how much is needed to open it. */
static int kept_open(struct kept *kept)
{
    struct journal_layout layout;

    memset(kept->reason, 0, sizeof(kept->reason));
    if (journal_peek(kept->memory, kept->layout.length_bytes, &layout, kept->reason) == 0) {
        uint32_t entries = layout.geometry.entry_count, records = layout.geometry.record_count;

        kept->scratch = array(kept->scratch, layout.scratch_count);
        kept->order = array(kept->order, entries > records ? entries : records);
        kept->heap = array(kept->heap, records);
    }
    return journal_open(&kept->journal, kept->memory, kept->layout.length_bytes, kept->scratch,
                        kept->reason);
}

static void kept_start(struct kept *kept, uint32_t entries, uint32_t records, uint32_t data_pages)
{
    kept_alloc(kept, entries, records, data_pages);
    journal_format(kept->memory, &kept->layout, &identity);
    assert_int_equal(kept_open(kept), 0);
}

static void kept_stop(struct kept *kept)
{
    free(kept->memory);
    free(kept->scratch);
    free(kept->order);
    free(kept->heap);
}

/* Is it refused, for this reason? */
static void assert_refused(struct kept *kept, int err, const char *reason)
{
    struct journal before;

    memset(&before, 0x5c, sizeof(before));
    kept->journal = before;
    assert_int_equal(kept_open(kept), err);
    if (!strstr(kept->reason, reason))
        fail_msg("\"%s\" is not \"%s\"", kept->reason, reason);
    assert_memory_equal(&kept->journal, &before, sizeof(before));
}

/* ---- requests ---- */

static void slot_put(enum blkif_abi abi, uint8_t slot[static LIMIT_SLOT_BYTES], uint8_t op,
                     uint64_t id, uint64_t sector, uint32_t sectors)
{
    uint32_t at_id = abi == BLKIF_ABI_X86_32 ? 4 : 8, at_segs = at_id + 16;

    memset(slot, 0, LIMIT_SLOT_BYTES);
    slot[0] = op;
    memcpy(slot + at_id, &id, sizeof(id));
    memcpy(slot + at_id + 8, &sector, sizeof(sector));
    for (; sectors > 0; slot[1]++) {
        uint32_t part = sectors < LIMIT_PAGE_SECTORS ? sectors : LIMIT_PAGE_SECTORS;

        slot[at_segs + 8U * slot[1] + 5] = (uint8_t)(part - 1);
        sectors -= part;
    }
}

static void slot_put_indirect(enum blkif_abi abi, uint8_t slot[static LIMIT_SLOT_BYTES], uint8_t op,
                              uint64_t id, uint64_t sector, uint16_t segments)
{
    slot_put(abi, slot, BLKIF_INDIRECT, id, sector, 0);
    slot[1] = op;
    memcpy(slot + 2, &segments, sizeof(segments));
}

static void connection_make(struct journal_connection *connection, uint32_t queues, uint32_t slots)
{
    *connection = (struct journal_connection){.abi = BLKIF_ABI_X86_32, .queue_count = queues};
    for (uint32_t i = 0; i < queues; i++) {
        struct journal_ring *ring = &connection->ring[i];

        ring->nonce = 100 + i;
        ring->slots = slots;
        ring->event_channel = 20 + i;
        ring->page_count = 1 + i % LIMIT_RING_PAGES;
        for (uint32_t page = 0; page < ring->page_count; page++)
            ring->refs[page] = 1000 * (i + 1) + page;
    }
}

/* Connects queues of so many slots, and opens them; each as yet without a request. */
static void kept_connect(struct kept *kept, struct journal_queue queue[], uint32_t queues,
                         uint32_t slots)
{
    struct journal_connection connection;
    uint32_t rsp_prod[LIMIT_QUEUES] = {0}, taken;

    connection_make(&connection, queues, slots);
    assert_int_equal(journal_connect(&kept->journal, &connection, rsp_prod), 0);
    for (uint32_t i = 0; i < queues; i++) {
        struct ring_view view = {.nonce = 100 + i};

        assert_int_equal(journal_recover(&kept->journal, i, &view, &queue[i], &taken, kept->reason),
                         0);
        assert_int_equal(taken, 0);
    }
}

static uint32_t take(struct journal_queue *queue, uint8_t op, uint64_t sector, uint32_t sectors)
{
    uint8_t *slot = journal_next_slot(queue);

    assert_non_null(slot);
    slot_put(BLKIF_ABI_X86_32, slot, op, sector, sector, sectors);
    return journal_taken(queue);
}

static uint32_t add(struct kept *kept, enum journal_record_kind kind, uint64_t sector,
                    uint32_t sectors, uint32_t data_sector)
{
    struct journal_record record = {
        .kind = kind,
        .offset_bytes = sector * SECTOR,
        .length_bytes = sectors * SECTOR,
        .data_at_bytes = (uint64_t)data_sector * SECTOR,
    };
    uint32_t number;

    assert_int_equal(journal_record_add(&kept->journal, &record, &number), 0);
    return number;
}

/* ---- layout and header ---- */

static void test_layout_has_room_for_everything_once(void **state)
{
    static const struct journal_geometry geometries[] = {
        {1, 1, 0},
        {32, 1024, 2 << 20},
        {LIMIT_QUEUES * LIMIT_RING_SLOTS, LIMIT_RECORDS, LIMIT_KEPT_BYTES},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(geometries); i++) {
        const struct journal_geometry *geometry = &geometries[i];
        struct journal_layout layout;

        assert_int_equal(journal_layout(geometry, &layout), 0);
        assert_true(layout.entries_offset >= sizeof(struct file_header));
        assert_true(layout.records_offset ==
                    layout.entries_offset + 136 * (uint64_t)geometry->entry_count);
        assert_true(layout.data_offset >=
                    layout.records_offset + 32 * (uint64_t)geometry->record_count);
        assert_true(layout.data_offset % LIMIT_PAGE_BYTES == 0);
        assert_true(layout.length_bytes == layout.data_offset + geometry->data_bytes);
    }
}

static void test_layout_has_limits(void **state)
{
    static const struct journal_geometry geometries[] = {
        {0, 1, 0},
        {1, 0, 0},
        {LIMIT_QUEUES * LIMIT_RING_SLOTS + 1, 1, 0},
        {1, LIMIT_RECORDS + 1, 0},
        {UINT32_MAX, UINT32_MAX, 0},
        {1, 1, 4095},
        {1, 1, (uint64_t)LIMIT_KEPT_BYTES + 4096},
        {1, 1, UINT64_MAX - 4095},
    };
    struct journal_layout layout;

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(geometries); i++)
        assert_int_equal(journal_layout(&geometries[i], &layout), -EINVAL);
}

static void test_a_new_file_is_empty(void **state)
{
    struct journal_connection connection;
    struct kept kept;

    (void)state;
    kept_start(&kept, 4, 3, 1);
    assert_identity_equal(&kept.journal.identity, &identity);
    assert_memory_equal(&kept.journal.layout, &kept.layout, sizeof(kept.layout));
    journal_connection(&kept.journal, &connection);
    assert_int_equal(connection.queue_count, 0);
    assert_int_equal(journal_entries_by_age(&kept.journal, kept.order), 0);
    assert_int_equal(journal_records_by_age(&kept.journal, kept.order), 0);
    assert_int_equal(journal_records_left(&kept.journal), 3);
    kept_stop(&kept);
}

/* The file of a vbd that grew: its records may lie where there was nothing before. */
static void test_the_export_grows(void **state)
{
    struct kept kept;

    (void)state;
    kept_start(&kept, 4, 3, 1);
    journal_grow_export(&kept.journal, identity.export_bytes + SECTOR);
    add(&kept, JOURNAL_TRIM, identity.export_bytes / SECTOR, 1, 0);
    assert_int_equal(kept_open(&kept), 0);
    assert_true(kept.journal.identity.export_bytes == identity.export_bytes + SECTOR);
    kept_stop(&kept);
}

struct header_case {
    const char *reason;
    size_t at, size;
    uint64_t value;
    int err;
};

#define HEADER(field) offsetof(struct file_header, field), sizeof(((struct file_header *)0)->field)

static const struct header_case header_cases[] = {
    {"never finished", HEADER(magic), 0, -ENODATA},
    {"not one of blkgate's", HEADER(magic), UINT64_C(0x3254504b474b4c42), -EBADMSG},
    {"format 2, this blkgated knows format 1", HEADER(version), 2, -EPROTONOSUPPORT},
    {"format 0", HEADER(version), 0, -EPROTONOSUPPORT},
    {"length", HEADER(length_bytes), 0, -EBADMSG},
    {"length", HEADER(length_bytes), UINT64_MAX, -EBADMSG},
    {"length", HEADER(data_bytes), 2 * LIMIT_PAGE_BYTES, -EBADMSG},
    {"sizes beyond", HEADER(data_bytes), 1, -EBADMSG},
    {"sizes beyond", HEADER(data_bytes), UINT64_MAX - 4095, -EBADMSG},
    {"sizes beyond", HEADER(entry_count), 0, -EBADMSG},
    {"sizes beyond", HEADER(entry_count), UINT32_MAX, -EBADMSG},
    {"length", HEADER(entry_count), 4096, -EBADMSG},
    {"sizes beyond", HEADER(record_count), 0, -EBADMSG},
    {"sizes beyond", HEADER(record_count), UINT32_MAX, -EBADMSG},
    {"length", HEADER(record_count), 4096, -EBADMSG},
    {"no life", HEADER(device_nonce), 0, -EBADMSG},
    {"whole sectors", HEADER(export_bytes), 4097, -EBADMSG},
    {"too many queues", HEADER(queue_count), LIMIT_QUEUES + 1, -EBADMSG},
    {"too many queues", HEADER(queue_count), UINT32_MAX, -EBADMSG},
    {"without a ring", HEADER(queue_count), 3, -EBADMSG}, /* the third was never written */
    {"no known ABI", HEADER(abi), 3, -EBADMSG},
    {"no known ABI", HEADER(abi), UINT32_MAX, -EBADMSG},
    {"without a ring", HEADER(queue[1].nonce), 0, -EBADMSG},
    {"without a ring", HEADER(queue[0].page_count), 0, -EBADMSG},
    {"without a ring", HEADER(queue[0].page_count), LIMIT_RING_PAGES + 1, -EBADMSG},
    {"impossible size", HEADER(queue[0].slots), 0, -EBADMSG},
    {"impossible size", HEADER(queue[0].slots), 3, -EBADMSG},
    {"impossible size", HEADER(queue[0].slots), 1024, -EBADMSG},
    {"impossible size", HEADER(queue[1].slots), 8, -EBADMSG}, /* more than entries are left */
    {"impossible size", HEADER(queue[1].slots), UINT32_MAX, -EBADMSG},
    {"more answers", HEADER(queue[0].pushed), UINT64_C(0x0000000100000000), -EBADMSG},
    {"more answers", HEADER(queue[0].pushed), UINT64_C(0x0000000100000006), -EBADMSG},
};

static void test_a_damaged_header_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(header_cases); i++) {
        const struct header_case *c = &header_cases[i];
        struct journal_queue queue[2];
        struct kept kept;

        kept_start(&kept, 8, 3, 1);
        kept_connect(&kept, queue, 2, 4);
        assert_int_equal(kept_open(&kept), 0);
        memcpy(kept.memory + c->at, &c->value, c->size);
        assert_refused(&kept, c->err, c->reason);
        kept_stop(&kept);
    }
}

/* There may be entries enough for a ring that no queue could hold. */
static void test_a_ring_beyond_the_limit_is_refused(void **state)
{
    struct journal_queue queue[1];
    struct kept kept;

    (void)state;
    kept_start(&kept, 4 * LIMIT_RING_SLOTS, 3, 1);
    kept_connect(&kept, queue, 1, LIMIT_RING_SLOTS);
    assert_int_equal(kept_open(&kept), 0);
    header_of(&kept.journal)->queue[0].slots = 2 * LIMIT_RING_SLOTS;
    assert_refused(&kept, -EBADMSG, "impossible size");
    kept_stop(&kept);
}

static void test_a_file_of_another_length_is_refused(void **state)
{
    struct journal_layout layout;
    struct kept kept;

    (void)state;
    kept_start(&kept, 8, 3, 1);
    for (uint64_t length = 0; length <= kept.layout.length_bytes + 1; length++) {
        int err = journal_peek(kept.memory, length, &layout, kept.reason);

        assert_int_equal(err, length == kept.layout.length_bytes ? 0 : -EBADMSG);
    }
    for (uint64_t length = 0; length <= 4096; length += 8) { /* nothing behind it is read */
        uint8_t *cut = malloc(length + 1);

        assert_non_null(cut);
        memcpy(cut, kept.memory, length);
        assert_int_equal(journal_peek(cut, length, &layout, kept.reason), -EBADMSG);
        free(cut);
    }
    kept_stop(&kept);
}

/* ---- rings and entries ---- */

static void test_a_connection_reads_as_it_was_written(void **state)
{
    struct journal_connection connection, read;
    uint32_t rsp_prod[LIMIT_QUEUES] = {0};
    struct kept kept;

    (void)state;
    kept_start(&kept, LIMIT_QUEUES * 4, 3, 0);
    connection_make(&connection, LIMIT_QUEUES, 4);
    assert_int_equal(journal_connect(&kept.journal, &connection, rsp_prod), 0);
    assert_int_equal(kept_open(&kept), 0);
    memset(&read, 0x5c, sizeof(read));
    journal_connection(&kept.journal, &read);
    assert_memory_equal(&read, &connection, sizeof(read));
    journal_disconnect(&kept.journal);
    assert_int_equal(kept_open(&kept), 0);
    journal_connection(&kept.journal, &read);
    assert_int_equal(read.queue_count, 0);
    kept_stop(&kept);
}

static void test_rings_larger_than_the_file_are_refused(void **state)
{
    struct journal_connection connection, read;
    uint32_t rsp_prod[LIMIT_QUEUES] = {0};
    struct journal_queue queue[2];
    struct kept kept;

    (void)state;
    kept_start(&kept, 11, 3, 0);
    kept_connect(&kept, queue, 2, 4);
    connection_make(&connection, 3, 4);
    assert_int_equal(journal_connect(&kept.journal, &connection, rsp_prod), -ENOSPC);
    journal_connection(&kept.journal, &read);
    assert_int_equal(read.queue_count, 2); /* the old ones are as they were */
    kept_stop(&kept);
}

/* Requests of two queues, answered out of order; the file is opened again after each step. */
static void test_entries_are_what_was_taken_and_not_answered(void **state)
{
    struct journal_queue queue[2];
    struct journal_entry entry;
    uint32_t entries[6], again;
    struct kept kept;

    (void)state;
    kept_start(&kept, 8, 3, 1);
    kept_connect(&kept, queue, 2, 4);
    for (uint32_t i = 0; i < 6; i++)
        entries[i] = take(&queue[i % 2], BLKIF_READ, 100 + i, 8);
    journal_answering(&queue[1], entries[3], 0);
    journal_answering(&queue[1], entries[1], 1);
    journal_pushing(&queue[1], 2);
    journal_pushed(&queue[1]);
    assert_int_equal(kept_open(&kept), 0);
    assert_int_equal(journal_entries_by_age(&kept.journal, kept.order), 4);
    for (uint32_t i = 0; i < 4; i++) {
        static const uint32_t left[] = {0, 2, 4, 5};
        struct blkif_req req;

        assert_int_equal(kept.order[i], entries[left[i]]);
        assert_true(journal_entry(&kept.journal, kept.order[i], &entry));
        assert_int_equal(entry.queue, left[i] % 2);
        assert_int_equal(entry.length_bytes, 0);
        blkif_req_decode(BLKIF_ABI_X86_32, entry.slot, &req);
        assert_int_equal(req.id, 100 + left[i]);
    }
    assert_false(journal_entry(&kept.journal, entries[1], &entry));
    /* Younger than all that are left. */
    again = take(&queue[1], BLKIF_READ, 50, 8);
    assert_true(again == entries[1] || again == entries[3]);
    assert_int_equal(kept_open(&kept), 0);
    assert_int_equal(journal_entries_by_age(&kept.journal, kept.order), 5);
    assert_int_equal(kept.order[4], again);
    kept_stop(&kept);
}

/* Answers not pushed keep their entries: a guest that overruns its ring may find none free. */
static void test_a_queue_without_free_entries_says_so(void **state)
{
    struct journal_queue queue[1];
    uint32_t entry = 0;
    struct kept kept;

    (void)state;
    kept_start(&kept, 4, 3, 1);
    kept_connect(&kept, queue, 1, 4);
    for (uint32_t i = 0; i < 4; i++)
        entry = take(&queue[0], BLKIF_READ, i, 1);
    assert_null(journal_next_slot(&queue[0]));
    journal_answering(&queue[0], entry, 0);
    assert_null(journal_next_slot(&queue[0]));
    journal_pushing(&queue[0], 1);
    assert_null(journal_next_slot(&queue[0]));
    journal_pushed(&queue[0]);
    assert_non_null(journal_next_slot(&queue[0]));
    kept_stop(&kept);
}

/* Fewer rings than before: what lies behind their entries is nobody's. */
static void test_connecting_anew_forgets_all_entries(void **state)
{
    struct journal_queue queue[2];
    struct journal_entry entry;
    struct kept kept;

    (void)state;
    kept_start(&kept, 8, 3, 1);
    kept_connect(&kept, queue, 2, 4);
    for (uint32_t i = 0; i < 8; i++)
        take(&queue[i / 4], BLKIF_READ, i, 1);
    kept_connect(&kept, queue, 1, 4);
    assert_int_equal(kept_open(&kept), 0);
    for (uint32_t i = 0; i < 8; i++)
        assert_false(journal_entry(&kept.journal, i, &entry));
    assert_int_equal(journal_entries_by_age(&kept.journal, kept.order), 0);
    kept_stop(&kept);
}

/* A new life of the rings has no requests, but what was written is written. */
static void test_connecting_anew_keeps_records(void **state)
{
    struct journal_record record;
    struct journal_queue queue[2];
    struct kept kept;
    uint32_t entry;

    (void)state;
    kept_start(&kept, 8, 3, 1);
    kept_connect(&kept, queue, 1, 4);
    entry = take(&queue[0], BLKIF_WRITE, 64, 8);
    journal_copied(&queue[0], entry, 0, 8 * SECTOR);
    add(&kept, JOURNAL_WRITE, 64, 8, 0);
    kept_connect(&kept, queue, 2, 4);
    assert_int_equal(kept_open(&kept), 0);
    assert_int_equal(journal_entries_by_age(&kept.journal, kept.order), 0);
    assert_int_equal(journal_records_by_age(&kept.journal, kept.order), 1);
    assert_true(journal_record(&kept.journal, kept.order[0], &record));
    assert_int_equal(record.state, JOURNAL_SENT);
    assert_int_equal(record.offset_bytes, 64 * SECTOR);
    kept_stop(&kept);
}

struct recover_case {
    const char *name;
    uint64_t nonce;
    uint32_t rsp_prod, req_prod;
    int result; /* < 0, or how many are taken */
};

/* Of four requests two were answered as 10 and 11 when {10, 12} was noted; one more is put. */
static const struct recover_case recover_cases[] = {
    {"killed before the push", 100, 10, 14, 4},
    {"killed after the push", 100, 12, 14, 2},
    {"with requests not taken yet", 100, 12, 16, 2},
    {"with requests taken back", 100, 12, 13, -EPROTO},
    {"with all requests taken back", 100, 10, 10, -EPROTO},
    {"with more requests than slots", 100, 12, 17, -EPROTO},
    {"with req_prod behind rsp_prod", 100, 12, 11, -EPROTO},
    {"rsp_prod between the two", 100, 11, 14, -EPROTO},
    {"rsp_prod too far", 100, 13, 14, -EPROTO},
    {"rsp_prod too near", 100, 9, 13, -EPROTO},
    {"rsp_prod far away", 100, 10 + (1U << 31), 14 + (1U << 31), -EPROTO},
    {"another nonce", 101, 12, 14, -ESTALE},
    {"no nonce", 0, 12, 14, -ESTALE},
    {"initialised anew", 0, 0, 0, -ESTALE},
};

static void test_recovery_believes_only_what_the_file_knows(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(recover_cases); i++) {
        const struct recover_case *c = &recover_cases[i];
        struct ring_view view = {c->nonce, c->rsp_prod, c->req_prod};
        uint32_t entries[4], rsp_prod = 10, taken = 77;
        struct journal_queue queue[1], recovered;
        struct journal_connection connection;
        struct kept kept;
        int err;

        kept_start(&kept, 4, 3, 1);
        connection_make(&connection, 1, 4);
        assert_int_equal(journal_connect(&kept.journal, &connection, &rsp_prod), 0);
        view = (struct ring_view){100, 10, 10};
        assert_int_equal(journal_recover(&kept.journal, 0, &view, &queue[0], &taken, kept.reason),
                         0);
        for (uint32_t e = 0; e < 4; e++)
            entries[e] = take(&queue[0], BLKIF_READ, e, 1);
        journal_answering(&queue[0], entries[2], 10);
        journal_answering(&queue[0], entries[0], 11);
        journal_pushing(&queue[0], 12);

        view = (struct ring_view){c->nonce, c->rsp_prod, c->req_prod};
        assert_int_equal(kept_open(&kept), 0);
        err = journal_recover(&kept.journal, 0, &view, &recovered, &taken, kept.reason);
        if (err != (c->result < 0 ? c->result : 0))
            fail_msg("%s: %d, \"%s\"", c->name, err, kept.reason);
        assert_int_equal(journal_entries_by_age(&kept.journal, kept.order),
                         c->result < 0 ? 4 : c->result);
        if (err == 0)
            assert_int_equal(taken, c->result);
        kept_stop(&kept);
    }
}

/* The older rsp_prod is believed only while the push is under way. */
static void test_a_push_that_is_over_cannot_be_taken_back(void **state)
{
    struct ring_view view = {100, 0, 4};
    struct journal_queue queue[1];
    struct kept kept;
    uint32_t taken;

    (void)state;
    kept_start(&kept, 4, 3, 1);
    kept_connect(&kept, queue, 1, 4);
    journal_answering(&queue[0], take(&queue[0], BLKIF_READ, 0, 1), 0);
    journal_pushing(&queue[0], 1);
    journal_pushed(&queue[0]);
    assert_int_equal(journal_recover(&kept.journal, 0, &view, &queue[0], &taken, kept.reason),
                     -EPROTO);
    view.rsp_prod = 1;
    assert_int_equal(journal_recover(&kept.journal, 0, &view, &queue[0], &taken, kept.reason), 0);
    assert_int_equal(taken, 0);
    kept_stop(&kept);
}

static void test_an_impossible_answer_is_the_files_fault(void **state)
{
    static const uint32_t impossible[] = {4, 1000, UINT32_MAX - 4, 1U << 31};
    struct ring_view view = {100, 0, 4};
    struct journal_queue queue[1];
    uint32_t entry, taken;
    struct kept kept;

    (void)state;
    kept_start(&kept, 4, 3, 1);
    kept_connect(&kept, queue, 1, 4);
    entry = take(&queue[0], BLKIF_READ, 0, 1);
    for (size_t i = 0; i < ARRAY_LENGTH(impossible); i++) {
        entry_at(&kept.journal, entry)->word = join(ENTRY_ANSWERING, impossible[i]);
        assert_int_equal(kept_open(&kept), 0);
        assert_int_equal(journal_recover(&kept.journal, 0, &view, &queue[0], &taken, kept.reason),
                         -EBADMSG);
        assert_non_null(strstr(kept.reason, "impossible answer"));
    }
    kept_stop(&kept);
}

/* ---- damaged entries and records ---- */

struct damage {
    const char *reason;
    size_t at;
    uint64_t value;
};

static void damage_is_refused(const struct damage *damages, size_t count, bool of_record)
{
    for (size_t i = 0; i < count; i++) {
        struct journal_queue queue[1];
        uint32_t entry, number;
        struct kept kept;
        uint8_t *item;

        kept_start(&kept, 4, 3, 4);
        kept_connect(&kept, queue, 1, 4);
        entry = take(&queue[0], BLKIF_WRITE, 64, 12);
        journal_copied(&queue[0], entry, 3 * SECTOR, 12 * SECTOR);
        number = add(&kept, JOURNAL_WRITE, 64, 12, 3);
        assert_int_equal(kept_open(&kept), 0);
        item = of_record ? (uint8_t *)record_at(&kept.journal, number)
                         : (uint8_t *)entry_at(&kept.journal, entry);
        memcpy(item + damages[i].at, &damages[i].value, sizeof(damages[i].value));
        assert_refused(&kept, -EBADMSG, damages[i].reason);
        kept_stop(&kept);
    }
}

#define TAG(tag) ((uint64_t)(tag) << 32)

static void test_a_damaged_entry_is_refused(void **state)
{
    enum {
        WORD = offsetof(struct file_entry, word),
        EXTENT = offsetof(struct file_entry, extent),
        SEQUENCE = offsetof(struct file_entry, sequence),
        SLOT = offsetof(struct file_entry, slot),
    };
    const struct damage damages[] = {
        {"no state", WORD, TAG(1)},
        {"no state", WORD, TAG(UINT32_MAX)},
        {"no state", WORD, TAG(ENTRY_INFLIGHT) | 1},
        {"no state", WORD, TAG(ENTRY_FREE) | 1},
        {"no age", SEQUENCE, 0},
        {"no age", SEQUENCE, UINT64_MAX},
        {"one age", SEQUENCE, 2}, /* the record's */
        {"data of no length", EXTENT, join(3, 0)},
        {"another length", EXTENT, join(3, 11)},
        {"another length", EXTENT, join(3, 13)},
        {"another length", EXTENT, join(3, UINT32_MAX)},
        {"beyond the data area", EXTENT, join(21, 12)},
        {"beyond the data area", EXTENT, join(UINT32_MAX, 12)},
        {"share data only", EXTENT, join(4, 12)},
        {"not a write", SLOT, BLKIF_READ | 2 << 8},
        {"not a write", SLOT, BLKIF_DISCARD | 2 << 8},
        {"another length", SLOT, BLKIF_FLUSH},
        {"not a write", SLOT, BLKIF_WRITE | 12 << 8},
        {"not a write", SLOT, 0xff},
        {"another length", SLOT, BLKIF_WRITE | 1 << 8},
        {"not a write", SLOT + 12, (4 << 20) / SECTOR}, /* sector: beyond the export */
        {"not a write", SLOT + 12, UINT64_MAX - 1},
        {"share data only", SLOT + 12, 65},
    };

    (void)state;
    damage_is_refused(damages, ARRAY_LENGTH(damages), false);
}

static void test_a_damaged_record_is_refused(void **state)
{
    enum {
        WORD = offsetof(struct file_record, word),
        EXTENT = offsetof(struct file_record, extent),
        SEQUENCE = offsetof(struct file_record, sequence),
        OFFSET = offsetof(struct file_record, offset_bytes),
    };
    const uint64_t sent = TAG(record_tags[JOURNAL_SENT]);
    const struct damage damages[] = {
        {"no state", WORD, TAG(1) | JOURNAL_WRITE},
        {"no state", WORD, JOURNAL_WRITE},
        {"no state", WORD, sent | 0x400 | JOURNAL_WRITE}, /* seconds, and not gone */
        {"no kind", WORD, sent},
        {"no kind", WORD, sent | (JOURNAL_TRIM + 1)},
        {"no age", SEQUENCE, 0},
        {"no age", SEQUENCE, UINT64_C(1) << 63},
        {"one age", SEQUENCE, 1}, /* the entry's */
        {"no range", EXTENT, join(3, 0)},
        {"no range", EXTENT, join(3, LIMIT_TRIM_BYTES / SECTOR + 1)},
        {"no range", EXTENT, join(3, UINT32_MAX)},
        {"beyond the export", EXTENT, join(3, (4 << 20) / SECTOR)},
        {"beyond the data area", EXTENT, join(21, 12)},
        {"beyond the data area", EXTENT, join(UINT32_MAX, 12)},
        {"share data only", EXTENT, join(4, 12)},
        {"no range", OFFSET, 64 * SECTOR + 1},
        {"beyond the export", OFFSET, 4 << 20},
        {"beyond the export", OFFSET, UINT64_MAX - SECTOR + 1},
        {"share data only", OFFSET, 65 * SECTOR},
    };

    (void)state;
    damage_is_refused(damages, ARRAY_LENGTH(damages), true);
}

/* ---- the data: who may share what (invariant 10) ---- */

struct share {
    const char *name;
    struct {
        bool is_entry;
        uint32_t sector, sectors, data_sector;
    } item[4];
    bool good;
};

static const struct share shares[] = {
    {"a write and its record", {{true, 64, 8, 0}, {false, 64, 8, 0}}, true},
    {"a write in chunks",
     {{true, 64, 24, 8}, {false, 64, 8, 8}, {false, 72, 8, 16}, {false, 80, 8, 24}},
     true},
    {"a write in chunks, one retired", {{true, 64, 24, 8}, {false, 80, 8, 24}}, true},
    {"a command of two writes", {{true, 64, 8, 4}, {true, 72, 8, 12}, {false, 64, 16, 4}}, true},
    {"two writes in three commands of a longer run",
     {{true, 64, 12, 0}, {true, 76, 12, 12}, {false, 64, 8, 0}, {false, 72, 16, 8}},
     true},
    {"neighbours in a page", {{true, 64, 1, 0}, {true, 100, 1, 1}, {false, 0, 1, 2}}, true},
    {"two writes of one range, apart", {{true, 64, 8, 0}, {true, 64, 8, 8}}, true},
    {"an answered write and a newer one", {{false, 64, 8, 0}, {true, 64, 8, 8}}, true},
    {"two records share bytes", {{false, 64, 8, 0}, {false, 71, 8, 7}}, false},
    {"two records share all", {{false, 64, 8, 0}, {false, 64, 8, 0}}, false},
    {"a record within a record", {{false, 64, 24, 0}, {false, 72, 1, 8}}, false},
    {"two writes share bytes", {{true, 64, 8, 0}, {true, 71, 8, 7}}, false},
    {"two writes share all", {{true, 64, 8, 0}, {true, 64, 8, 0}}, false},
    {"another write's record", {{true, 64, 8, 0}, {false, 128, 8, 0}}, false},
    {"a record one sector off", {{true, 64, 8, 0}, {false, 64, 8, 1}}, false},
    {"the last chunk is elsewhere",
     {{true, 64, 24, 0}, {false, 64, 8, 0}, {false, 72, 8, 8}, {false, 81, 8, 16}},
     false},
    {"a command of two, one of them elsewhere",
     {{true, 64, 8, 0}, {true, 80, 8, 8}, {false, 64, 16, 0}},
     false},
};

static void test_data_belongs_to_one_place_on_the_disk(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shares); i++) {
        const struct share *share = &shares[i];
        struct journal_queue queue[1];
        struct kept kept;
        int err;

        kept_start(&kept, 4, 4, 4);
        kept_connect(&kept, queue, 1, 4);
        for (size_t n = 0; n < ARRAY_LENGTH(share->item) && share->item[n].sectors > 0; n++) {
            if (share->item[n].is_entry) {
                uint32_t entry =
                    take(&queue[0], BLKIF_WRITE, share->item[n].sector, share->item[n].sectors);

                journal_copied(&queue[0], entry, share->item[n].data_sector * (uint64_t)SECTOR,
                               share->item[n].sectors * SECTOR);
            } else {
                add(&kept, JOURNAL_WRITE, share->item[n].sector, share->item[n].sectors,
                    share->item[n].data_sector);
            }
        }
        err = kept_open(&kept);
        if (err != (share->good ? 0 : -EBADMSG))
            fail_msg("%s: %d, \"%s\"", share->name, err, kept.reason);
        kept_stop(&kept);
    }
}

/* Bytes that a retired record or an answered write left, or a ghost's, are anybody's. */
static void test_data_that_nobody_needs_is_free(void **state)
{
    struct journal_queue queue[1];
    uint32_t entry, number;
    struct kept kept;

    (void)state;
    kept_start(&kept, 4, 4, 1);
    kept_connect(&kept, queue, 1, 4);
    entry = take(&queue[0], BLKIF_WRITE, 64, 8);
    journal_copied(&queue[0], entry, 0, 8 * SECTOR);
    number = add(&kept, JOURNAL_WRITE, 64, 8, 0);
    journal_record_set(&kept.journal, number, JOURNAL_GHOST);
    journal_answering(&queue[0], entry, 0);
    journal_pushing(&queue[0], 1);
    journal_pushed(&queue[0]);
    entry = take(&queue[0], BLKIF_WRITE, 128, 8);
    journal_copied(&queue[0], entry, 0, 8 * SECTOR);
    add(&kept, JOURNAL_WRITE, 128, 8, 0);
    assert_int_equal(kept_open(&kept), 0);
    assert_int_equal(journal_records_by_age(&kept.journal, kept.order), 2);
    kept_stop(&kept);
}

/* Its descriptors lie in the guest; what was copied is what counts. */
static void test_an_indirect_write_has_the_length_that_was_copied(void **state)
{
    enum { END = (4 << 20) / SECTOR };
    static const struct {
        uint64_t sector;
        uint16_t segments;
        uint32_t sectors;
        bool good;
    } cases[] = {
        {64, 3, 3, true},         {64, 3, 24, true},   {64, 3, 25, false},
        {64, 256, 2048, true},    {64, 257, 8, false}, {END - 24, 3, 24, true},
        {END - 23, 3, 24, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct journal_queue queue[1];
        struct journal_entry entry;
        struct kept kept;
        uint32_t number;

        kept_start(&kept, 4, 4, 512);
        kept_connect(&kept, queue, 1, 4);
        slot_put_indirect(BLKIF_ABI_X86_32, journal_next_slot(&queue[0]), BLKIF_WRITE, 9,
                          cases[i].sector, cases[i].segments);
        number = journal_taken(&queue[0]);
        entry_at(&kept.journal, number)->extent = join(5, cases[i].sectors);
        if (!cases[i].good) {
            assert_refused(&kept, -EBADMSG, "");
        } else {
            assert_int_equal(kept_open(&kept), 0);
            assert_true(journal_entry(&kept.journal, number, &entry));
            assert_int_equal(entry.length_bytes, cases[i].sectors * SECTOR);
            assert_int_equal(entry.data_at_bytes, 5 * SECTOR);
        }
        kept_stop(&kept);
    }
}

/* ---- records ---- */

static void test_records_read_as_they_were_written(void **state)
{
    static const struct journal_record records[] = {
        {.kind = JOURNAL_WRITE,
         .fua = true,
         .length_bytes = 8 * SECTOR,
         .offset_bytes = 4096,
         .data_at_bytes = 512},
        {.kind = JOURNAL_ZEROES, .length_bytes = 1 << 20, .offset_bytes = 3 << 20},
        {.kind = JOURNAL_TRIM, .length_bytes = 4 << 20},
    };
    struct journal_record record;
    uint32_t number;
    struct kept kept;

    (void)state;
    kept_start(&kept, 1, 3, 2);
    for (size_t i = 0; i < ARRAY_LENGTH(records); i++)
        assert_int_equal(journal_record_add(&kept.journal, &records[i], &number), 0);
    number = 77;
    assert_int_equal(journal_record_add(&kept.journal, &records[0], &number), -ENOSPC);
    assert_int_equal(number, 77);
    assert_int_equal(kept_open(&kept), 0);
    assert_int_equal(journal_records_left(&kept.journal), 0);
    assert_int_equal(journal_records_by_age(&kept.journal, kept.order), 3);
    for (size_t i = 0; i < ARRAY_LENGTH(records); i++) {
        struct journal_record expected = records[i];

        expected.state = JOURNAL_SENT;
        expected.sequence = i + 1;
        memset(&record, 0, sizeof(record));
        assert_true(journal_record(&kept.journal, kept.order[i], &record));
        assert_int_equal(record.kind, expected.kind);
        assert_int_equal(record.state, expected.state);
        assert_int_equal(record.fua, expected.fua);
        assert_int_equal(record.length_bytes, expected.length_bytes);
        assert_int_equal(record.offset_bytes, expected.offset_bytes);
        assert_int_equal(record.data_at_bytes, expected.data_at_bytes);
        assert_int_equal(record.sequence, expected.sequence);
    }
    kept_stop(&kept);
}

/* Does it end by an assertion? Without any there is nothing to see. */
static bool aborts(struct kept *kept, uint32_t number, enum journal_record_state state)
{
    const struct rlimit no_core = {0, 0};
    int status;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would report it */
        close(STDERR_FILENO);
        journal_record_set(&kept->journal, number, state);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/* The arrows of the header's diagram, and each state as the next daemon reads it. */
static void test_records_change_along_the_arrows_only(void **state)
{
    static const char arrows[RECORD_STATES][RECORD_STATES + 1] = {
        /* to: FREE SENT DONE DONE_OUT GHOST */
        [JOURNAL_FREE] = "-----",     [JOURNAL_SENT] = "x-xxx",  [JOURNAL_DONE] = "x--x-",
        [JOURNAL_DONE_OUT] = "--x-x", [JOURNAL_GHOST] = "x----",
    };

    (void)state;
    for (uint32_t from = 0; from < RECORD_STATES; from++) {
        for (uint32_t to = 0; to < RECORD_STATES; to++) {
            struct journal_record record = {.state = JOURNAL_FREE};
            struct kept kept;
            uint32_t number;

            kept_start(&kept, 1, 2, 1);
            number = add(&kept, JOURNAL_WRITE, 8, 8, 0);
            if (from != JOURNAL_SENT)
                journal_record_set(&kept.journal, number, (enum journal_record_state)from);
            if (arrows[from][to] == 'x') {
                journal_record_set(&kept.journal, number, (enum journal_record_state)to);
                assert_int_equal(kept_open(&kept), 0);
                assert_int_equal(journal_record(&kept.journal, number, &record),
                                 to != JOURNAL_FREE);
                assert_int_equal(record.state, to);
                assert_int_equal(journal_records_left(&kept.journal), to == JOURNAL_FREE ? 2 : 1);
            } else {
#ifndef NDEBUG
                assert_true(aborts(&kept, number, (enum journal_record_state)to));
#endif
            }
            kept_stop(&kept);
        }
    }
}

/* ---- replay ---- */

enum { DISK_SECTORS = 64 };

/* What each sector should be: the newest record that covers it, and its sector of data. */
struct disk_model {
    uint32_t record[DISK_SECTORS]; /* + 1 */
    uint64_t data_at_bytes[DISK_SECTORS];
};

static void model_write(struct disk_model *model, const struct kept *kept, uint32_t number)
{
    struct journal_record record;

    assert_true(journal_record(&kept->journal, number, &record));
    for (uint32_t at = 0; at < record.length_bytes; at += SECTOR) {
        uint64_t sector = (record.offset_bytes + at) / SECTOR;

        model->record[sector] = number + 1;
        model->data_at_bytes[sector] = record.kind == JOURNAL_WRITE ? record.data_at_bytes + at : 0;
    }
}

/* Each sector once, ascending, from where the model has it; in no more parts than promised. */
static uint32_t replay_check(struct kept *kept, const struct disk_model *model, uint32_t count)
{
    struct journal_replay replay;
    struct journal_part part;
    uint64_t sector = 0;
    uint32_t parts = 0;

    journal_replay_begin(&replay, &kept->journal, kept->order, count, kept->heap);
    while (journal_replay_next(&replay, &part)) {
        parts++;
        assert_true(part.length_bytes > 0 && part.length_bytes % SECTOR == 0);
        for (; sector < part.offset_bytes / SECTOR; sector++)
            assert_int_equal(model->record[sector], 0);
        assert_true(sector == part.offset_bytes / SECTOR);
        for (uint32_t at = 0; at < part.length_bytes; at += SECTOR, sector++) {
            uint64_t data = model->data_at_bytes[sector];

            assert_int_equal(model->record[sector], part.record + 1);
            assert_true(data == (part.data_at_bytes == 0 ? data : part.data_at_bytes + at));
            assert_true((data == 0 && part.data_at_bytes == 0) || data == part.data_at_bytes + at);
        }
    }
    for (; sector < DISK_SECTORS; sector++)
        assert_int_equal(model->record[sector], 0);
    assert_false(journal_replay_next(&replay, &part));
    assert_true(parts <= (count == 0 ? 0 : 2 * count - 1));
    return parts;
}

static void test_replay_writes_the_newest_of_each_sector_once(void **state)
{
    enum { ROUNDS = 3000, RECORDS = 24 };
    uint64_t seed = seed_given(), random = seed;
    uint32_t most = 0;

    (void)state;
    print_message("BLKGATE_SEED=%" PRIu64 "\n", seed);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t count = random_below(&random, RECORDS + 1), parts;
        struct disk_model model = {{0}, {0}};
        struct kept kept;

        kept_start(&kept, 1, RECORDS, RECORDS * DISK_SECTORS / LIMIT_PAGE_SECTORS);
        /* Some come and go first, so that numbers are not in the order of age. */
        for (uint32_t i = 0; i < RECORDS; i++)
            add(&kept, JOURNAL_TRIM, 0, 1, 0);
        for (uint32_t i = RECORDS, n = 0; i-- > 0; n++)
            journal_record_set(&kept.journal, (n * 7 + round) % RECORDS, JOURNAL_FREE);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t sectors = 1 + random_below(&random, random_below(&random, 2) ? 4 : 24);
            uint32_t sector = random_below(&random, DISK_SECTORS - sectors + 1);
            uint32_t number = add(&kept, JOURNAL_WRITE + random_below(&random, 3), sector, sectors,
                                  i * DISK_SECTORS + 1);

            journal_record_set(&kept.journal, number, JOURNAL_DONE);
            model_write(&model, &kept, number);
        }
        assert_int_equal(kept_open(&kept), 0);
        assert_int_equal(journal_records_by_age(&kept.journal, kept.order), count);
        for (uint32_t i = count; i > 1; i--) { /* the order in which they are given is nothing */
            uint32_t other = random_below(&random, i), number = kept.order[i - 1];

            kept.order[i - 1] = kept.order[other];
            kept.order[other] = number;
        }
        parts = replay_check(&kept, &model, count);
        most = parts > most ? parts : most;
        kept_stop(&kept);
    }
    assert_true(most > RECORDS / 2); /* or these were no overlaps worth the name */
}

/* The bound is met: small new ones within a large old one. */
static void test_replay_has_2n_less_1_parts_at_most(void **state)
{
    enum { RECORDS = 20 };
    struct disk_model model = {{0}, {0}};
    struct kept kept;

    (void)state;
    kept_start(&kept, 1, RECORDS, 32);
    model_write(&model, &kept, add(&kept, JOURNAL_WRITE, 0, DISK_SECTORS, 1));
    for (uint32_t i = 1; i < RECORDS; i++)
        model_write(&model, &kept, add(&kept, JOURNAL_ZEROES, 3 * i, 1, 0));
    assert_int_equal(journal_records_by_age(&kept.journal, kept.order), RECORDS);
    assert_int_equal(replay_check(&kept, &model, RECORDS), 2 * RECORDS - 1);
    kept_stop(&kept);
}

/* As many as there can be: a stair of overlapping ones, and the same downwards. */
static void test_replay_of_a_full_file(void **state)
{
    (void)state;
    for (uint32_t down = 0; down < 2; down++) {
        struct journal_replay replay;
        struct journal_part part;
        uint32_t count, parts = 0;
        uint64_t end = 0;
        struct kept kept;

        kept_start(&kept, 1, LIMIT_RECORDS, 0);
        journal_grow_export(&kept.journal, UINT64_C(1) << 30);
        for (uint32_t i = 0; i < LIMIT_RECORDS; i++)
            add(&kept, JOURNAL_TRIM, down ? LIMIT_RECORDS - i : i, 1000, 0);
        assert_int_equal(kept_open(&kept), 0);
        count = journal_records_by_age(&kept.journal, kept.order);
        assert_int_equal(count, LIMIT_RECORDS);
        journal_replay_begin(&replay, &kept.journal, kept.order, count, kept.heap);
        for (; journal_replay_next(&replay, &part); parts++) {
            assert_true(parts == 0 || part.offset_bytes == end);
            end = part.offset_bytes + part.length_bytes;
        }
        assert_int_equal(parts, LIMIT_RECORDS);
        kept_stop(&kept);
    }
}

/* ---- damage at random, and at every bit ---- */

static void use_records(struct kept *kept)
{
    uint32_t count = journal_records_by_age(&kept->journal, kept->order), done = 0;
    volatile uint8_t sum = 0;
    struct journal_replay replay;
    struct journal_record record;
    struct journal_part part;

    for (uint32_t i = 0; i < count; i++) {
        assert_true(journal_record(&kept->journal, kept->order[i], &record));
        assert_true(record.offset_bytes + record.length_bytes <=
                    kept->journal.identity.export_bytes);
        if (record.state == JOURNAL_DONE || record.state == JOURNAL_DONE_OUT)
            kept->order[done++] = kept->order[i];
    }
    journal_replay_begin(&replay, &kept->journal, kept->order, done, kept->heap);
    while (journal_replay_next(&replay, &part)) {
        assert_true(journal_record(&kept->journal, part.record, &record));
        for (uint32_t at = 0; record.kind == JOURNAL_WRITE && at < part.length_bytes; at++)
            sum = sum ^ *journal_data(&kept->journal, part.data_at_bytes + at);
    }
}

static void use_entries(struct kept *kept)
{
    uint32_t count = journal_entries_by_age(&kept->journal, kept->order);
    struct journal_connection connection;
    volatile uint8_t sum = 0;
    struct journal_entry entry;

    for (uint32_t i = 0; i < count; i++) {
        assert_true(journal_entry(&kept->journal, kept->order[i], &entry));
        for (uint32_t at = 0; at < entry.length_bytes; at++)
            sum = sum ^ *journal_data(&kept->journal, entry.data_at_bytes + at);
    }
    journal_connection(&kept->journal, &connection);
    for (uint32_t i = 0; i < connection.queue_count; i++) {
        const struct file_queue *file = &header_of(&kept->journal)->queue[i];
        struct ring_view view = {file->nonce, low_of(file->pushed), low_of(file->pushed) + 4};
        struct journal_queue queue;
        uint32_t taken;

        if (journal_recover(&kept->journal, i, &view, &queue, &taken, kept->reason) < 0)
            continue;
        assert_true(taken <= 4);
        while (journal_next_slot(&queue))
            journal_answering(&queue, take(&queue, BLKIF_READ, 1, 1), 0);
        journal_pushing(&queue, low_of(file->pushed));
        journal_pushed(&queue);
    }
}

/* A small file with all that there is in one. */
static void rich_start(struct kept *kept)
{
    struct journal_queue queue[2];
    uint32_t entry;

    kept_start(kept, 9, 7, 3);
    kept_connect(kept, queue, 2, 4);
    take(&queue[0], BLKIF_READ, 5, 8);
    entry = take(&queue[1], BLKIF_WRITE, 64, 12);
    journal_copied(&queue[1], entry, SECTOR, 12 * SECTOR);
    add(kept, JOURNAL_WRITE, 64, 6, 1);
    journal_record_set(&kept->journal, add(kept, JOURNAL_WRITE, 70, 6, 7), JOURNAL_DONE);
    journal_record_set(&kept->journal, add(kept, JOURNAL_WRITE, 72, 1, 17), JOURNAL_DONE_OUT);
    journal_record_set(&kept->journal, add(kept, JOURNAL_ZEROES, 60, 8, 0), JOURNAL_DONE);
    journal_record_set(&kept->journal, add(kept, JOURNAL_WRITE, 500, 2, 16), JOURNAL_GHOST);
    add(kept, JOURNAL_TRIM, 800, 100, 0);
    entry = take(&queue[1], BLKIF_READ, 800, 1);
    journal_answering(&queue[1], entry, 0);
    journal_pushing(&queue[1], 1);
    assert_int_equal(kept_open(kept), 0);
}

static bool try_damaged(struct kept *kept)
{
    int err = kept_open(kept);

    if (err < 0) {
        assert_true(err == -EBADMSG || err == -ENODATA || err == -EPROTONOSUPPORT);
        assert_true(kept->reason[0] != '\0');
        return false;
    }
    use_records(kept);
    use_entries(kept);
    return true;
}

/* A file that differs in one bit is refused, or is one that can be used. */
static void test_any_bit_may_be_wrong(void **state)
{
    uint32_t refused = 0, used = 0;
    struct kept kept;
    uint8_t *whole;

    (void)state;
    rich_start(&kept);
    whole = malloc(kept.layout.data_offset);
    assert_non_null(whole);
    memcpy(whole, kept.memory, kept.layout.data_offset);
    for (uint64_t bit = 0; bit < 8 * kept.layout.data_offset; bit++) {
        memcpy(kept.memory, whole, kept.layout.data_offset);
        kept.memory[bit / 8] ^= (uint8_t)(1U << bit % 8);
        if (try_damaged(&kept))
            used++;
        else
            refused++;
    }
    print_message("%u files refused, %u usable\n", refused, used);
    assert_true(refused > 1000 && used > 1000);
    free(whole);
    kept_stop(&kept);
}

/* No single wrong bit changes what state something is in, or makes something of nothing. */
static void test_no_wrong_bit_is_another_state(void **state)
{
    struct kept kept;

    (void)state;
    rich_start(&kept);
    for (uint32_t bit = 0; bit < 64; bit++) {
        for (uint32_t i = 0; i < kept.layout.geometry.record_count; i++) {
            struct file_record *record = record_at(&kept.journal, i);

            record->word ^= UINT64_C(1) << bit;
            /* FUA, gone, kind */
            assert_true(bit == 8 || bit == 9 || bit < 2 || kept_open(&kept) == -EBADMSG);
            record->word ^= UINT64_C(1) << bit;
        }
        for (uint32_t i = 0; i < entries_in_rings(&kept.journal); i++) {
            struct file_entry *entry = entry_at(&kept.journal, i);
            bool answering = high_of(entry->word) == ENTRY_ANSWERING;

            entry->word ^= UINT64_C(1) << bit;
            assert_true((answering && bit < 32) || kept_open(&kept) == -EBADMSG); /* r */
            entry->word ^= UINT64_C(1) << bit;
        }
    }
    assert_int_equal(kept_open(&kept), 0);
    kept_stop(&kept);
}

/* Values that code stumbles over, several at a time, where they hurt. */
static void test_random_damage(void **state)
{
    static const uint32_t values[] = {0,
                                      1,
                                      2,
                                      3,
                                      8,
                                      511,
                                      512,
                                      4096,
                                      1 << 20,
                                      0x7fffffff,
                                      1U << 31,
                                      UINT32_MAX - 1,
                                      UINT32_MAX,
                                      ENTRY_INFLIGHT,
                                      ENTRY_ANSWERING};
    enum { ROUNDS = 20000 };
    uint64_t seed = seed_given(), random = seed;
    uint32_t used = 0;
    struct kept kept;
    uint8_t *whole;

    (void)state;
    print_message("BLKGATE_SEED=%" PRIu64 "\n", seed);
    rich_start(&kept);
    whole = malloc(kept.layout.data_offset);
    assert_non_null(whole);
    memcpy(whole, kept.memory, kept.layout.data_offset);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        memcpy(kept.memory, whole, kept.layout.data_offset);
        for (uint32_t n = 1 + random_below(&random, 3); n > 0; n--) {
            uint64_t metadata = kept.layout.records_offset + 7 * sizeof(struct file_record);
            uint64_t at = random_below(&random, 3) == 0 /* the header, or behind it */
                              ? random_below(&random, sizeof(struct file_header))
                              : kept.layout.entries_offset +
                                    random_below(&random, (uint32_t)(metadata - 4096));
            uint32_t value = random_below(&random, 4) == 0
                                 ? (uint32_t)random_next(&random)
                                 : values[random_below(&random, ARRAY_LENGTH(values))];

            memcpy(kept.memory + at / 4 * 4, &value, sizeof(value));
        }
        used += try_damaged(&kept);
    }
    print_message("%u of %d files usable\n", used, ROUNDS);
    assert_true(used > ROUNDS / 100 && used < ROUNDS);
    free(whole);
    kept_stop(&kept);
}

static void test_junk_is_refused(void **state)
{
    uint64_t random = seed_given();
    struct kept kept;

    (void)state;
    kept_alloc(&kept, 4, 4, 1);
    assert_refused(&kept, -ENODATA, "never finished"); /* all zero: just allocated */
    for (uint32_t round = 0; round < 1000; round++) {
        for (uint64_t at = 0; at < kept.layout.length_bytes; at++)
            kept.memory[at] = (uint8_t)random_next(&random);
        assert_refused(&kept, -EBADMSG, "not one of blkgate's");
    }
    kept_stop(&kept);
}

/* ---- a long life, opened again and again ---- */

struct shadow {
    struct journal_record record[16]; /* state FREE: none */
    uint64_t sequence;
};

static void shadow_compare(struct kept *kept, const struct shadow *shadow)
{
    uint64_t last = 0;
    uint32_t used = 0, count;

    for (uint32_t i = 0; i < ARRAY_LENGTH(shadow->record); i++) {
        struct journal_record record = {.state = JOURNAL_FREE};

        used += journal_record(&kept->journal, i, &record);
        assert_int_equal(record.state, shadow->record[i].state);
        if (record.state == JOURNAL_FREE)
            continue;
        assert_true(record.offset_bytes == shadow->record[i].offset_bytes);
        assert_int_equal(record.length_bytes, shadow->record[i].length_bytes);
        assert_int_equal(record.kind, shadow->record[i].kind);
        assert_int_equal(record.sequence, shadow->record[i].sequence);
    }
    count = journal_records_by_age(&kept->journal, kept->order);
    assert_int_equal(count, used);
    assert_int_equal(journal_records_left(&kept->journal), ARRAY_LENGTH(shadow->record) - used);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(shadow->record[kept->order[i]].sequence > last);
        last = shadow->record[kept->order[i]].sequence;
    }
}

static void shadow_step(struct kept *kept, struct shadow *shadow, uint64_t *random)
{
    static const enum journal_record_state next[RECORD_STATES][2] = {
        [JOURNAL_SENT] = {JOURNAL_DONE, JOURNAL_GHOST},
        [JOURNAL_DONE] = {JOURNAL_FREE, JOURNAL_DONE_OUT},
        [JOURNAL_DONE_OUT] = {JOURNAL_DONE, JOURNAL_GHOST},
        [JOURNAL_GHOST] = {JOURNAL_FREE, JOURNAL_FREE},
    };
    uint32_t number = random_below(random, ARRAY_LENGTH(shadow->record));
    struct journal_record *record = &shadow->record[number];

    if (record->state != JOURNAL_FREE) {
        record->state = next[record->state][random_below(random, 2)];
        journal_record_set(&kept->journal, number, record->state);
        return;
    }
    number = add(kept, JOURNAL_WRITE + random_below(random, 3), random_below(random, 1000),
                 1 + random_below(random, 100), 0);
    /* Bytes of its own, by its number. */
    record_at(&kept->journal, number)->extent =
        join(100 * number, low_of(record_at(&kept->journal, number)->extent));
    record = &shadow->record[number];
    assert_int_equal(record->state, JOURNAL_FREE);
    assert_true(journal_record(&kept->journal, number, record));
    assert_true(record->sequence > shadow->sequence);
    shadow->sequence = record->sequence;
}

static void test_a_long_life_of_records(void **state)
{
    enum { STEPS = 20000 };
    uint64_t seed = seed_given(), random = seed;
    struct shadow shadow = {.sequence = 0};
    struct kept kept;

    (void)state;
    print_message("BLKGATE_SEED=%" PRIu64 "\n", seed);
    kept_start(&kept, 1, ARRAY_LENGTH(shadow.record), 200);
    for (uint32_t step = 0; step < STEPS; step++) {
        shadow_step(&kept, &shadow, &random);
        if (random_below(&random, 4) == 0) {
            assert_int_equal(kept_open(&kept), 0);
            shadow.sequence = kept.journal.next_sequence - 1;
        }
        shadow_compare(&kept, &shadow);
    }
    kept_stop(&kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_has_room_for_everything_once),
        cmocka_unit_test(test_layout_has_limits),
        cmocka_unit_test(test_a_new_file_is_empty),
        cmocka_unit_test(test_the_export_grows),
        cmocka_unit_test(test_a_damaged_header_is_refused),
        cmocka_unit_test(test_a_ring_beyond_the_limit_is_refused),
        cmocka_unit_test(test_a_file_of_another_length_is_refused),
        cmocka_unit_test(test_a_connection_reads_as_it_was_written),
        cmocka_unit_test(test_rings_larger_than_the_file_are_refused),
        cmocka_unit_test(test_entries_are_what_was_taken_and_not_answered),
        cmocka_unit_test(test_a_queue_without_free_entries_says_so),
        cmocka_unit_test(test_connecting_anew_forgets_all_entries),
        cmocka_unit_test(test_connecting_anew_keeps_records),
        cmocka_unit_test(test_recovery_believes_only_what_the_file_knows),
        cmocka_unit_test(test_a_push_that_is_over_cannot_be_taken_back),
        cmocka_unit_test(test_an_impossible_answer_is_the_files_fault),
        cmocka_unit_test(test_a_damaged_entry_is_refused),
        cmocka_unit_test(test_a_damaged_record_is_refused),
        cmocka_unit_test(test_data_belongs_to_one_place_on_the_disk),
        cmocka_unit_test(test_data_that_nobody_needs_is_free),
        cmocka_unit_test(test_an_indirect_write_has_the_length_that_was_copied),
        cmocka_unit_test(test_records_read_as_they_were_written),
        cmocka_unit_test(test_records_change_along_the_arrows_only),
        cmocka_unit_test(test_replay_writes_the_newest_of_each_sector_once),
        cmocka_unit_test(test_replay_has_2n_less_1_parts_at_most),
        cmocka_unit_test(test_replay_of_a_full_file),
        cmocka_unit_test(test_any_bit_may_be_wrong),
        cmocka_unit_test(test_no_wrong_bit_is_another_state),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_junk_is_refused),
        cmocka_unit_test(test_a_long_life_of_records),
    };

    return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
