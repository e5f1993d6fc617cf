/*
 * keep: a disk's kept file: what outlives a lost server, a lost cache of it, and the daemon.
 *
 * The file lies on a tmpfs of our own; its format, and what each word in it means, is
 * proto/journal's. Here are the file itself, the memory of writes (a write's data lives in the file
 * from the moment it is copied out of the guest), and each record's life in this process:
 *
 *      kept_add ----> sent, again and again, until it is done or refused
 *      kept_done ---> answered by the server; kept for a replay, until a flush covers it
 *      kept_refused > the server failed it: only what may still be executed late matters now
 *
 * Sendings that were not answered when their session was lost are *ghosts* (law 9): the server may
 * execute them until keep_fenced says otherwise, and keep_ghost_overlaps says who has to wait for
 * that. They outlive their record's own use, as a range without bytes.
 *
 * Memory: a file has a floor (LIMIT_KEPT_FLOOR_BYTES), taken when it is made, so that a full tmpfs
 * fails an attach and never a running disk. Beyond it, it grows in blocks out of a budget that all
 * disks of the daemon share, and when that is spent keep_alloc has nothing until a flush.
 *
 * Who has a file open holds a lock on it, until it ends. One thread at a time; the budget alone is
 * shared.
 */
#ifndef BLKGATE_GATEWAY_KEEP_H
#define BLKGATE_GATEWAY_KEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/list.h"
#include "proto/journal.h"

struct keep;

/* What all disks may have beyond their floors; before any keep is made. */
void keep_set_budget(uint64_t bytes);

/* Makes the file anew, whatever was there; its directory, too. `entry_count` requests can be in
 * flight; writes are kept if `writable`. -errno and a reason. */
int keep_create(const char *path, uint32_t entry_count, bool writable,
                const struct journal_identity *identity, struct keep **ret_keep,
                char ret_reason[static LIMIT_REASON_BYTES]);

/* Opens a file that an earlier life left: everything in it is checked. -ENOENT: there is none, or
 * one that was never finished. -EWOULDBLOCK: another process has it. Otherwise -errno and a reason,
 * and the file is left as it is. What an earlier life had sent is a ghost of bit 0, unless its
 * connection is gone for longer than a server may still execute it. */
int keep_open(const char *path, uint32_t fence_time_ms, struct keep **ret_keep,
              char ret_reason[static LIMIT_REASON_BYTES]);

void keep_close(struct keep *keep);  /* the file stays, for who comes after; NULL is fine */
void keep_remove(struct keep *keep); /* nothing in it is wanted any more; NULL is fine */

struct journal *keep_journal(struct keep *keep);

/* -- the bytes of writes ------------------------------------------------------------------- */

/* As slab_alloc, slab_hold and slab_drop: a request holds its bytes until it is answered, a record
 * for as long as they may be sent again. NULL: there are none now, and keep_is_pressed. */
void *keep_alloc(struct keep *keep, size_t bytes);
void keep_hold(struct keep *keep, const void *data, size_t bytes);
void keep_drop(struct keep *keep, const void *data, size_t bytes);
uint64_t keep_data_at(const struct keep *keep, const void *data);

/* -- records ------------------------------------------------------------------------------- */

/* Private but for what has a comment. */
struct kept {
    struct list done_link, ghost_link;
    struct list requests; /* the disk's: those it is the record of, by place */
    uint64_t id;          /* of no other record, ever; not 0 */
    uint32_t number;
    enum journal_record_state state;
    enum journal_record_kind kind;
    bool over;            /* done or refused */
    bool wanted;          /* for a replay */
    uint32_t asked_bytes; /* of requests that are not answered yet */
    uint16_t out;         /* how many commands of it are at the server, in this session */
    uint32_t parked;      /* bits of lost sessions that may still execute one of its commands */
    bool gone;            /* they are only of earlier lives, whose connections are gone since */
    uint32_t gone_s;
    uint64_t done_mark;
    uint64_t offset_bytes; /* on the disk */
    uint32_t length_bytes;
    uint8_t *data; /* a write's */
};

/* A range that is about to be sent, all of it for requests. NULL: no record is free now, and
 * keep_is_pressed. */
struct kept *kept_add(struct keep *keep, enum journal_record_kind kind, bool fua,
                      uint64_t offset_bytes, uint32_t length_bytes, void *data);
/* A command of it goes to the server; it came back with an answer. */
void kept_sent(struct keep *keep, struct kept *kept);
void kept_returned(struct keep *keep, struct kept *kept);
/* All of it is done. `durable`: for good, no flush is needed. */
void kept_done(struct keep *keep, struct kept *kept, bool durable);
/* The server failed it, or nobody will send it as a whole again. Twice is fine. */
void kept_refused(struct keep *keep, struct kept *kept);
/* A request for so many bytes of it has been answered, or is another record's from now on. With the
 * last of them its life may end. */
void kept_release(struct keep *keep, struct kept *kept, uint32_t length_bytes);

/* -- sessions ------------------------------------------------------------------------------ */

/* The session is gone: what was sent in it and not answered is a ghost of `parked`. */
void keep_lost(struct keep *keep, uint32_t parked);
void keep_fenced(struct keep *keep, uint32_t parked);

/* May a newer request change this range, or is it to wait for a ghost? `own`: it is that record's,
 * and its own ghosts carry the same bytes; so do those of `twin`, an id, by which it was sent with
 * others before. */
bool keep_ghost_overlaps(const struct keep *keep, uint64_t offset_bytes, uint64_t length_bytes,
                         bool trim, const struct kept *own, uint64_t twin);
uint32_t keep_ghosts(const struct keep *keep);
uint32_t keep_parked(const struct keep *keep); /* the bits of all of them */

/* A flush that is sent now covers what `mark` stands for, once it is answered in this session. */
uint64_t keep_flush_mark(const struct keep *keep);
void keep_flushed(struct keep *keep, uint64_t mark);
/* Is there anything that a flush would cover? */
bool keep_is_flushed(const struct keep *keep);
uint64_t keep_unflushed_bytes(const struct keep *keep);
/* A flush is due, for room. */
bool keep_is_pressed(const struct keep *keep);

/* What is to be written again in a new session, before anything else: the newest bytes of all that
 * is done and not flushed, each byte once, in parts. */
void keep_replay_begin(struct keep *keep);
bool keep_replay_next(struct keep *keep, struct kept **ret_kept, struct journal_part *ret_part);

/* -- after a crash ------------------------------------------------------------------------- */

/* The bytes of an unanswered request of the earlier life are held again. The record that they were
 * sent by, if any: over, or to be sent again as a whole if all of it is asked for. -EBADMSG: there
 * are no such bytes. */
int keep_adopt(struct keep *keep, const struct journal_entry *entry, struct kept **ret_kept);
/* All requests are adopted, and those of records that are not wholly asked for have let go of them:
 * what belongs to no request is only a ghost. */
void keep_adopted(struct keep *keep);

#endif
