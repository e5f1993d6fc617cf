/*
 * disk: one guest disk as data: its queues, its target, its requests. Lives on one worker.
 *
 * The states (the vbd's side of them is in disklink.h):
 *
 *   CLOSED -> OPENING -> READY -> CONNECTED -> DRAINING -> FLUSHING -> CLOSED
 *                |  \     |  \    |     |          |         ^  |         ^
 *                |   \    |   v   |     |          +---------|--+---------+
 *                |    +---|-> REFUSED   +-> SUSPENDING -------|-----------+
 *                +-> LOST <+------+            ^              |
 *                     |  \____________________/ \____________/ (LOST, FAILING: DRAINING too)
 *                     v
 *                  FAILING
 *
 *   OPENING    the target connects for the first time               no rings
 *   READY      the server answered, or an earlier life's file tells what it said    no rings
 *   REFUSED    the rings, or the kept file, could not be taken      no rings; waits for CLOSE
 *   CONNECTED  requests are served; while there is no server they wait
 *   LOST       the disk is given up: no server for longer than `on-loss` says, or the guest broke
 *              its ring. Nothing is taken, nothing that came back is answered ERROR, until the vbd
 *              has shown state 5
 *   FAILING    reads and writes are answered ERROR; flushes are kept back
 *   DRAINING   no more is taken; everything taken is being answered (a flush that cannot be
 *              honest: last, with BLKIF_FLUSH_LOST); from OPENING or READY, without rings: what an
 *              earlier life kept is being written
 *   FLUSHING   all answered; our own last flush is at the server
 *   SUSPENDING the daemon stops: nothing is taken, what the server has comes back and is flushed,
 * if it does so soon; the rest stays in the kept file for the next life
 *
 * Beside them, the session with the server (disk_session.c): DOWN, REPLAYING, UP. Requests start
 * when it is UP. A session that is lost makes everything that was sent READY once more: it is sent
 * again, the same bytes, in the next one, after what had been answered and not flushed.
 *
 * Invariants:
 *  1. Every request taken is on `requests` (age order) until it is answered, exactly once (law 2),
 *     by this life of the daemon or, if its entry is in the kept file, by a later one.
 *  2. A request is sent only when no older unfinished one overlaps it, unless both read (plan.h),
 *     and, if it writes, no ghost does (keep.h, law 9). Nor a flush while another is at the server:
 *     of two that cover the same writes, which were lost, a server may fail one and complete the
 *     other.
 *  3. Guest memory is written only from a read that the server completed whole (law 1).
 *  4. While CONNECTED or LOST no flush is answered anything but OKAY (law 6). It is when the server
 *     completed a flush that was sent after all it covers was answered, in the same session; or at
 *     once, when nothing is answered and not flushed. A server's error on a flush ends the session:
 *     all is written again before the next one.
 *  5. Rings are mapped exactly from CONNECTED to the end of DRAINING, FLUSHING or SUSPENDING.
 *  6. The oldest request always gets its memory: where the slab has none, from the disk's own
 *     reserve; a write's, from the kept file's floor, after a flush, and after those writes that
 *     have some of it already (they are sent first). So every disk goes on, if only by one request
 *     at a time, whatever others hold; and reads go on while a write waits for such room, as far as
 *     the plan and the limit of descriptors reach.
 *  7. What is answered OKAY and not flushed is a record in the kept file (law 5), stored before the
 *     answer; a write is sent from that file's bytes, and, once sent, from no other.
 *
 * The worker runs the steps of a turn over all its active disks, in this order; each step leaves
 * what the next one needs:
 *    advance  orders of the vbd, events of the target, end of a drain
 *    take     requests off signalled rings; collect the copies of indirect descriptors (one call)
 *    read     the descriptors that came
 *    start    choose what may go, give it buffers, collect the copies of writes (one call)
 *    send     hand commands to libnbd
 *    collect  replies: collect the copies of reads (one call)
 *    answer   put, push and notify once per ring
 *
 * and at the end of a turn, if it has nothing more to do
 *
 *    arm      ask its guest for an event at the next request
 */
#ifndef BLKGATE_GATEWAY_DISK_H
#define BLKGATE_GATEWAY_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/list.h"

struct disk;
struct disklink;
struct ev_loop;
struct evtchn;
struct grants;
struct mailbox;
struct slab;

/* What a worker gives its disks. */
struct disk_home {
    struct ev_loop *loop;
    struct mailbox *mailbox;
    struct slab *slab;
    struct grants *grants;
    struct evtchn *evtchn;
    struct list active;     /* disks with something to do in this turn */
    struct list unarmed;    /* disks that took since their guests were last asked for events */
    struct list starved;    /* disks that wait for slab memory */
    uint64_t started_bytes; /* of data, by all disks in this turn */
};

/* Makes the worker's half of a link, on any thread; the worker then moves it in. */
int disk_create(struct disklink *link, struct disk **ret_disk);
void disk_move_in(struct disk *disk, struct disk_home *home);

/* The disk's place in a list of its worker's: of those not moved in yet, or of a round's. */
struct list *disk_place(struct disk *disk);
struct disk *disk_of_place(struct list *node);

/* The next active disk, which is active no longer until something new happens; NULL: none. */
struct disk *disk_next_active(struct disk_home *home);
/* Likewise the next that took requests and has not been told to arm its rings since. */
struct disk *disk_next_unarmed(struct disk_home *home);

/* Returns false when the disk has ENDED and is no more. */
bool disk_advance(struct disk *disk);
void disk_take(struct disk *disk);
void disk_read(struct disk *disk);
void disk_start(struct disk *disk);
void disk_send(struct disk *disk);
void disk_collect(struct disk *disk);
void disk_answer(struct disk *disk);
void disk_arm(struct disk *disk);

#endif
