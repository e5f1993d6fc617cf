/*
 * queue: one ring of a disk: its mapping, its event channel, its requests.
 *
 * Takes requests off the ring (each slot copied once, law 3, straight into the journal) and hands
 * them up decoded; puts answers back. Answers of a loop turn are pushed together with one
 * notification (queue_push). Every request handed up must come back through queue_answer exactly
 * once (law 2); the journal sees to it that this holds across lives of the daemon, too.
 *
 *      queue_open --> queue_start --> take, answer, push ... --> queue_close
 *
 * A queue that was not started may be closed: it has changed nothing that the guest can see.
 */
#ifndef BLKGATE_GATEWAY_QUEUE_H
#define BLKGATE_GATEWAY_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/disklink.h"
#include "gateway/request.h"
#include "proto/journal.h"
#include "proto/ring.h"

struct evtchn;
struct grants;
struct queue;

struct queue_place {
    struct grants *grants;
    struct evtchn *evtchn;
    uint32_t domid;
    enum blkif_abi abi;
    void (*signalled)(void *arg); /* the guest sent an event: take, soon. Only records. */
    void *arg;
};

/* Binds the event channel, then maps the ring: whoever holds the port may still be serving it.
 * -errno and a reason. */
int queue_open(const struct queue_place *place, const struct disk_ring *ring,
               struct queue **ret_queue, char *ret_reason, size_t reason_bytes);

/* What the ring said, read once at queue_open. */
const struct ring_view *queue_view(const struct queue *queue);

/* Begins as number `number` of the journal's connection. With a nonce: in a new life of the ring,
 * which is given it. With 0: where an earlier life of ours left off; each request that is taken and
 * not answered has an entry, and is to be readopted. */
int queue_start(struct queue *queue, struct journal *journal, uint32_t number, uint64_t nonce,
                char *ret_reason, size_t reason_bytes);
struct request *queue_readopt(struct queue *queue, uint32_t entry);

/* The notification of an earlier life's last push may have been lost. */
void queue_kick(struct queue *queue);

/* The bytes of its write now lie there in the kept file. */
void queue_copied(struct queue *queue, const struct request *request, uint64_t data_at_bytes);

/* Unbinds and unmaps; what is unanswered stays so, unless the journal lives on. NULL is fine. */
void queue_close(struct queue *queue);

/* Takes what is on the ring now, one `taken` call each. -EPROTO: the guest has broken its ring;
 * nothing more will be taken. -ESTALE: it has made the ring anew, with no word of it; nothing is
 * taken or put any more, and what an answer was owed to is no more. */
int queue_take(struct queue *queue, void (*taken)(void *arg, struct request *request), void *arg);

/* After the last take before the loop sleeps, and not sooner, for until then the guest need not be
 * asked to send events: asks for one at the next request. True: there already is one to take. With
 * every slot in use it cannot ask: once answers were pushed, queue_must_take. */
bool queue_arm(struct queue *queue);

bool queue_is_stale(const struct queue *queue);

/* An event came, or the ring is not armed and there is room to take from it. */
bool queue_must_take(const struct queue *queue);

void queue_answer(struct queue *queue, struct request *request, enum blkif_status status);
void queue_push(struct queue *queue);

#endif
