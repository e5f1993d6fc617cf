#include "proto/journal_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Every store into the file, but for slots and data, is one of these. Release: none is moved before
 * an earlier one, so a crash leaves what the program had stored so far. */
static void store64(uint64_t *at, uint64_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static void store32(uint32_t *at, uint32_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

void journal_format(void *memory, const struct journal_layout *layout,
                    const struct journal_identity *identity)
{
    struct file_header *header = memory;

    assert(identity->device_nonce != 0 && identity->export_bytes % LIMIT_SECTOR_BYTES == 0);
    store32(&header->version, JOURNAL_VERSION);
    store64(&header->length_bytes, layout->length_bytes);
    store64(&header->data_bytes, layout->geometry.data_bytes);
    store32(&header->entry_count, layout->geometry.entry_count);
    store32(&header->record_count, layout->geometry.record_count);
    store64(&header->device_nonce, identity->device_nonce);
    store64(&header->export_id, identity->export_id);
    store64(&header->export_bytes, identity->export_bytes);
    store32(&header->domid, identity->domid);
    store32(&header->handle, identity->handle);
    store32(&header->flags, identity->flags);
    store64(&header->magic, MAGIC);
}

void journal_grow_export(struct journal *journal, uint64_t export_bytes)
{
    assert(export_bytes >= journal->identity.export_bytes &&
           export_bytes % LIMIT_SECTOR_BYTES == 0);
    journal->identity.export_bytes = export_bytes;
    store64(&header_of(journal)->export_bytes, export_bytes);
}

/* ---- rings ---- */

static void connect_queue(struct file_queue *queue, const struct journal_ring *ring,
                          uint32_t rsp_prod)
{
    assert(ring->nonce != 0 && ring->page_count > 0 && ring->page_count <= LIMIT_RING_PAGES);
    assert(ring->slots > 0 && ring->slots <= LIMIT_RING_SLOTS &&
           (ring->slots & (ring->slots - 1)) == 0);
    store64(&queue->nonce, ring->nonce);
    store64(&queue->pushed, join(rsp_prod, rsp_prod));
    store32(&queue->slots, ring->slots);
    store32(&queue->event_channel, ring->event_channel);
    store32(&queue->page_count, ring->page_count);
    for (uint32_t page = 0; page < LIMIT_RING_PAGES; page++)
        store32(&queue->refs[page], page < ring->page_count ? ring->refs[page] : 0);
}

int journal_connect(struct journal *journal, const struct journal_connection *connection,
                    const uint32_t rsp_prod[])
{
    struct file_header *header = header_of(journal);
    uint32_t slots = 0;

    assert(connection->queue_count > 0 && connection->queue_count <= LIMIT_QUEUES);
    for (uint32_t i = 0; i < connection->queue_count; i++)
        slots += connection->ring[i].slots;
    if (slots > journal->layout.geometry.entry_count)
        return -ENOSPC;

    journal_disconnect(journal);
    for (uint32_t i = 0; i < slots; i++)
        store64(&entry_at(journal, i)->word, join(ENTRY_FREE, 0));
    for (uint32_t i = 0; i < connection->queue_count; i++)
        connect_queue(&header->queue[i], &connection->ring[i], rsp_prod[i]);
    store32(&header->abi, connection->abi);
    store32(&header->queue_count, connection->queue_count);
    return 0;
}

void journal_disconnect(struct journal *journal)
{
    store32(&header_of(journal)->queue_count, 0);
}

void journal_connection(const struct journal *journal, struct journal_connection *ret_connection)
{
    const struct file_header *header = header_of(journal);

    *ret_connection = (struct journal_connection){
        .abi = (enum blkif_abi)header->abi,
        .queue_count = header->queue_count,
    };
    for (uint32_t i = 0; i < header->queue_count; i++) {
        const struct file_queue *queue = &header->queue[i];
        struct journal_ring *ring = &ret_connection->ring[i];

        ring->nonce = queue->nonce;
        ring->slots = queue->slots;
        ring->event_channel = queue->event_channel;
        ring->page_count = queue->page_count;
        memcpy(ring->refs, queue->refs, sizeof(ring->refs));
    }
}

/* ---- recovery ---- */

static struct file_queue *file_queue_of(const struct journal_queue *queue)
{
    return &header_of(queue->journal)->queue[queue->number];
}

static bool was_pushed(const struct file_entry *entry, uint32_t rsp_prod)
{
    return high_of(entry->word) == ENTRY_ANSWERING && (int32_t)(low_of(entry->word) - rsp_prod) < 0;
}

/* Is this the ring that the file is about, as it and we left it? */
static int check_ring(const struct journal_queue *queue, const struct ring_view *view, char *reason)
{
    const struct file_queue *file = file_queue_of(queue);

    if (view->nonce != file->nonce) {
        snprintf(reason, LIMIT_REASON_BYTES, "ring %u was initialised anew", queue->number);
        return -ESTALE;
    }
    if ((view->rsp_prod != high_of(file->pushed) && view->rsp_prod != low_of(file->pushed)) ||
        view->req_prod - view->rsp_prod > queue->slots) {
        snprintf(reason, LIMIT_REASON_BYTES, "the guest broke the indices of ring %u",
                 queue->number);
        return -EPROTO;
    }
    return 0;
}

static int check_taken(const struct journal_queue *queue, const struct ring_view *view,
                       uint32_t *ret_taken, char *reason)
{
    uint32_t taken = 0;

    for (uint32_t i = 0; i < queue->slots; i++) {
        const struct file_entry *entry = entry_at(queue->journal, queue->first + i);

        /* Answers live from less than a ring before rsp_prod to less than a ring behind it. */
        if (high_of(entry->word) == ENTRY_ANSWERING &&
            low_of(entry->word) - (view->rsp_prod - queue->slots) >= 2 * queue->slots) {
            snprintf(reason, LIMIT_REASON_BYTES, "entry %u of ring %u has an impossible answer", i,
                     queue->number);
            return -EBADMSG;
        }
        if (entry_used(entry) && !was_pushed(entry, view->rsp_prod))
            taken++;
    }
    if (taken > view->req_prod - view->rsp_prod) {
        snprintf(reason, LIMIT_REASON_BYTES, "the guest took back requests of ring %u",
                 queue->number);
        return -EPROTO;
    }
    *ret_taken = taken;
    return 0;
}

int journal_recover(struct journal *journal, uint32_t number, const struct ring_view *view,
                    struct journal_queue *queue, uint32_t *ret_taken,
                    char ret_reason[static LIMIT_REASON_BYTES])
{
    struct journal_queue recovered = {.journal = journal, .number = number};
    int err;

    assert(number < header_of(journal)->queue_count);
    recovered.slots = file_queue_of(&recovered)->slots;
    for (uint32_t i = 0; i < number; i++)
        recovered.first += header_of(journal)->queue[i].slots;
    err = check_ring(&recovered, view, ret_reason);
    if (err < 0)
        return err;
    err = check_taken(&recovered, view, ret_taken, ret_reason);
    if (err < 0)
        return err;

    for (uint32_t i = recovered.slots; i-- > 0;) {
        struct file_entry *entry = entry_at(journal, recovered.first + i);

        if (was_pushed(entry, view->rsp_prod))
            store64(&entry->word, join(ENTRY_FREE, 0));
        else if (high_of(entry->word) == ENTRY_ANSWERING)
            store64(&entry->word, join(ENTRY_INFLIGHT, 0));
        if (!entry_used(entry))
            recovered.free[recovered.free_count++] = (uint16_t)i;
    }
    store64(&file_queue_of(&recovered)->pushed, join(view->rsp_prod, view->rsp_prod));
    *queue = recovered;
    return 0;
}

/* ---- entries ---- */

static struct file_entry *entry_of(const struct journal_queue *queue, uint32_t entry)
{
    assert(entry - queue->first < queue->slots);
    return entry_at(queue->journal, entry);
}

uint8_t *journal_next_slot(struct journal_queue *queue)
{
    if (queue->free_count == 0)
        return NULL;
    /* The caller's stores are ordinary ones: none of them before the entry was FREE. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return entry_at(queue->journal, queue->first + queue->free[queue->free_count - 1])->slot;
}

uint32_t journal_taken(struct journal_queue *queue)
{
    struct file_entry *entry;
    uint32_t number;

    assert(queue->free_count > 0);
    number = queue->first + queue->free[--queue->free_count];
    entry = entry_of(queue, number);
    assert(!entry_used(entry));
    store64(&entry->extent, 0);
    store64(&entry->sequence, queue->journal->next_sequence++);
    store64(&entry->word, join(ENTRY_INFLIGHT, 0));
    return number;
}

void journal_copied(struct journal_queue *queue, uint32_t entry, uint64_t data_at_bytes,
                    uint32_t length_bytes)
{
    struct file_entry *copied = entry_of(queue, entry);

    assert(high_of(copied->word) == ENTRY_INFLIGHT);
    assert(data_at_bytes % LIMIT_SECTOR_BYTES == 0 && length_bytes % LIMIT_SECTOR_BYTES == 0);
    store64(&copied->extent, join((uint32_t)(data_at_bytes / LIMIT_SECTOR_BYTES),
                                  length_bytes / LIMIT_SECTOR_BYTES));
    assert(!entry_fault(queue->journal, copied));
}

void journal_answering(struct journal_queue *queue, uint32_t entry, uint32_t r)
{
    struct file_entry *answered = entry_of(queue, entry);

    assert(high_of(answered->word) == ENTRY_INFLIGHT);
    queue->answering[queue->answering_count++] = (uint16_t)(entry - queue->first);
    store64(&answered->word, join(ENTRY_ANSWERING, r));
}

void journal_pushing(struct journal_queue *queue, uint32_t rsp_prod)
{
    uint64_t *pushed = &file_queue_of(queue)->pushed;

    store64(pushed, join(low_of(*pushed), rsp_prod));
}

void journal_pushed(struct journal_queue *queue)
{
    uint64_t *pushed = &file_queue_of(queue)->pushed;

    store64(pushed, join(low_of(*pushed), low_of(*pushed)));
    while (queue->answering_count > 0) {
        uint16_t entry = queue->answering[--queue->answering_count];

        store64(&entry_at(queue->journal, queue->first + entry)->word, join(ENTRY_FREE, 0));
        queue->free[queue->free_count++] = entry;
    }
}

bool journal_entry(const struct journal *journal, uint32_t entry, struct journal_entry *ret_entry)
{
    const struct file_header *header = header_of(journal);
    const struct file_entry *file = entry_at(journal, entry);
    uint32_t queue = 0, end = 0; /* of its entries */

    while (queue < header->queue_count && (end += header->queue[queue].slots) <= entry)
        queue++;
    if (queue == header->queue_count || !entry_used(file))
        return false;
    *ret_entry = (struct journal_entry){
        .slot = file->slot,
        .sequence = file->sequence,
        .data_at_bytes = extent_begin(file->extent),
        .length_bytes = (uint32_t)extent_bytes(file->extent),
        .queue = queue,
    };
    return true;
}

/* ---- records ---- */

int journal_record_add(struct journal *journal, const struct journal_record *record,
                       uint32_t *ret_number)
{
    uint64_t data_sector =
        record->kind == JOURNAL_WRITE ? record->data_at_bytes / LIMIT_SECTOR_BYTES : 0;
    struct file_record *file;

    if (journal_records_left(journal) == 0)
        return -ENOSPC;
    assert(record->data_at_bytes % LIMIT_SECTOR_BYTES == 0 &&
           record->length_bytes % LIMIT_SECTOR_BYTES == 0);
    *ret_number = journal->freed_record_count > 0
                      ? journal->freed_records[--journal->freed_record_count]
                      : journal->fresh_record++;
    file = record_at(journal, *ret_number);
    assert(record_state(file) == JOURNAL_FREE);
    store64(&file->extent, join((uint32_t)data_sector, record->length_bytes / LIMIT_SECTOR_BYTES));
    store64(&file->sequence, journal->next_sequence++);
    store64(&file->offset_bytes, record->offset_bytes);
    store64(&file->word,
            join(record_tags[JOURNAL_SENT], record->kind | (record->fua ? RECORD_FUA : 0U)));
    assert(!record_fault(journal, file));
    return 0;
}

void journal_record_set(struct journal *journal, uint32_t number, enum journal_record_state state)
{
    static const bool legal[RECORD_STATES][RECORD_STATES] = {
        [JOURNAL_SENT] = {[JOURNAL_DONE] = true,
                          [JOURNAL_DONE_OUT] = true,
                          [JOURNAL_GHOST] = true,
                          [JOURNAL_FREE] = true},
        [JOURNAL_DONE] = {[JOURNAL_DONE_OUT] = true, [JOURNAL_FREE] = true},
        [JOURNAL_DONE_OUT] = {[JOURNAL_DONE] = true, [JOURNAL_GHOST] = true},
        [JOURNAL_GHOST] = {[JOURNAL_FREE] = true},
    };
    struct file_record *record = record_at(journal, number);

    assert(legal[record_state(record)][state]);
    if (state == JOURNAL_FREE) {
        store64(&record->word, 0);
        journal->freed_records[journal->freed_record_count++] = number;
    } else {
        store64(&record->word, join(record_tags[state], low_of(record->word)));
    }
}

void journal_record_gone(struct journal *journal, uint32_t number, bool gone, uint32_t gone_s)
{
    struct file_record *record = record_at(journal, number);
    uint32_t low = low_of(record->word) & (RECORD_KIND | RECORD_FUA);

    assert(record_state(record) != JOURNAL_FREE);
    if (gone)
        low |= RECORD_GONE | gone_s % JOURNAL_GONE_MODULUS << RECORD_GONE_SHIFT;
    store64(&record->word, join(high_of(record->word), low));
}

bool journal_record(const struct journal *journal, uint32_t number,
                    struct journal_record *ret_record)
{
    const struct file_record *file = record_at(journal, number);

    if (record_state(file) == JOURNAL_FREE)
        return false;
    *ret_record = (struct journal_record){
        .kind = (enum journal_record_kind)record_kind(file),
        .state = (enum journal_record_state)record_state(file),
        .fua = (file->word & RECORD_FUA) != 0,
        .gone = (file->word & RECORD_GONE) != 0,
        .gone_s = low_of(file->word) >> RECORD_GONE_SHIFT,
        .length_bytes = (uint32_t)extent_bytes(file->extent),
        .offset_bytes = file->offset_bytes,
        .data_at_bytes = record_kind(file) == JOURNAL_WRITE ? extent_begin(file->extent) : 0,
        .sequence = file->sequence,
    };
    return true;
}
