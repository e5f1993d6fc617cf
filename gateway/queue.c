#include "gateway/queue.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/evtchn.h"
#include "gateway/grants.h"
#include "proto/ring.h"

struct queue {
    struct queue_place place;
    struct ring ring;
    void *memory; /* the mapped ring */
    uint32_t page_count;
    uint32_t port;
    bool bound;
    bool event_waits; /* the port is masked until the ring has been scanned */
    bool answers_wait;
    bool unarmed;             /* every slot was in use at the last take: no event was asked for */
    struct request *requests; /* as many as the ring has slots: one is always free to take into */
    struct list free;
};

static void on_event(void *arg)
{
    struct queue *queue = arg;

    queue->event_waits = true;
    queue->place.signalled(queue->place.arg);
}

static int map_ring(struct queue *queue, const struct disk_ring *ring, char *reason,
                    size_t reason_bytes)
{
    int err;

    err = grants_map(queue->place.grants, queue->place.domid, ring->refs, ring->page_count,
                     &queue->memory);
    if (err < 0) {
        snprintf(reason, reason_bytes, "the ring (ring-ref %u, %u pages) cannot be mapped: %s",
                 ring->refs[0], ring->page_count, strerror(-err));
        return err;
    }
    queue->page_count = ring->page_count;
    err = ring_attach(&queue->ring, queue->memory, ring->page_count, queue->place.abi);
    if (err < 0)
        snprintf(reason, reason_bytes, "the ring's indices are more than a ring apart");
    return err;
}

int queue_open(const struct queue_place *place, const struct disk_ring *ring,
               struct queue **ret_queue, char *ret_reason, size_t reason_bytes)
{
    struct queue *queue = calloc(1, sizeof *queue);
    uint32_t slots = ring_slots(place->abi, ring->page_count);
    int err = -ENOMEM;

    snprintf(ret_reason, reason_bytes, "out of memory");
    if (!queue)
        return -ENOMEM;
    queue->place = *place;
    list_init(&queue->free);
    queue->requests = calloc(slots, sizeof *queue->requests);
    if (!queue->requests)
        goto fail;
    for (uint32_t i = 0; i < slots; i++) {
        queue->requests[i].queue = queue;
        list_append(&queue->free, &queue->requests[i].work);
    }

    /* The port before the ring: whoever holds it may still be serving that ring. */
    err = evtchn_bind(place->evtchn, place->domid, ring->event_channel, on_event, queue,
                      &queue->port);
    if (err < 0) {
        snprintf(ret_reason, reason_bytes, "event-channel %u cannot be bound: %s",
                 ring->event_channel, strerror(-err));
        goto fail;
    }
    queue->bound = true;
    err = map_ring(queue, ring, ret_reason, reason_bytes);
    if (err < 0)
        goto fail;
    *ret_queue = queue;
    return 0;
fail:
    queue_close(queue);
    return err;
}

void queue_close(struct queue *queue)
{
    if (!queue)
        return;
    if (queue->bound)
        evtchn_unbind(queue->place.evtchn, queue->port);
    grants_unmap(queue->place.grants, queue->memory, queue->page_count);
    free(queue->requests);
    free(queue);
}

static void take_one(struct queue *queue, const uint8_t *slot,
                     void (*taken)(void *arg, struct request *request), void *arg)
{
    struct request *request = container_of(list_pop(&queue->free), struct request, work);

    blkif_req_decode(queue->place.abi, slot, &request->blkif);
    request->segs = request->blkif.seg;
    request->error = 0;
    request->buffer = request->descriptors = NULL;
    request->length_bytes = request->done_bytes = 0;
    request->chunk_max_bytes = 0;
    request->too_long = request->flushed = false;
    taken(arg, request);
}

int queue_take(struct queue *queue, void (*taken)(void *arg, struct request *request), void *arg)
{
    uint8_t slot[LIMIT_SLOT_BYTES];
    int result;

    do {
        while ((result = ring_take(&queue->ring, slot)) > 0)
            take_one(queue, slot, taken, arg);
    } while (result == 0 && !list_empty(&queue->free) && ring_final_check(&queue->ring));
    queue->unarmed = result == 0 && list_empty(&queue->free);
    if (queue->event_waits) {
        queue->event_waits = false;
        evtchn_unmask(queue->place.evtchn, queue->port);
    }
    return result;
}

bool queue_must_take(const struct queue *queue)
{
    return queue->event_waits || (queue->unarmed && !list_empty(&queue->free));
}

void queue_answer(struct queue *queue, struct request *request, enum blkif_status status)
{
    ring_put(&queue->ring, request->blkif.id, request->blkif.answer_op, (int16_t)status);
    request->state = REQUEST_FREE;
    list_append(&queue->free, &request->work);
    queue->answers_wait = true;
}

void queue_push(struct queue *queue)
{
    if (!queue->answers_wait)
        return;
    queue->answers_wait = false;
    if (ring_push(&queue->ring))
        evtchn_notify(queue->place.evtchn, queue->port);
}
