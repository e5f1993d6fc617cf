/*
 * journal_private: the kept file's format, for the files that are proto/journal: journal.c (rings,
 * entries, records), journal_open.c (validation), journal_order.c (ages, replay). For nobody else.
 */
#ifndef BLKGATE_PROTO_JOURNAL_PRIVATE_H
#define BLKGATE_PROTO_JOURNAL_PRIVATE_H

#include <assert.h>

#include "proto/journal.h"

enum { HEADER_BYTES = LIMIT_PAGE_BYTES };

#define MAGIC        UINT64_C(0x3154504b474b4c42) /* "BLKGKPT1" */
#define SEQUENCE_MAX (UINT64_MAX >> 1)            /* it can be counted up for ever */

struct file_queue {
    uint64_t nonce;
    uint64_t pushed; /* shared rsp_prod: old << 32 | new */
    uint32_t slots;
    uint32_t event_channel;
    uint32_t page_count;
    uint32_t unused;
    uint32_t refs[LIMIT_RING_PAGES];
};

struct file_header {
    uint64_t magic; /* stored last */
    uint32_t version;
    uint32_t queue_count; /* 0 while what describes the rings is written */
    uint64_t length_bytes;
    uint64_t data_bytes;
    uint32_t entry_count;
    uint32_t record_count;
    uint64_t device_nonce;
    uint64_t export_id;
    uint64_t export_bytes;
    uint32_t domid;
    uint32_t handle;
    uint32_t flags;
    uint32_t abi;
    struct file_queue queue[LIMIT_QUEUES];
};

/* The words that hold a state begin with a tag that no single wrong bit makes of another, or of
 * FREE, which is all zero. */
enum entry_tag { ENTRY_FREE = 0, ENTRY_INFLIGHT = 0x494e464c, ENTRY_ANSWERING = 0x414e5357 };

struct file_entry {
    uint64_t word;   /* tag << 32 | r */
    uint64_t extent; /* first sector in the data area << 32 | sectors; 0: not copied */
    uint64_t sequence;
    uint8_t slot[LIMIT_SLOT_BYTES];
};

enum {
    RECORD_STATES = JOURNAL_GHOST + 1,
    RECORD_KIND = 0xff,
    RECORD_FUA = 0x100,
    RECORD_GONE = 0x200, /* and the seconds of its clock from here on */
    RECORD_GONE_SHIFT = 10,
};

static const uint32_t record_tags[RECORD_STATES] = {
    [JOURNAL_FREE] = 0,           [JOURNAL_SENT] = 0x53454e54,
    [JOURNAL_DONE] = 0x444f4e45,  [JOURNAL_DONE_OUT] = 0x646f7574,
    [JOURNAL_GHOST] = 0x47484f53,
};

struct file_record {
    uint64_t word; /* tag << 32 | seconds << RECORD_GONE_SHIFT | RECORD_GONE | RECORD_FUA | kind */
    uint64_t extent;
    uint64_t sequence;
    uint64_t offset_bytes;
};

_Static_assert(sizeof(struct file_header) == 1616 && sizeof(struct file_header) <= HEADER_BYTES,
               "the format");
_Static_assert(sizeof(struct file_entry) == 136, "the format");
_Static_assert(sizeof(struct file_record) == 32, "the format");
_Static_assert(LIMIT_KEPT_BYTES % LIMIT_PAGE_BYTES == 0, "whole pages");

static inline uint64_t join(uint32_t high, uint32_t low)
{
    return (uint64_t)high << 32 | low;
}

static inline uint32_t high_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline uint32_t low_of(uint64_t word)
{
    return (uint32_t)word;
}

static inline uint64_t extent_begin(uint64_t extent)
{
    return (uint64_t)high_of(extent) * LIMIT_SECTOR_BYTES;
}

static inline uint64_t extent_bytes(uint64_t extent)
{
    return (uint64_t)low_of(extent) * LIMIT_SECTOR_BYTES;
}

static inline struct file_header *header_of(const struct journal *journal)
{
    return (struct file_header *)(void *)journal->memory;
}

static inline struct file_entry *entry_at(const struct journal *journal, uint32_t entry)
{
    uint8_t *entries = journal->memory + journal->layout.entries_offset;

    assert(entry < journal->layout.geometry.entry_count);
    return (struct file_entry *)(void *)entries + entry;
}

static inline struct file_record *record_at(const struct journal *journal, uint32_t number)
{
    uint8_t *records = journal->memory + journal->layout.records_offset;

    assert(number < journal->layout.geometry.record_count);
    return (struct file_record *)(void *)records + number;
}

/* How many entries belong to rings: the first ones. */
static inline uint32_t entries_in_rings(const struct journal *journal)
{
    const struct file_header *header = header_of(journal);
    uint32_t count = 0;

    for (uint32_t i = 0; i < header->queue_count; i++)
        count += header->queue[i].slots;
    return count;
}

static inline bool entry_used(const struct file_entry *entry)
{
    return high_of(entry->word) != ENTRY_FREE;
}

/* enum journal_record_state; RECORD_STATES for a word that is none. */
static inline uint32_t record_state(const struct file_record *record)
{
    uint32_t state = JOURNAL_FREE;

    while (state < RECORD_STATES && record_tags[state] != high_of(record->word))
        state++;
    return state;
}

static inline uint32_t record_kind(const struct file_record *record)
{
    return record->word & RECORD_KIND;
}

/* journal_open.c: what is wrong with it, or NULL. */
const char *entry_fault(const struct journal *journal, const struct file_entry *entry);
const char *record_fault(const struct journal *journal, const struct file_record *record);

/*
 * journal_order.c: records and entries in one numbering, for what concerns both: an item is a
 * record's number, or record_count + an entry's.
 */
typedef uint64_t item_key(const struct journal *journal, uint32_t item);

item_key item_sequence; /* its age */
item_key item_begin;    /* where its bytes begin in the data area */
uint64_t item_extent(const struct journal *journal, uint32_t item);

/* Those in use; of rings, in the case of entries. */
uint32_t items_of_records(const struct journal *journal, uint32_t *items);
uint32_t items_of_entries(const struct journal *journal, uint32_t *items);
void items_sort(const struct journal *journal, uint32_t *items, uint32_t count, item_key *key);

#endif
