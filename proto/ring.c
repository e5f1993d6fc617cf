#include "proto/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
    AT_REQ_PROD = 0,
    AT_REQ_EVENT = 4,
    AT_RSP_PROD = 8,
    AT_RSP_EVENT = 12,
    AT_NONCE = 56,
    AT_SLOTS = 64,
};

static volatile uint32_t *shared_word(const struct ring *ring, uint32_t offset)
{
    return (volatile uint32_t *)(volatile void *)(ring->shared + offset);
}

static volatile uint8_t *shared_slot(const struct ring *ring, uint32_t index)
{
    return ring->shared + AT_SLOTS + (index & (ring->slots - 1)) * ring->slot_bytes;
}

uint32_t ring_slots(enum blkif_abi abi, uint32_t pages)
{
    uint32_t fit, slots = 1;

    if (pages == 0 || pages > LIMIT_RING_PAGES)
        return 0;
    fit = (pages * LIMIT_PAGE_BYTES - AT_SLOTS) / blkif_slot_bytes(abi);
    while (slots * 2 <= fit)
        slots *= 2;
    return slots;
}

void ring_view(const void *shared, struct ring_view *ret_view)
{
    const volatile uint8_t *at = shared;

    ret_view->nonce = __atomic_load_n(
        (const volatile uint64_t *)(const volatile void *)(at + AT_NONCE), __ATOMIC_RELAXED);
    ret_view->rsp_prod = __atomic_load_n(
        (const volatile uint32_t *)(const volatile void *)(at + AT_RSP_PROD), __ATOMIC_RELAXED);
    ret_view->req_prod = __atomic_load_n(
        (const volatile uint32_t *)(const volatile void *)(at + AT_REQ_PROD), __ATOMIC_ACQUIRE);
}

int ring_resume(struct ring *ring, void *shared, uint32_t pages, enum blkif_abi abi,
                const struct ring_view *view, uint32_t taken)
{
    struct ring resumed = {
        .shared = shared,
        .abi = abi,
        .slots = ring_slots(abi, pages),
        .slot_bytes = blkif_slot_bytes(abi),
        .req_cons = view->rsp_prod + taken,
        .rsp_prod = view->rsp_prod,
        .rsp_pushed = view->rsp_prod,
    };
    uint32_t unanswered = view->req_prod - view->rsp_prod;

    if (resumed.slots == 0)
        return -EINVAL;
    if (unanswered > resumed.slots || taken > unanswered)
        return -EPROTO;
    *ring = resumed;
    return 0;
}

int ring_attach(struct ring *ring, void *shared, uint32_t pages, enum blkif_abi abi)
{
    struct ring_view view;

    if (ring_slots(abi, pages) == 0)
        return -EINVAL;
    ring_view(shared, &view);
    return ring_resume(ring, shared, pages, abi, &view, 0);
}

void ring_set_nonce(struct ring *ring, uint64_t nonce)
{
    __atomic_store_n((volatile uint64_t *)(volatile void *)(ring->shared + AT_NONCE), nonce,
                     __ATOMIC_RELEASE);
}

bool ring_has_nonce(const struct ring *ring, uint64_t nonce)
{
    return __atomic_load_n(
               (const volatile uint64_t *)(const volatile void *)(ring->shared + AT_NONCE),
               __ATOMIC_RELAXED) == nonce;
}

/*
 * Reads req_prod once: how many requests wait, or -EPROTO. One comparison refuses both a guest too
 * far ahead (RING_REQUEST_PROD_OVERFLOW) and one that went back behind what was taken; what passes
 * it leaves room for as many (RING_REQUEST_CONS_OVERFLOW). Sequentially consistent for the sake of
 * ring_final_check; the takes need no more than the acquire in it.
 */
static int requests_waiting(struct ring *ring)
{
    uint32_t req_prod = __atomic_load_n(shared_word(ring, AT_REQ_PROD), __ATOMIC_SEQ_CST);
    uint32_t waiting = req_prod - ring->req_cons;

    if (waiting > ring->slots - ring_in_flight(ring)) {
        ring->broken = true;
        return -EPROTO;
    }
    return (int)waiting;
}

/*
 * By words, since slots of either length are aligned to 4, and where all are to 8 by longer ones;
 * atomic and volatile, so that each is read exactly once, however the guest scribbles over them
 * meanwhile.
 */
static void copy_slot(const struct ring *ring, uint32_t index, uint8_t *to)
{
    const volatile uint8_t *from = shared_slot(ring, index);
    uint64_t long_word;
    uint32_t at = 0, word;

    if (ring->slot_bytes % sizeof(long_word) == 0)
        for (; at < ring->slot_bytes; at += sizeof(long_word)) {
            long_word = __atomic_load_n(
                (const volatile uint64_t *)(const volatile void *)(from + at), __ATOMIC_RELAXED);
            memcpy(to + at, &long_word, sizeof(long_word));
        }
    for (; at < ring->slot_bytes; at += sizeof(word)) {
        word = __atomic_load_n((const volatile uint32_t *)(const volatile void *)(from + at),
                               __ATOMIC_RELAXED);
        memcpy(to + at, &word, sizeof(word));
    }
    memset(to + ring->slot_bytes, 0, LIMIT_SLOT_BYTES - ring->slot_bytes);
}

int ring_take(struct ring *ring, uint8_t slot[static LIMIT_SLOT_BYTES])
{
    int waiting;

    if (ring->broken)
        return -EPROTO;
    waiting = requests_waiting(ring);
    if (waiting <= 0)
        return waiting;
    assert(ring_in_flight(ring) < ring->slots);
    copy_slot(ring, ring->req_cons, slot);
    ring->req_cons++;
    return 1;
}

/*
 * The guest stores req_prod, then loads req_event; we store req_event, then load req_prod: one of
 * the two must see the other's store, or both sleep for ever. That takes a full barrier between
 * store and load on either side; ours is both being sequentially consistent, which does as much
 * as a fence between them, and which ThreadSanitizer, unlike a fence, understands.
 */
bool ring_final_check(struct ring *ring)
{
    if (ring->broken)
        return false;
    if (requests_waiting(ring) != 0)
        return true;
    __atomic_store_n(shared_word(ring, AT_REQ_EVENT), ring->req_cons + 1, __ATOMIC_SEQ_CST);
    return requests_waiting(ring) != 0;
}

void ring_put(struct ring *ring, uint64_t id, uint8_t op, int16_t status)
{
    assert(ring_in_flight(ring) > 0);
    blkif_rsp_encode(ring->abi, shared_slot(ring, ring->rsp_prod), id, op, status);
    ring->rsp_prod++;
}

/* The store releases the responses, and is ordered before the load of rsp_event for the reason
 * given at ring_final_check. */
bool ring_push(struct ring *ring)
{
    uint32_t old = ring->rsp_pushed, new = ring->rsp_prod;

    if (new == old)
        return false;
    ring->rsp_pushed = new;
    __atomic_store_n(shared_word(ring, AT_RSP_PROD), new, __ATOMIC_SEQ_CST);
    return new - __atomic_load_n(shared_word(ring, AT_RSP_EVENT), __ATOMIC_SEQ_CST) < new - old;
}
