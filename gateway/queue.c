#include "gateway/queue.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "gateway/evtchn.h"
#include "gateway/grants.h"
#include "gateway/pages.h"
#include "proto/ring.h"

struct queue {
    struct queue_place place;
    struct ring ring;
    struct ring_view view;
    struct journal_queue journal;
    void *memory; /* the mapped ring */
    uint32_t page_count;
    uint32_t slots;
    uint32_t port;
    bool bound;
    bool signalled; /* an event came since the last take */
    bool masked;    /* its port is, since then, until the ring is armed */
    bool answers_wait;
    bool stale;                /* the guest has made the ring anew */
    bool unarmed;              /* no event was asked for since the last take */
    uint32_t requests_used;    /* of `requests`, those that ever were */
    struct request *free;      /* of those; the one used last is first, for it is warm */
    struct request requests[]; /* as many as the ring has slots: one is always free to take into */
};

static bool has_free(const struct queue *queue)
{
    return queue->free || queue->requests_used < queue->slots;
}

static struct request *take_free(struct queue *queue)
{
    struct request *request = queue->free;

    if (request)
        queue->free = request->next_free;
    else
        request = &queue->requests[queue->requests_used++];
    return request;
}

static void on_event(void *arg)
{
    struct queue *queue = arg;

    queue->masked = queue->signalled = true;
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
    ring_view(queue->memory, &queue->view);
    return 0;
}

static size_t queue_bytes(uint32_t slots)
{
    return sizeof(struct queue) + slots * sizeof(struct request);
}

int queue_open(const struct queue_place *place, const struct disk_ring *ring,
               struct queue **ret_queue, char *ret_reason, size_t reason_bytes)
{
    uint32_t slots = ring_slots(place->abi, ring->page_count);
    struct queue *queue = pages_map(queue_bytes(slots));
    int err;

    snprintf(ret_reason, reason_bytes, "out of memory");
    if (!queue)
        return -ENOMEM;
    queue->place = *place;
    queue->slots = slots;

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

const struct ring_view *queue_view(const struct queue *queue)
{
    return &queue->view;
}

/* A ring that the guest has just made: it gets a nonce, and with it a life. */
static int begin_ring(struct queue *queue, uint64_t nonce)
{
    int err = ring_resume(&queue->ring, queue->memory, queue->page_count, queue->place.abi,
                          &queue->view, 0);

    if (err < 0)
        return err;
    ring_set_nonce(&queue->ring, nonce);
    queue->view.nonce = nonce;
    return 0;
}

int queue_start(struct queue *queue, struct journal *journal, uint32_t number, uint64_t nonce,
                char *ret_reason, size_t reason_bytes)
{
    char why[LIMIT_REASON_BYTES] = "the ring's indices are more than a ring apart";
    uint32_t taken;
    int err = nonce ? begin_ring(queue, nonce) : 0;

    if (err == 0)
        err = journal_recover(journal, number, &queue->view, &queue->journal, &taken, why);
    if (err == 0 && !nonce)
        err = ring_resume(&queue->ring, queue->memory, queue->page_count, queue->place.abi,
                          &queue->view, taken);
    if (err < 0)
        snprintf(ret_reason, reason_bytes, "%s", why);
    return err;
}

void queue_kick(struct queue *queue)
{
    evtchn_notify(queue->place.evtchn, queue->port);
}

void queue_close(struct queue *queue)
{
    if (!queue)
        return;
    if (queue->bound)
        evtchn_unbind(queue->place.evtchn, queue->port);
    grants_unmap(queue->place.grants, queue->memory, queue->page_count);
    pages_unmap(queue, queue_bytes(queue->slots));
}

static struct request *make_request(struct queue *queue, uint32_t entry, const uint8_t *slot)
{
    struct request *request = take_free(queue);

    request->queue = queue;
    request->entry = entry;
    blkif_req_decode(queue->place.abi, slot, &request->blkif);
    request->segs = request->blkif.seg;
    request->error = 0;
    request->descriptors = NULL;
    request->data = NULL;
    request->length_bytes = request->done_bytes = 0;
    request->plan.planned = request->flushed = request->copied = request->alone = false;
    request->command = NULL;
    request->kept = NULL;
    request->twin = 0;
    return request;
}

struct request *queue_readopt(struct queue *queue, uint32_t entry)
{
    struct journal_entry kept;

    if (!journal_entry(queue->journal.journal, entry, &kept))
        return NULL;
    return make_request(queue, entry, kept.slot);
}

void queue_copied(struct queue *queue, const struct request *request, uint64_t data_at_bytes)
{
    journal_copied(&queue->journal, request->entry, data_at_bytes, (uint32_t)request->length_bytes);
}

/* With no entry or request free: has the guest overrun its full ring? -EAGAIN: answers are to be
 * pushed first. */
static int look_only(struct queue *queue)
{
    uint8_t nowhere[LIMIT_SLOT_BYTES];

    if (ring_in_flight(&queue->ring) < queue->ring.slots)
        return -EAGAIN;
    return ring_take(&queue->ring, nowhere); /* a full ring has nothing to take */
}

/* As ring_take, into the journal. */
static int take_one(struct queue *queue, struct request **ret_request)
{
    uint8_t *slot = has_free(queue) ? journal_next_slot(&queue->journal) : NULL;
    int result;

    if (!slot)
        return look_only(queue);
    result = ring_take(&queue->ring, slot);
    if (result > 0)
        *ret_request = make_request(queue, journal_taken(&queue->journal), slot);
    return result;
}

bool queue_is_stale(const struct queue *queue)
{
    return queue->stale;
}

static bool find_stale(struct queue *queue)
{
    queue->stale = queue->stale || !ring_has_nonce(&queue->ring, queue->view.nonce);
    return queue->stale;
}

int queue_take(struct queue *queue, void (*taken)(void *arg, struct request *request), void *arg)
{
    struct request *request = NULL;
    int result;

    queue->signalled = false;
    if (find_stale(queue)) {
        queue->masked = queue->unarmed = false; /* the port stays masked */
        return -ESTALE;
    }
    while ((result = take_one(queue, &request)) > 0)
        taken(arg, request);
    queue->unarmed = result != -EPROTO; /* or it would be taken from again and again */
    return result == -EPROTO ? -EPROTO : 0;
}

bool queue_arm(struct queue *queue)
{
    if (queue->unarmed && has_free(queue)) {
        if (ring_final_check(&queue->ring))
            return true;
        queue->unarmed = false;
    }
    if (queue->masked) {
        queue->masked = false;
        evtchn_unmask(queue->place.evtchn, queue->port);
    }
    return false;
}

bool queue_must_take(const struct queue *queue)
{
    return queue->signalled || (queue->unarmed && has_free(queue));
}

void queue_answer(struct queue *queue, struct request *request, enum blkif_status status)
{
    if (!find_stale(queue)) {
        journal_answering(&queue->journal, request->entry, queue->ring.rsp_prod);
        ring_put(&queue->ring, request->blkif.id, request->blkif.answer_op, (int16_t)status);
    }
    request->state = REQUEST_FREE;
    request->next_free = queue->free;
    queue->free = request;
    queue->answers_wait = true;
}

void queue_push(struct queue *queue)
{
    bool notify;

    if (!queue->answers_wait || find_stale(queue))
        return;
    queue->answers_wait = false;
    journal_pushing(&queue->journal, queue->ring.rsp_prod);
    notify = ring_push(&queue->ring);
    journal_pushed(&queue->journal);
    if (notify)
        evtchn_notify(queue->place.evtchn, queue->port);
}
