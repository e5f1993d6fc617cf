/*
 * queue: one ring of a disk: its mapping, its event channel, its requests.
 *
 * Takes requests off the ring (each slot copied once, law 3) and hands them up decoded; puts
 * answers back. Answers of a loop turn are pushed together with one notification (queue_push).
 * Every request handed up must come back through queue_answer exactly once (law 2).
 */
#ifndef BLKGATE_GATEWAY_QUEUE_H
#define BLKGATE_GATEWAY_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/disklink.h"
#include "gateway/request.h"

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

/* Binds the event channel, then maps and attaches the ring. -errno and a reason. */
int queue_open(const struct queue_place *place, const struct disk_ring *ring,
               struct queue **ret_queue, char *ret_reason, size_t reason_bytes);

/* Unbinds and unmaps; nothing may be unanswered any more, or it never will be. NULL is fine. */
void queue_close(struct queue *queue);

/* Takes what is on the ring now, one `taken` call each, and asks for an event at the next request;
 * with every slot in use it cannot ask, and must be called again once answers were pushed
 * (queue_must_take). -EPROTO: the guest has broken its ring; nothing more will be taken. */
int queue_take(struct queue *queue, void (*taken)(void *arg, struct request *request), void *arg);

/* An event came, or the last take ended for want of free requests and there are some now. */
bool queue_must_take(const struct queue *queue);

void queue_answer(struct queue *queue, struct request *request, enum blkif_status status);
void queue_push(struct queue *queue);

#endif
