#include "proto/journal_private.h"

static bool is_entry(const struct journal *journal, uint32_t item)
{
    return item >= journal->layout.geometry.record_count;
}

static const struct file_entry *item_entry(const struct journal *journal, uint32_t item)
{
    return entry_at(journal, item - journal->layout.geometry.record_count);
}

uint64_t item_sequence(const struct journal *journal, uint32_t item)
{
    return is_entry(journal, item) ? item_entry(journal, item)->sequence
                                   : record_at(journal, item)->sequence;
}

uint64_t item_extent(const struct journal *journal, uint32_t item)
{
    return is_entry(journal, item) ? item_entry(journal, item)->extent
                                   : record_at(journal, item)->extent;
}

uint64_t item_begin(const struct journal *journal, uint32_t item)
{
    return extent_begin(item_extent(journal, item));
}

uint32_t items_of_records(const struct journal *journal, uint32_t *items)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < journal->layout.geometry.record_count; i++) {
        if (record_state(record_at(journal, i)) != JOURNAL_FREE)
            items[count++] = i;
    }
    return count;
}

uint32_t items_of_entries(const struct journal *journal, uint32_t *items)
{
    uint32_t in_rings = entries_in_rings(journal), count = 0;

    for (uint32_t i = 0; i < in_rings; i++) {
        if (entry_used(entry_at(journal, i)))
            items[count++] = journal->layout.geometry.record_count + i;
    }
    return count;
}

/* ---- a heap with the largest key on top, and the sort that it makes: qsort may allocate ---- */

static void heap_sink(const struct journal *journal, uint32_t *heap, uint32_t count, uint32_t at,
                      item_key *key)
{
    uint32_t sinking = heap[at];

    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && key(journal, heap[child + 1]) > key(journal, heap[child]))
            child++;
        if (key(journal, heap[child]) <= key(journal, sinking))
            break;
        heap[at] = heap[child];
    }
    heap[at] = sinking;
}

static void heap_rise(const struct journal *journal, uint32_t *heap, uint32_t at, item_key *key)
{
    uint32_t rising = heap[at];

    for (uint32_t parent; at > 0; at = parent) {
        parent = (at - 1) / 2;
        if (key(journal, rising) <= key(journal, heap[parent]))
            break;
        heap[at] = heap[parent];
    }
    heap[at] = rising;
}

void items_sort(const struct journal *journal, uint32_t *items, uint32_t count, item_key *key)
{
    for (uint32_t at = count / 2; at-- > 0;)
        heap_sink(journal, items, count, at, key);
    while (count > 1) {
        uint32_t largest = items[0];

        items[0] = items[--count];
        items[count] = largest;
        heap_sink(journal, items, count, 0, key);
    }
}

uint32_t journal_entries_by_age(const struct journal *journal, uint32_t order[])
{
    uint32_t count = items_of_entries(journal, order);

    items_sort(journal, order, count, item_sequence);
    for (uint32_t i = 0; i < count; i++)
        order[i] -= journal->layout.geometry.record_count;
    return count;
}

uint32_t journal_records_by_age(const struct journal *journal, uint32_t order[])
{
    uint32_t count = items_of_records(journal, order);

    items_sort(journal, order, count, item_sequence);
    return count;
}

/* ---- replay: a sweep over the disk, with a heap of the records that cover where it is ---- */

static uint64_t record_begin(const struct journal *journal, uint32_t number)
{
    return record_at(journal, number)->offset_bytes;
}

static uint64_t record_end(const struct journal *journal, uint32_t number)
{
    return record_begin(journal, number) + extent_bytes(record_at(journal, number)->extent);
}

void journal_replay_begin(struct journal_replay *replay, const struct journal *journal,
                          uint32_t *records, uint32_t count, uint32_t *heap)
{
    *replay = (struct journal_replay){
        .journal = journal,
        .records = records,
        .heap = heap,
        .count = count,
    };
    items_sort(journal, records, count, record_begin);
}

static void heap_add(struct journal_replay *replay, uint32_t number)
{
    replay->heap[replay->heap_count] = number;
    heap_rise(replay->journal, replay->heap, replay->heap_count++, item_sequence);
}

static void heap_remove_top(struct journal_replay *replay)
{
    replay->heap[0] = replay->heap[--replay->heap_count];
    heap_sink(replay->journal, replay->heap, replay->heap_count, 0, item_sequence);
}

/* Makes the newest record that covers at_bytes the top of the heap, and moves on to where the next
 * one begins if none does. False: there is nothing more. */
static bool replay_settle(struct journal_replay *replay)
{
    const struct journal *journal = replay->journal;

    while (replay->heap_count > 0 && record_end(journal, replay->heap[0]) <= replay->at_bytes)
        heap_remove_top(replay);
    if (replay->heap_count == 0) {
        if (replay->begun == replay->count)
            return false;
        replay->at_bytes = record_begin(journal, replay->records[replay->begun]);
    }
    while (replay->begun < replay->count &&
           record_begin(journal, replay->records[replay->begun]) <= replay->at_bytes)
        heap_add(replay, replay->records[replay->begun++]);
    return true;
}

/* The top is the newest until it ends or a newer one begins; older ones that begin before that
 * go to the heap, where they come up once they are the newest, or over. */
bool journal_replay_next(struct journal_replay *replay, struct journal_part *ret_part)
{
    const struct journal *journal = replay->journal;
    const struct file_record *top;
    uint64_t begin, end;

    if (!replay_settle(replay))
        return false;
    top = record_at(journal, replay->heap[0]);
    begin = replay->at_bytes;
    end = record_end(journal, replay->heap[0]);
    *ret_part = (struct journal_part){.record = replay->heap[0], .offset_bytes = begin};
    for (; replay->begun < replay->count; replay->begun++) {
        uint32_t next = replay->records[replay->begun];

        if (record_begin(journal, next) >= end)
            break;
        if (item_sequence(journal, next) > top->sequence) {
            end = record_begin(journal, next);
            break;
        }
        heap_add(replay, next);
    }
    ret_part->length_bytes = (uint32_t)(end - begin);
    if (record_kind(top) == JOURNAL_WRITE)
        ret_part->data_at_bytes = extent_begin(top->extent) + begin - top->offset_bytes;
    replay->at_bytes = end;
    return true;
}
