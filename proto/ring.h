/*
 * ring: the backend's side of one shared ring (xen/io/ring.h), the only code that touches its
 * shared words.
 *
 * The shared page begins with req_prod, req_event, rsp_prod, rsp_event (u32 each) and pads to 64
 * bytes, then come `slots` (a power of two) slots of blkif_slot_bytes. All indices run freely
 * modulo 2^32.
 *
 * The pad's last 8 bytes hold a nonce of ours. No frontend reads or writes them but to initialise
 * the ring, which zeroes them (SHARED_RING_INIT of Xen, Linux, FreeBSD, Mini-OS, GRUB, Windows): a
 * ring that still has the nonce is the ring that was given it.
 *
 * Invariants:
 *  1. responses put <= requests taken <= responses put + slots: no response overwrites a request
 *     that was not taken, whatever the guest writes.
 *  2. A shared word is read once per decision (law 3); nothing shared is kept as an index.
 *  3. What the guest reads after seeing rsp_prod was written before it (release), and a slot is
 *     read after req_prod was (acquire).
 *  4. A guest whose req_prod runs more than a ring ahead of the responses put, or back behind what
 *     was taken, has broken the ring: -EPROTO from then on, until it is attached anew. No loop, no
 *     trust in later values. What was taken can still be answered.
 *
 * Pure: the memory belongs to the caller and must outlive the ring.
 */
#ifndef BLKGATE_PROTO_RING_H
#define BLKGATE_PROTO_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/blkif.h"
#include "proto/limits.h"

struct ring {
    volatile uint8_t *shared;
    enum blkif_abi abi;
    uint32_t slots;
    uint32_t slot_bytes;
    uint32_t req_cons;   /* requests taken */
    uint32_t rsp_prod;   /* responses put, private; the shared one follows at ring_push */
    uint32_t rsp_pushed; /* what ring_push last showed: the shared word is not to be trusted */
    bool broken;
};

/* How many slots fit in that many pages: 32 for one, 512 for sixteen; 0 for a number of pages that
 * ring_attach refuses. */
uint32_t ring_slots(enum blkif_abi abi, uint32_t pages);

/* Attaches at the shared rsp_prod: everything behind it counts as not yet taken. -EPROTO if the
 * guest's indices are more than a ring apart, -EINVAL if pages is 0 or above LIMIT_RING_PAGES. */
int ring_attach(struct ring *ring, void *shared, uint32_t pages, enum blkif_abi abi);

/* What a shared ring says, each word read once (law 3). */
struct ring_view {
    uint64_t nonce; /* 0: none was written since the ring was initialised */
    uint32_t rsp_prod, req_prod;
};

void ring_view(const void *shared, struct ring_view *ret_view);

/* Attaches where an earlier life left off (proto/journal): at the view's rsp_prod, with the next
 * `taken` requests already taken. Errors as ring_attach; -EPROTO too if there are not so many. Then
 * notify once whatever ring_push says: the last push's notification may have been lost. */
int ring_resume(struct ring *ring, void *shared, uint32_t pages, enum blkif_abi abi,
                const struct ring_view *view, uint32_t taken);

void ring_set_nonce(struct ring *ring, uint64_t nonce);

/* Is it still there? If not, the guest has made the ring anew, and it is no longer ours to touch.
 */
bool ring_has_nonce(const struct ring *ring, uint64_t nonce);

/* Takes one request: copies its slot, once, to `slot`, with zeros beyond the slot's length. 1
 * taken, 0 nothing there, -EPROTO broken. */
int ring_take(struct ring *ring, uint8_t slot[static LIMIT_SLOT_BYTES]);

/* Asks for an event at the next request, then looks once more: true if there already is one (or
 * the ring is just found overrun, so that the next take says so). Call it before sleeping. False
 * for a ring known to be broken: there is nothing to take from it, whatever comes. */
bool ring_final_check(struct ring *ring);

/* Puts one response; the guest sees it at the next push. Never more than were taken (asserted). */
void ring_put(struct ring *ring, uint64_t id, uint8_t op, int16_t status);

/* Shows all responses put so far to the guest: true if it asked to be notified of them; never true
 * when there are no new ones. */
bool ring_push(struct ring *ring);

/* Requests taken and not yet answered. */
static inline uint32_t ring_in_flight(const struct ring *ring)
{
    return ring->req_cons - ring->rsp_prod;
}

#endif
