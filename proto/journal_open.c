#include "proto/journal_private.h"

#include <errno.h>
#include <stdio.h>

static int refuse(int err, char *reason, const char *text)
{
    snprintf(reason, LIMIT_REASON_BYTES, "the kept file %s", text);
    return err;
}

int journal_layout(const struct journal_geometry *geometry, struct journal_layout *ret_layout)
{
    struct journal_layout layout = {.geometry = *geometry, .entries_offset = HEADER_BYTES};
    uint64_t end;

    if (geometry->entry_count == 0 || geometry->entry_count > LIMIT_QUEUES * LIMIT_RING_SLOTS ||
        geometry->record_count == 0 || geometry->record_count > LIMIT_RECORDS ||
        geometry->data_bytes > LIMIT_KEPT_BYTES || geometry->data_bytes % LIMIT_PAGE_BYTES != 0)
        return -EINVAL;
    layout.records_offset =
        layout.entries_offset + geometry->entry_count * sizeof(struct file_entry);
    end = layout.records_offset + geometry->record_count * sizeof(struct file_record);
    layout.data_offset = (end + LIMIT_PAGE_BYTES - 1) / LIMIT_PAGE_BYTES * LIMIT_PAGE_BYTES;
    layout.length_bytes = layout.data_offset + geometry->data_bytes;
    layout.scratch_count = geometry->entry_count + geometry->record_count;
    *ret_layout = layout;
    return 0;
}

int journal_peek(const void *memory, uint64_t length_bytes, struct journal_layout *ret_layout,
                 char ret_reason[static LIMIT_REASON_BYTES])
{
    const struct file_header *header = memory;
    struct journal_geometry geometry;
    struct journal_layout layout;

    if (length_bytes < HEADER_BYTES)
        return refuse(-EBADMSG, ret_reason, "is shorter than its header");
    if (header->magic == 0)
        return refuse(-ENODATA, ret_reason, "was never finished");
    if (header->magic != MAGIC)
        return refuse(-EBADMSG, ret_reason, "is not one of blkgate's");
    if (header->version != JOURNAL_VERSION) {
        snprintf(ret_reason, LIMIT_REASON_BYTES,
                 "the kept file has format %u, this blkgated knows format %d only", header->version,
                 JOURNAL_VERSION);
        return -EPROTONOSUPPORT;
    }
    geometry = (struct journal_geometry){
        .entry_count = header->entry_count,
        .record_count = header->record_count,
        .data_bytes = header->data_bytes,
    };
    if (journal_layout(&geometry, &layout) < 0)
        return refuse(-EBADMSG, ret_reason, "has sizes beyond what is allowed");
    if (layout.length_bytes != header->length_bytes || layout.length_bytes != length_bytes)
        return refuse(-EBADMSG, ret_reason, "has another length than its sizes add up to");
    *ret_layout = layout;
    return 0;
}

static int check_queue(const struct file_queue *queue, uint32_t entries_left, char *reason)
{
    if (queue->nonce == 0 || queue->page_count == 0 || queue->page_count > LIMIT_RING_PAGES)
        return refuse(-EBADMSG, reason, "has a queue without a ring");
    if (queue->slots == 0 || queue->slots > LIMIT_RING_SLOTS ||
        (queue->slots & (queue->slots - 1)) != 0 || queue->slots > entries_left)
        return refuse(-EBADMSG, reason, "has a ring of impossible size");
    if (low_of(queue->pushed) - high_of(queue->pushed) > queue->slots)
        return refuse(-EBADMSG, reason, "pushed more answers than a ring has");
    return 0;
}

static int check_header(const struct file_header *header, char *reason)
{
    uint32_t entries_left = header->entry_count;

    if (header->device_nonce == 0)
        return refuse(-EBADMSG, reason, "names no life of its device");
    if (header->export_bytes % LIMIT_SECTOR_BYTES != 0)
        return refuse(-EBADMSG, reason, "has an export that is not whole sectors");
    if (header->abi != BLKIF_ABI_X86_64 && header->abi != BLKIF_ABI_X86_32 &&
        header->abi != BLKIF_ABI_ARM)
        return refuse(-EBADMSG, reason, "has no known ABI");
    if (header->queue_count > LIMIT_QUEUES)
        return refuse(-EBADMSG, reason, "has too many queues");
    for (uint32_t i = 0; i < header->queue_count; i++) {
        int err = check_queue(&header->queue[i], entries_left, reason);

        if (err < 0)
            return err;
        entries_left -= header->queue[i].slots;
    }
    return 0;
}

static bool is_age(uint64_t sequence)
{
    return sequence > 0 && sequence <= SEQUENCE_MAX;
}

static bool in_data(const struct journal *journal, uint64_t extent)
{
    return extent_begin(extent) + extent_bytes(extent) <= journal->layout.geometry.data_bytes;
}

static bool in_export(const struct journal *journal, uint64_t offset_bytes, uint64_t length_bytes)
{
    uint64_t export_bytes = journal->identity.export_bytes;

    return length_bytes <= export_bytes && offset_bytes <= export_bytes - length_bytes;
}

static bool has_data(const struct file_record *record)
{
    return record_kind(record) == JOURNAL_WRITE && record_state(record) != JOURNAL_GHOST;
}

const char *record_fault(const struct journal *journal, const struct file_record *record)
{
    if (record_state(record) == RECORD_STATES ||
        (!(record->word & RECORD_GONE) && low_of(record->word) >> RECORD_GONE_SHIFT != 0))
        return "no state";
    if (record_state(record) == JOURNAL_FREE)
        return record->word == 0 ? NULL : "no state";
    if (record_kind(record) < JOURNAL_WRITE || record_kind(record) > JOURNAL_TRIM)
        return "no kind";
    if (!is_age(record->sequence))
        return "no age";
    if (low_of(record->extent) == 0 || extent_bytes(record->extent) > LIMIT_TRIM_BYTES ||
        record->offset_bytes % LIMIT_SECTOR_BYTES != 0)
        return "no range of sectors";
    if (!in_export(journal, record->offset_bytes, extent_bytes(record->extent)))
        return "a range beyond the export's end";
    if (has_data(record) && !in_data(journal, record->extent))
        return "data beyond the data area";
    return NULL;
}

/* The bytes of an entry must be those that its slot asks to write: they will be sent. */
static const char *extent_fault(const struct journal *journal, const struct file_entry *entry)
{
    struct blkif_limits limits = {
        .capacity_sectors = journal->identity.export_bytes / LIMIT_SECTOR_BYTES,
        .can_flush = true,
        .indirect_segments = LIMIT_SEGMENTS,
    };
    uint32_t sectors = low_of(entry->extent);
    struct blkif_req req;

    blkif_req_decode((enum blkif_abi)header_of(journal)->abi, entry->slot, &req);
    if (blkif_req_check(&req, &limits) != BLKIF_OKAY || req.op == BLKIF_READ)
        return "data, but not a write's slot";
    if (req.indirect ? sectors > req.sector_count : sectors != req.sector_count)
        return "data of another length than its slot says";
    if (!in_export(journal, req.sector * LIMIT_SECTOR_BYTES, extent_bytes(entry->extent)))
        return "a range beyond the export's end";
    if (!in_data(journal, entry->extent))
        return "data beyond the data area";
    return NULL;
}

const char *entry_fault(const struct journal *journal, const struct file_entry *entry)
{
    uint32_t tag = high_of(entry->word), r = low_of(entry->word);

    if (tag != ENTRY_ANSWERING && !((tag == ENTRY_INFLIGHT || tag == ENTRY_FREE) && r == 0))
        return "no state";
    if (!entry_used(entry))
        return NULL;
    if (!is_age(entry->sequence))
        return "no age";
    if (entry->extent == 0)
        return NULL;
    return low_of(entry->extent) == 0 ? "data of no length" : extent_fault(journal, entry);
}

static int check_each(const struct journal *journal, char *reason)
{
    uint32_t in_rings = entries_in_rings(journal);
    const char *fault;

    for (uint32_t i = 0; i < in_rings; i++) {
        fault = entry_fault(journal, entry_at(journal, i));
        if (fault) {
            snprintf(reason, LIMIT_REASON_BYTES, "the kept file's entry %u has %s", i, fault);
            return -EBADMSG;
        }
    }
    for (uint32_t i = 0; i < journal->layout.geometry.record_count; i++) {
        fault = record_fault(journal, record_at(journal, i));
        if (fault) {
            snprintf(reason, LIMIT_REASON_BYTES, "the kept file's record %u has %s", i, fault);
            return -EBADMSG;
        }
    }
    return 0;
}

/* No two of one age; the next is newer than all. */
static int check_ages(struct journal *journal, uint32_t *items, char *reason)
{
    uint32_t count = items_of_records(journal, items);

    count += items_of_entries(journal, items + count);
    items_sort(journal, items, count, item_sequence);
    for (uint32_t i = 1; i < count; i++) {
        if (item_sequence(journal, items[i - 1]) == item_sequence(journal, items[i]))
            return refuse(-EBADMSG, reason, "has two requests or records of one age");
    }
    journal->next_sequence = count > 0 ? item_sequence(journal, items[count - 1]) + 1 : 1;
    return 0;
}

/* The disk's offset of the data area's first byte, as an item has it: the same for items that share
 * bytes. (It may wrap.) */
static uint64_t item_shift(const struct journal *journal, uint32_t item)
{
    uint32_t record_count = journal->layout.geometry.record_count;
    struct blkif_req req;

    if (item < record_count)
        return record_at(journal, item)->offset_bytes - item_begin(journal, item);
    blkif_req_decode((enum blkif_abi)header_of(journal)->abi,
                     entry_at(journal, item - record_count)->slot, &req);
    return req.sector * LIMIT_SECTOR_BYTES - item_begin(journal, item);
}

static uint32_t items_with_data(const struct journal *journal, uint32_t *items)
{
    uint32_t record_count = journal->layout.geometry.record_count;
    uint32_t all = items_of_records(journal, items), count = 0;

    all += items_of_entries(journal, items + all);
    for (uint32_t i = 0; i < all; i++) {
        if (items[i] >= record_count ? item_extent(journal, items[i]) != 0
                                     : has_data(record_at(journal, items[i])))
            items[count++] = items[i];
    }
    return count;
}

static bool reaches(const struct journal *journal, const uint32_t *item, uint32_t other)
{
    return item && item_begin(journal, *item) + extent_bytes(item_extent(journal, *item)) >
                       item_begin(journal, other);
}

/*
 * A byte of the data area belongs to at most one record and at most one entry, and if to both, then
 * to the same byte of the disk. In the order in which they begin, each needs to be compared with
 * the last record and the last entry only: those before do not reach beyond where these begin.
 */
static int check_data(const struct journal *journal, uint32_t *items, char *reason)
{
    uint32_t count = items_with_data(journal, items);
    const uint32_t *last[] = {NULL, NULL}; /* record, entry */

    items_sort(journal, items, count, item_begin);
    for (uint32_t i = 0; i < count; i++) {
        bool is_entry = items[i] >= journal->layout.geometry.record_count;
        const uint32_t *other = last[!is_entry];

        if (reaches(journal, last[is_entry], items[i]))
            return refuse(-EBADMSG, reason, "has two requests or two records that share data");
        if (reaches(journal, other, items[i]) &&
            item_shift(journal, *other) != item_shift(journal, items[i]))
            return refuse(-EBADMSG, reason, "has a request and a record that share data only");
        last[is_entry] = &items[i];
    }
    return 0;
}

static void open_identity(struct journal *journal)
{
    const struct file_header *header = header_of(journal);

    journal->identity = (struct journal_identity){
        .device_nonce = header->device_nonce,
        .export_id = header->export_id,
        .export_bytes = header->export_bytes,
        .domid = header->domid,
        .handle = header->handle,
        .flags = header->flags,
    };
}

static void open_free_records(struct journal *journal)
{
    uint32_t end = journal->layout.geometry.record_count;

    while (end > 0 && record_state(record_at(journal, end - 1)) == JOURNAL_FREE)
        end--;
    journal->fresh_record = end;
    while (end-- > 0)
        if (record_state(record_at(journal, end)) == JOURNAL_FREE)
            journal->freed_records[journal->freed_record_count++] = end;
}

int journal_open(struct journal *journal, void *memory, uint64_t length_bytes, uint32_t *scratch,
                 char ret_reason[static LIMIT_REASON_BYTES])
{
    struct journal opened = {.memory = memory, .freed_records = scratch};
    int err;

    err = journal_peek(memory, length_bytes, &opened.layout, ret_reason);
    if (err < 0)
        return err;
    open_identity(&opened);
    err = check_header(memory, ret_reason);
    if (err < 0)
        return err;
    err = check_each(&opened, ret_reason);
    if (err < 0)
        return err;
    err = check_ages(&opened, scratch, ret_reason);
    if (err < 0)
        return err;
    err = check_data(&opened, scratch, ret_reason);
    if (err < 0)
        return err;
    open_free_records(&opened);
    *journal = opened;
    return 0;
}
