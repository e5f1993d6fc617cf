/*
 * worker: one thread with one libev loop, its event channels, grants, buffers and disks.
 *
 * Workers share nothing with each other: a disk lives on one worker for its whole life, and
 * everything it touches belongs to that thread. Events (a notified ring, a reply, an order) only
 * record; the work of a loop turn is done in one place, just before the loop would sleep: take
 * requests from all signalled rings, copy out all write data by one grant-copy call, send, copy in
 * all read data by one call, answer, push and notify once per ring.
 *
 * Other threads may only call worker_place_disk, worker_load and worker_stop.
 */
#ifndef BLKGATE_GATEWAY_WORKER_H
#define BLKGATE_GATEWAY_WORKER_H

#include <stdint.h>

struct disklink;
struct worker;

/* With a thread. -errno if Xen's devices cannot be opened or memory is short. */
int worker_start(unsigned index, struct worker **ret_worker);

/* Without one: the caller is its thread, and makes its turns, each without sleeping (what is
 * counted in a turn is then the same every time: tests/bench counts). */
int worker_create(unsigned index, struct worker **ret_worker);
void worker_turn(struct worker *worker);

/* Hands a link (its spec and first order set) to the worker, which makes a disk of it. */
int worker_place_disk(struct worker *worker, struct disklink *link);

/* What "least loaded" goes by, for one thread that places disks: the permille of a CPU that it used
 * since it was last asked (a second at least), and a little for each disk, so that those that are
 * not busy yet are spread, too. */
unsigned worker_load(struct worker *worker);

/* Ends the thread; every disk must have ENDED. NULL is fine. */
void worker_stop(struct worker *worker);

#endif
