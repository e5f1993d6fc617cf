/* A frontend: Linux's blkfront, with its handshake and its checks of every answer.
 *
 * 1. An id is answered once, with the operation it was asked for (the inner one for INDIRECT), and
 *    rsp_prod never passes req_prod. Otherwise the front is broken for good, as Linux's disk is.
 * 2. A ring is freed only when its grants can be revoked, so a backend that keeps it mapped past
 *    state 6 is found out.
 */
#include "guest.h"
#include "simproto.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* The shared ring's head: four words, then the slots at 64. */
enum { REQ_PROD = 0, REQ_EVENT = 4, RSP_PROD = 8, RSP_EVENT = 12, SLOTS = 64 };

static _Atomic uint32_t *ring_word(const struct front_queue *queue, unsigned offset)
{
    return (_Atomic uint32_t *)(void *)(queue->ring + offset);
}

static uint8_t *ring_slot(const struct front *front, const struct front_queue *queue, uint32_t i)
{
    return queue->ring + SLOTS + (size_t)(i & (queue->size - 1)) * front->abi->slot_bytes;
}

static void queue_init(struct front *front, struct front_queue *queue)
{
    memset(queue->ring, 0, (size_t)GUEST_PAGE << front->ring_order);
    atomic_store(ring_word(queue, REQ_EVENT), 1);
    atomic_store(ring_word(queue, RSP_EVENT), 1);
}

static int queue_create(struct front *front, struct front_queue *queue)
{
    uint32_t pages = 1u << front->ring_order, bytes = pages * GUEST_PAGE - SLOTS, i;
    uint32_t backend = front->disk->backend_domid;

    /* The ids of a ring's earlier life are not used again, that its answers be known as such. */
    *queue = (struct front_queue){.sequence = queue->sequence};
    for (queue->size = 1; queue->size * 2 <= bytes / front->abi->slot_bytes; queue->size *= 2)
        ;
    queue->frame = guest_frames_alloc(front->guest, pages);
    queue->ring = guest_page(front->guest, queue->frame);
    queue_init(front, queue);
    for (i = 0; i < pages; i++)
        queue->refs[i] = guest_grant(front->guest, queue->frame + i, backend, false);
    return guest_port_alloc(front->guest, backend, &queue->port, &queue->slot);
}

int front_ring_create(struct front *front)
{
    unsigned i;

    front->broken = false;
    if (front->nr_queues == 0)
        front->nr_queues = 1;
    for (i = 0; i < front->nr_queues; i++)
        if (queue_create(front, &front->queues[i]))
            return -1;
    return 0;
}

/* What a kernel does whose allocators come out at the same place as those before it. */
int front_ring_renew(struct front *front)
{
    struct front_queue *queue, *end = front->queues + front->nr_queues;
    uint32_t backend = front->disk->backend_domid, port;

    front->broken = false;
    for (queue = front->queues; queue < end; queue++)
        guest_port_close(front->guest, queue->port);
    for (queue = front->queues; queue < end; queue++) {
        if (guest_port_alloc(front->guest, backend, &port, &queue->slot))
            return -1;
        if (port != queue->port) {
            fprintf(stderr, "guest %u: port %u came back as %u\n", front->guest->domid, queue->port,
                    port);
            return -1;
        }
        memset(queue->shadow, 0, sizeof(queue->shadow));
        queue->req_prod = queue->rsp_cons = 0;
        queue_init(front, queue);
    }
    return 0;
}

int front_ring_free(struct front *front)
{
    uint32_t pages = 1u << front->ring_order, i;
    struct front_queue *queue;
    int err = 0;

    for (queue = front->queues; queue < front->queues + front->nr_queues; queue++) {
        if (!queue->ring)
            continue;
        guest_port_close(front->guest, queue->port);
        for (i = 0; i < pages; i++) {
            if (guest_revoke(front->guest, queue->refs[i]))
                continue;
            fprintf(stderr, "guest %u: the backend still maps the ring\n", front->guest->domid);
            err = -1;
        }
        if (!err)
            guest_frames_free(front->guest, queue->frame, pages);
        queue->ring = NULL;
    }
    return err;
}

static int queue_publish(struct front *front, xs_transaction_t t, const char *dir,
                         const struct front_queue *queue)
{
    uint32_t pages = 1u << front->ring_order, i;
    char key[32];
    int err = 0;

    if (front->ring_order == 0)
        err |= guest_own_write(front->guest, t, dir, "ring-ref", "%u", queue->refs[0]);
    for (i = 0; front->ring_order && i < pages; i++) {
        snprintf(key, sizeof(key), "ring-ref%u", i);
        err |= guest_own_write(front->guest, t, dir, key, "%u", queue->refs[i]);
    }
    return err | guest_own_write(front->guest, t, dir, "event-channel", "%u", queue->port);
}

/* An earlier life of the frontend may have written one. */
static void protocol_remove(struct front *front, xs_transaction_t t)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/protocol", front->disk->frontend);
    xs_rm(front->guest->own, t, path);
}

int front_ring_publish(struct front *front)
{
    const char *dir = front->disk->frontend;
    struct guest *guest = front->guest;
    xs_transaction_t t;
    char sub[160];
    unsigned i;
    int err;

    do {
        t = xs_transaction_start(guest->own);
        err = 0;
        if (front->ring_order)
            err |= guest_own_write(guest, t, dir, "ring-page-order", "%u", front->ring_order);
        if (front->nr_queues > 1)
            err |= guest_own_write(guest, t, dir, "multi-queue-num-queues", "%u", front->nr_queues);
        else
            err |= queue_publish(front, t, dir, &front->queues[0]);
        for (i = 0; front->nr_queues > 1 && i < front->nr_queues; i++) {
            snprintf(sub, sizeof(sub), "%s/queue-%u", dir, i);
            err |= queue_publish(front, t, sub, &front->queues[i]);
        }
        if (front->abi->protocol)
            err |= guest_own_write(guest, t, dir, "protocol", "%s", front->abi->protocol);
        else
            protocol_remove(front, t);
        err |= guest_own_write(guest, t, dir, "feature-persistent", "0");
        if (front->direct_to_4)
            err |= guest_own_write(guest, t, dir, "state", "4");
    } while (!xs_transaction_end(guest->own, t, err != 0) && errno == EAGAIN);
    return err ? -1 : 0;
}

int front_features_read(struct front *front)
{
    const char *dir = front->disk->backend;
    long sectors = guest_own_read_number(front->guest, dir, "sectors", -1);
    long info = guest_own_read_number(front->guest, dir, "info", -1);

    if (sectors < 0 || info < 0 ||
        guest_own_read_number(front->guest, dir, "sector-size", -1) != GUEST_SECTOR) {
        fprintf(stderr, "guest %u: %s lacks sectors, info, or a sector-size of 512\n",
                front->guest->domid, dir);
        return -1;
    }
    front->sectors = (uint64_t)sectors;
    front->readonly = (info & 4) != 0;
    front->flush = guest_own_read_number(front->guest, dir, "feature-flush-cache", 0) == 1;
    front->discard = guest_own_read_number(front->guest, dir, "feature-discard", 0) == 1;
    front->max_indirect =
        guest_own_read_number(front->guest, dir, "feature-max-indirect-segments", 0);
    return 0;
}

/* What xen/io/blkif.h lets a backend say, as far as this one means to. */
int front_nodes_check(struct front *front, int state)
{
    static const struct {
        const char *key;
        int state; /* from here on */
        long min, max;
        bool power_of_two;
    } nodes[] = {
        {"feature-max-indirect-segments", STATE_INITWAIT, 0, GUEST_INDIRECT_MAX, false},
        {"multi-queue-max-queues", STATE_INITWAIT, 1, GUEST_QUEUES_MAX, false},
        {"max-ring-page-order", STATE_INITWAIT, 0, 4, false},
        {"feature-flush-cache", STATE_CONNECTED, 0, 1, false},
        {"feature-discard", STATE_CONNECTED, 0, 1, false},
        {"discard-granularity", STATE_CONNECTED, GUEST_SECTOR, 1 << 20, true},
        {"discard-alignment", STATE_CONNECTED, 0, 0, false},
        {"discard-secure", STATE_CONNECTED, 0, 0, false},
        {"feature-barrier", STATE_CONNECTED, 0, 0, false},
        {"feature-persistent", STATE_CONNECTED, 0, 0, false},
        {"physical-sector-size", STATE_CONNECTED, GUEST_SECTOR, GUEST_PAGE, true},
    };
    int err = 0;
    size_t i;

    for (i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
        long value = guest_own_read_number(front->guest, front->disk->backend, nodes[i].key, -1);

        if (nodes[i].state > state || (value >= nodes[i].min && value <= nodes[i].max &&
                                       !(nodes[i].power_of_two && (value & (value - 1)))))
            continue;
        fprintf(stderr, "guest %u: in state %d %s is %ld (-1: missing, or no number)\n",
                front->guest->domid, state, nodes[i].key, value);
        err = -1;
    }
    return err;
}

/* Before the rings are made: takes what is offered if all of it is wanted, and no more than it. */
static int offers_take(struct front *front)
{
    const char *dir = front->disk->backend;
    long queues = guest_own_read_number(front->guest, dir, "multi-queue-max-queues", 1);
    long order = guest_own_read_number(front->guest, dir, "max-ring-page-order", 0);

    if (front->all_queues)
        front->nr_queues = queues < (long)GUEST_QUEUES_MAX ? (unsigned)queues : GUEST_QUEUES_MAX;
    if (front->whole_ring)
        front->ring_order = order < 4 ? (unsigned)order : 4;
    if ((long)front->nr_queues <= queues && (long)front->ring_order <= order)
        return 0;
    fprintf(stderr, "guest %u: %u queues of order %u are wanted, %ld of %ld offered\n",
            front->guest->domid, front->nr_queues, front->ring_order, queues, order);
    return -1;
}

int front_state_set(struct front *front, int state)
{
    return guest_own_write(front->guest, XBT_NULL, front->disk->frontend, "state", "%d", state);
}

int front_connect(struct front *front)
{
    if (!front->direct_to_4 &&
        (tool_wait_state(front->disk, STATE_INITWAIT, front->timeout_ms) || offers_take(front)))
        return -1;
    if (front_ring_create(front) || front_ring_publish(front))
        return -1;
    if (!front->direct_to_4 && front_state_set(front, STATE_INITIALISED))
        return -1;
    if (tool_wait_state(front->disk, STATE_CONNECTED, front->timeout_ms) ||
        front_features_read(front))
        return -1;
    return front->direct_to_4 ? 0 : front_state_set(front, STATE_CONNECTED);
}

/* Linux takes the backend's 5 or 6 for the answer to its 5. From state 4 it must be 5, as OVMF
 * gives up at anything else; from elsewhere a backend may already be, or stay, at 6. */
static int closing_wait(struct front *front, int before)
{
    int64_t deadline_ms = guest_clock_ms() + front->timeout_ms;

    if (before == STATE_CONNECTED)
        return tool_wait_state(front->disk, STATE_CLOSING, front->timeout_ms);
    /* One look decides: after flapping, the backend may still be on its way through older states.
     */
    while (guest_clock_ms() < deadline_ms) {
        int state = tool_state(front->disk);

        if (state == STATE_CLOSING || state == STATE_CLOSED)
            return 0;
        guest_wait(front->guest, 2);
    }
    return tool_wait_state(front->disk, STATE_CLOSED, 0);
}

int front_close(struct front *front)
{
    int before = tool_state(front->disk);

    if (front_state_set(front, STATE_CLOSING) || closing_wait(front, before) ||
        front_state_set(front, STATE_CLOSED) ||
        tool_wait_state(front->disk, STATE_CLOSED, front->timeout_ms))
        return -1;
    return front_ring_free(front);
}

int front_reopen(struct front *front)
{
    if (front_state_set(front, STATE_INITIALISING))
        return -1;
    return tool_wait_state(front->disk, STATE_INITWAIT, front->timeout_ms);
}

uint32_t front_room(const struct front_queue *queue)
{
    return queue->size - (queue->req_prod - queue->rsp_cons);
}

/* The index of the shadow is in the low bits, as Linux's ids are; the rest makes ids unique. It is
 * looked for in turn, so that mostly the first that is looked at is free. */
uint64_t front_next_id(struct front *front, unsigned index)
{
    struct front_queue *queue = &front->queues[index];
    uint32_t i, tries;

    for (tries = 0; tries < queue->size; tries++) {
        i = (uint32_t)(queue->sequence + tries) & (queue->size - 1);
        if (!queue->shadow[i].used)
            return ++queue->sequence << 16 | (uint64_t)index << 12 | i;
    }
    return UINT64_MAX;
}

int front_push_raw(struct front *front, unsigned index, const uint8_t *slot, uint64_t id,
                   uint8_t op, bool answered)
{
    struct front_queue *queue = &front->queues[index];
    struct front_shadow *shadow = &queue->shadow[id & (queue->size - 1)];

    if (front_room(queue) == 0 || (answered && shadow->used)) {
        fprintf(stderr, "guest %u: no room in the ring\n", front->guest->domid);
        return -1;
    }
    if (answered)
        *shadow = (struct front_shadow){.used = true, .op = op, .id = id};
    memcpy(ring_slot(front, queue, queue->req_prod), slot, front->abi->slot_bytes);
    queue->req_prod++;
    return 0;
}

int front_push(struct front *front, unsigned index, struct front_request *req)
{
    uint8_t slot[112];

    req->id = front_next_id(front, index);
    guest_abi_encode(front->abi, req, slot);
    return front_push_raw(front, index, slot, req->id,
                          req->op == OP_INDIRECT ? req->inner_op : req->op, true);
}

void front_slip(struct front *front, unsigned index)
{
    struct front_queue *queue = &front->queues[index];

    atomic_store(ring_word(queue, REQ_PROD), queue->req_prod);
}

void front_publish(struct front *front, unsigned index)
{
    struct front_queue *queue = &front->queues[index];
    uint32_t old = atomic_load(ring_word(queue, REQ_PROD)), new = queue->req_prod;

    front_slip(front, index);
    atomic_thread_fence(memory_order_seq_cst);
    if (new - atomic_load(ring_word(queue, REQ_EVENT)) < new - old)
        guest_notify(front->guest, queue->slot);
}

/* Ids are never used twice: what is not in flight and was once sent has been answered before. */
static bool was_sent(const struct front *front, const struct front_queue *queue, uint64_t id)
{
    return (id >> 12 & 0xf) == (uint64_t)(queue - front->queues) && (id & 0xfff) < queue->size &&
           id >> 16 > 0 && id >> 16 <= queue->sequence;
}

static int response_check(struct front *front, struct front_queue *queue,
                          const struct front_response *rsp)
{
    struct front_shadow *shadow = &queue->shadow[rsp->id & (queue->size - 1)];
    const char *what;

    if (shadow->used && shadow->id == rsp->id && shadow->op == rsp->op) {
        shadow->used = false;
        return 1;
    }
    if (shadow->used && shadow->id == rsp->id) {
        what = "has the wrong operation";
        front->nr_wrong_op++;
    } else if (was_sent(front, queue, rsp->id)) {
        what = "was answered before";
        front->nr_double++;
    } else {
        what = "is to no request";
        front->nr_unknown++;
    }
    fprintf(stderr, "guest %u: answer %#" PRIx64 " (operation %u, status %d) %s\n",
            front->guest->domid, rsp->id, rsp->op, rsp->status, what);
    front->broken = true;
    return -1;
}

static int queue_poll(struct front *front, struct front_queue *queue, struct front_response *ret)
{
    uint32_t prod = atomic_load(ring_word(queue, RSP_PROD));
    uint8_t *slot;

    if (prod == queue->rsp_cons) {
        atomic_store(ring_word(queue, RSP_EVENT), queue->rsp_cons + 1);
        atomic_thread_fence(memory_order_seq_cst);
        prod = atomic_load(ring_word(queue, RSP_PROD));
        if (prod == queue->rsp_cons)
            return 0;
    }
    if (prod - queue->rsp_cons > queue->req_prod - queue->rsp_cons) {
        fprintf(stderr, "guest %u: rsp_prod %u is beyond req_prod %u\n", front->guest->domid, prod,
                queue->req_prod);
        front->broken = true;
        return -1;
    }
    slot = ring_slot(front, queue, queue->rsp_cons);
    memcpy(&ret->id, slot, 8);
    ret->op = slot[8];
    memcpy(&ret->status, slot + 10, 2);
    queue->rsp_cons++;
    return response_check(front, queue, ret);
}

int front_poll_queue(struct front *front, unsigned index, struct front_response *ret)
{
    return front->broken ? -1 : queue_poll(front, &front->queues[index], ret);
}

int front_poll(struct front *front, struct front_response *ret)
{
    unsigned i;
    int got = 0;

    if (front->broken)
        return -1;
    for (i = 0; i < front->nr_queues && got == 0; i++)
        got = queue_poll(front, &front->queues[i], ret);
    return got;
}

int front_do(struct front *front, struct front_request *req)
{
    int64_t deadline_ms = guest_clock_ms() + front->timeout_ms;
    struct front_response rsp;
    int got;

    if (front_push(front, 0, req))
        return 1;
    front_publish(front, 0);
    while ((got = front_poll(front, &rsp)) == 0) {
        if (guest_clock_ms() > deadline_ms) {
            fprintf(stderr, "guest %u: no answer in %d ms\n", front->guest->domid,
                    front->timeout_ms);
            return 1;
        }
        guest_wait(front->guest, 50);
    }
    if (got > 0 && rsp.id == req->id)
        return rsp.status;
    if (got > 0)
        fprintf(stderr, "guest %u: another request was answered\n", front->guest->domid);
    return 1;
}
