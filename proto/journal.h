/*
 * journal: the kept file of one disk, which outlives the daemon: the requests that were taken off
 * its rings and not answered (entries), what was sent to the server and is not yet covered by a
 * flush (records), the data of those writes, and which guest, device, export and rings it is about.
 *
 * Crash, kill, upgrade and clean stop are one thing to it: whatever store came last, the next
 * daemon opens the file, validates all of it, recovers each ring, and goes on. It protects against
 * the death of the process, not of the host: stores in program order are enough (release).
 *
 * The memory is the caller's, mapped shared, layout.length_bytes long, and belongs to one thread.
 * Pure: no system call, no allocation, no logging. What is read from the file at journal_open is as
 * hostile as a guest's page (-EBADMSG and a reason); once open, only this module writes to it, but
 * for the data area.
 *
 *
 * ENTRIES, one per request taken, from a free list, as many as the ring has slots. An entry's
 * number is *not* the ring index: a slow request would be overwritten by the one that takes its
 * slot a ring later. An entry is the copied slot, its age, its link to the data, and one word:
 *
 *     FREE --journal_taken--> INFLIGHT --journal_answering--> ANSWERING(r) --journal_pushed--> FREE
 *                                ^                                |
 *                                +--------- journal_recover ------+   if r was not pushed
 *
 *  1. INFLIGHT is stored after the slot was copied and before the next is taken, so that requests
 *     are counted in ring order; ANSWERING(r) before rsp_prod passes r; FREE after it has.
 *  2. So, at every moment, requests taken = rsp_prod + used entries, not counting ANSWERING(r) with
 *     (int32_t)(r - rsp_prod) < 0: recovery frees those, makes *all others* INFLIGHT, and the ring
 *     goes on with req_cons = rsp_prod + n, n their number. That it does not know *which* slots
 *     were answered does not matter: slots are taken in order, responses take slots in their own
 *     order and only below req_cons, and each request taken lives in its entry, not in its slot.
 *     ANSWERING must not survive recovery: r will be another request's.
 *  3. rsp_prod can be written by the guest, so the file keeps {old, new} of the push under way, and
 *     {new, new} afterwards. The ring's must be one of the two (-EPROTO else; only its guest
 *     suffers).
 *  4. A nonce in the ring's pad (ring_set_nonce), and in the file, is this life of the ring: who
 *     initialises a ring zeroes it. Refs, port and indices alone may be the same after a kexec.
 *     As it is written before the first take, nothing was taken from a ring whose nonce is 0: all
 *     behind its rsp_prod may be taken, once all rings of the disk are known to be new.
 *  5. journal_recover stores nothing unless it will succeed, and may be cut short and run again.
 *
 * RECORDS, one per range sent by WRITE (with FUA or without), WRITE_ZEROES or TRIM:
 *
 *     FREE --add--> SENT --reply--> DONE --flush--> FREE
 *                   | | |            ^ |
 *                   | | |     all    | | a replay is
 *                   | | |     over   | v about to be sent
 *                   | | +--reply-> DONE_OUT --flush--+
 *                   | |    to a twin                 v
 *                   | +--given up (answered ERROR)-> GHOST --over--> FREE
 *                   +--the server refused it--> FREE
 *
 *     SENT      a command with these bytes may be at a server; it has not been answered
 *     DONE      answered; the bytes are kept for a replay until a flush covers them
 *     DONE_OUT  as DONE, and a command with these bytes may still be at a server: a replay, or the
 *               first sending, whose session was lost, of what was then sent again
 *     GHOST     only the range: a command may still be at a server, its bytes are not needed
 *
 *     SENT, DONE_OUT and GHOST are what law 9 is about: in the session that sent them they are in
 *     flight, in any other (after journal_open: all of them, from that moment on) they are ghosts,
 *     and a newer different write that overlaps one waits.
 *
 *  6. SENT is stored before the command is given to the connection, DONE before the response is
 *     pushed, DONE_OUT before a replay is given to the connection. FREE or GHOST, of a DONE, comes
 *     after the reply to a flush that was sent after that DONE, in the same session.
 *  7. Sequence numbers are file-wide, of entries and of records, in the order of taking and of
 *     sending: the age by which the newest wins.
 *  8. A record is a range, not a command: it may be sent in several commands, again and again (a
 *     server with a smaller maximum), and is DONE when the last is answered. Only a range that does
 *     not share data with a record gets a new one.
 *
 * DATA. A write's bytes lie in the data area, contiguous for the whole request, however it is cut
 * into commands or merged with its neighbours: a byte of the data area stands for one byte of the
 * disk. So nothing else links entry and record: an entry names where its request's bytes lie
 * (journal_copied), a record where its range's lie; they belong together where they share bytes,
 * and then agree about the disk offset. A record covers its entries whole: one, or several
 * neighbours that were merged (a discard's alone is of a chunk, and shares no data).
 *
 *  9. journal_copied comes after the copy from the guest, and before the record. An unanswered
 *     write that has been copied is sent again from here and never fetched again: a twin may be at
 *     the server, and must be equal to it (law 9). One that has not may be fetched. The length of
 * an INDIRECT one comes from here too; its descriptors are not needed any more.
 * 10. Bytes are in use while a used entry (until journal_pushed, not until it is answered) or a
 *     SENT, DONE or DONE_OUT record names them. Two records never share bytes, nor do two entries
 * (but pages, yes): a file where they do is refused.
 *
 * 11. A SENT record that shares no bytes with a used entry has no request any more that would send
 * it again (the rings are another life's, or it is a DISCARD's): when its session is gone it is
 *     given up, and is a GHOST.
 *
 * A DISCARD has no bytes, and no link: TRIM may always pass a ghost TRIM, zeroes ghost zeroes.
 */
#ifndef BLKGATE_PROTO_JOURNAL_H
#define BLKGATE_PROTO_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/blkif.h"
#include "proto/limits.h"
#include "proto/ring.h"

enum { JOURNAL_VERSION = 1, JOURNAL_GONE_MODULUS = 1 << 22 };

/* -- the file ---------------------------------------------------------------------------------- */

/* What the sizes follow from. All queues share the entries: room for what is *offered* to the
 * frontend, so that its next life fits as well. */
struct journal_geometry {
    uint32_t entry_count;  /* 1 .. LIMIT_QUEUES * LIMIT_RING_SLOTS */
    uint32_t record_count; /* 1 .. LIMIT_RECORDS */
    uint64_t data_bytes;   /* whole pages, up to LIMIT_KEPT_BYTES; 0 for a disk never written */
};

struct journal_layout {
    struct journal_geometry geometry;
    uint64_t entries_offset;
    uint64_t records_offset;
    uint64_t data_offset; /* page-aligned */
    uint64_t length_bytes;
    uint32_t scratch_count; /* elements of what journal_open needs */
};

/* What the file is about, beside rings. */
struct journal_identity {
    uint64_t device_nonce; /* this life of the device: a node in the backend's directory; not 0 */
    uint64_t export_id;    /* a hash that names the export */
    uint64_t export_bytes; /* whole sectors */
    uint32_t domid;
    uint32_t handle; /* the virtual device */
    uint32_t flags;  /* the caller's own */
};

/* -EINVAL: out of bounds. */
int journal_layout(const struct journal_geometry *geometry, struct journal_layout *ret_layout);

/* Makes memory, all zero, a kept file without rings and records: valid from the last store on,
 * -ENODATA to journal_peek before that. */
void journal_format(void *memory, const struct journal_layout *layout,
                    const struct journal_identity *identity);

struct journal {
    uint8_t *memory;
    struct journal_layout layout;
    struct journal_identity identity;
    uint64_t next_sequence;
    uint32_t *freed_records; /* a stack, in the caller's scratch; they are used again first */
    uint32_t freed_record_count;
    uint32_t fresh_record; /* the first that was not used in this life, nor are those behind it */
};

/*
 * The layout of the file in memory, of which length_bytes are mapped; only the header is looked at.
 * -EBADMSG it is none, or damaged; -ENODATA it was never finished, nothing depended on it;
 * -EPROTONOSUPPORT another version's: leave it alone. Each with a reason.
 */
int journal_peek(const void *memory, uint64_t length_bytes, struct journal_layout *ret_layout,
                 char ret_reason[static LIMIT_REASON_BYTES]);

/* Validates the whole file, then opens it. scratch[layout.scratch_count] stays in use. Stores
 * nothing in the file. Errors as journal_peek. */
int journal_open(struct journal *journal, void *memory, uint64_t length_bytes, uint32_t *scratch,
                 char ret_reason[static LIMIT_REASON_BYTES]);

/* The export has grown: before any record beyond the old end. Never smaller (asserted). */
void journal_grow_export(struct journal *journal, uint64_t export_bytes);

static inline uint8_t *journal_data(const struct journal *journal, uint64_t data_at_bytes)
{
    return journal->memory + journal->layout.data_offset + data_at_bytes;
}

/* -- rings and entries ------------------------------------------------------------------------- */

struct journal_ring {
    uint64_t nonce; /* not 0 */
    uint32_t slots; /* a power of two, up to LIMIT_RING_SLOTS */
    uint32_t event_channel;
    uint32_t page_count;
    uint32_t refs[LIMIT_RING_PAGES];
};

struct journal_connection {
    enum blkif_abi abi;
    uint32_t queue_count; /* 0: no rings */
    struct journal_ring ring[LIMIT_QUEUES];
};

/* Notes a new life of the rings, whose shared rsp_prod are given, and forgets all entries. Write
 * the nonces into the rings after it and before the first take. -ENOSPC: more slots than entries.
 */
int journal_connect(struct journal *journal, const struct journal_connection *connection,
                    const uint32_t rsp_prod[]);
/* Forgets rings and entries. Records stay. */
void journal_disconnect(struct journal *journal);
void journal_connection(const struct journal *journal, struct journal_connection *ret_connection);

struct journal_queue {
    struct journal *journal;
    uint32_t number;       /* of the queue */
    uint32_t first, slots; /* its entries: first .. first + slots - 1 */
    uint32_t free_count, answering_count;
    uint16_t free[LIMIT_RING_SLOTS]; /* a stack */
    uint16_t answering[LIMIT_RING_SLOTS];
};

/*
 * Opens queue `number` of the connection: new, or after a crash. `view` is what ring_view read from
 * its ring, once. *ret_taken requests are taken and not answered, for ring_resume, and are the used
 * entries. -ESTALE: the ring has another nonce, it was initialised anew. -EPROTO: the guest has
 * broken it. -EBADMSG: the file contradicts itself. On errors nothing has been stored, anywhere.
 */
int journal_recover(struct journal *journal, uint32_t number, const struct ring_view *view,
                    struct journal_queue *queue, uint32_t *ret_taken,
                    char ret_reason[static LIMIT_REASON_BYTES]);

/* A free entry's slot (private memory, LIMIT_SLOT_BYTES), to be filled by ring_take and then named
 * by journal_taken, before anything else is taken or put. NULL: none is free. An honest guest gets
 * there with a full ring only; one that overruns it may while answers are not pushed: push first.
 */
uint8_t *journal_next_slot(struct journal_queue *queue);
/* The slot last given is a request now: the number of its entry. */
uint32_t journal_taken(struct journal_queue *queue);

/* All of the write's bytes lie at data_at_bytes (whole sectors, within the data area). */
void journal_copied(struct journal_queue *queue, uint32_t entry, uint64_t data_at_bytes,
                    uint32_t length_bytes);
/* Its response will be number r: ring.rsp_prod as it is before ring_put. */
void journal_answering(struct journal_queue *queue, uint32_t entry, uint32_t r);
/* Around ring_push: `rsp_prod` is what it will show; then it has, and what it answered is free. */
void journal_pushing(struct journal_queue *queue, uint32_t rsp_prod);
void journal_pushed(struct journal_queue *queue);

struct journal_entry {
    const uint8_t *slot; /* LIMIT_SLOT_BYTES */
    uint64_t sequence;
    uint64_t data_at_bytes;
    uint32_t length_bytes; /* 0: not copied (or nothing to copy) */
    uint32_t queue;
};

/* False if that entry is not used by a ring. */
bool journal_entry(const struct journal *journal, uint32_t entry, struct journal_entry *ret_entry);
/* The used entries of all queues, oldest first; order[geometry.entry_count]. How many. */
uint32_t journal_entries_by_age(const struct journal *journal, uint32_t order[]);

/* -- records ----------------------------------------------------------------------------------- */

enum journal_record_kind {
    JOURNAL_WRITE = 1,
    JOURNAL_ZEROES,
    JOURNAL_TRIM,
};

enum journal_record_state {
    JOURNAL_FREE,
    JOURNAL_SENT,
    JOURNAL_DONE,
    JOURNAL_DONE_OUT,
    JOURNAL_GHOST,
};

struct journal_record {
    enum journal_record_kind kind;
    enum journal_record_state state;
    bool fua;  /* sent with FUA, and so to be sent again with it */
    bool gone; /* see journal_record_gone */
    uint32_t gone_s;
    uint32_t length_bytes;  /* whole sectors, not 0 */
    uint64_t offset_bytes;  /* on the disk */
    uint64_t data_at_bytes; /* JOURNAL_WRITE */
    uint64_t sequence;      /* given by journal_record_add */
};

/* About to be sent: stored as SENT. 0 and its number, or -ENOSPC: flush, then try again. */
int journal_record_add(struct journal *journal, const struct journal_record *record,
                       uint32_t *ret_number);
/* Only along the arrows above (asserted). */
void journal_record_set(struct journal *journal, uint32_t number, enum journal_record_state state);
/*
 * Of SENT, DONE_OUT and GHOST: no connection over which it was sent has been open since `gone_s`,
 * so that a server's time to execute it late need not begin again with every life. Taken back
 * (`gone` false) before it is sent once more. A clock in seconds that all lives of the daemon
 * share, modulo JOURNAL_GONE_MODULUS: who is away for longer only waits longer.
 */
void journal_record_gone(struct journal *journal, uint32_t number, bool gone, uint32_t gone_s);
/* False if it is free. */
bool journal_record(const struct journal *journal, uint32_t number,
                    struct journal_record *ret_record);
/* All that are not free, oldest first; order[geometry.record_count]. How many. */
uint32_t journal_records_by_age(const struct journal *journal, uint32_t order[]);

static inline uint32_t journal_records_left(const struct journal *journal)
{
    return journal->freed_record_count + journal->layout.geometry.record_count -
           journal->fresh_record;
}

/* No record has this number or a higher one: they are few where few are in use together. */
static inline uint32_t journal_records_end(const struct journal *journal)
{
    return journal->fresh_record;
}

/* -- replay ------------------------------------------------------------------------------------ */

/*
 * What of some records is to be written again so that the newest wins on every byte: each byte that
 * any of them covers comes exactly once, as part of the newest that covers it, in ascending offset.
 * So the order in which the parts are sent, and land, does not matter. Of n records there are at
 * most 2n - 1 parts: each but the last ends where a record ends or where a newer one begins.
 *
 * `records` and heap[count] are the caller's, in use until the last part; the records must not
 * be freed meanwhile. O(log n) for each record.
 */
struct journal_replay {
    const struct journal *journal;
    uint32_t *records; /* by offset; `begun` of them are or were in the heap */
    uint32_t *heap;    /* those that cover `at_bytes`, and some that are over; newest on top */
    uint32_t count, begun, heap_count;
    uint64_t at_bytes;
};

struct journal_part {
    uint32_t record;
    uint32_t length_bytes;
    uint64_t offset_bytes;
    uint64_t data_at_bytes; /* JOURNAL_WRITE: of this part */
};

/* Of `records`, in any order (it is sorted here): the caller takes those in state DONE or DONE_OUT.
 * SENT ones go out whole, when what they overlap is back: if one then fails, the older bytes that
 * it would have replaced are where they belong. */
void journal_replay_begin(struct journal_replay *replay, const struct journal *journal,
                          uint32_t *records, uint32_t count, uint32_t *heap);
bool journal_replay_next(struct journal_replay *replay, struct journal_part *ret_part);

#endif
