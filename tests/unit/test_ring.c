/*
 * ring: the shared ring against an honest guest, one that lies, and one that runs beside it.
 *
 * The guest's side is written after xen/io/ring.h and Linux's xen-blkfront. Random tests take their
 * seed from BLKGATE_SEED and name it when they fail.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <xen/io/blkif.h>

#include "proto/ring.h"

_Static_assert(offsetof(struct blkif_sring, req_prod) == 0, "sring");
_Static_assert(offsetof(struct blkif_sring, req_event) == 4, "sring");
_Static_assert(offsetof(struct blkif_sring, rsp_prod) == 8, "sring");
_Static_assert(offsetof(struct blkif_sring, rsp_event) == 12, "sring");
_Static_assert(offsetof(struct blkif_sring, ring) == 64, "sring");

/* Where the nonce lies: in the part of the pad that no ring type ever gave a meaning. */
enum { AT_NONCE = 56 };
_Static_assert(offsetof(struct blkif_sring, __pad) <= AT_NONCE, "sring");

enum { CANARY = 0x5c };

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static const enum blkif_abi abis[] = {BLKIF_ABI_X86_64, BLKIF_ABI_X86_32, BLKIF_ABI_ARM};

/* Where the indices start: their wrap must lie within a test's reach, and 2^31 too. */
static const uint32_t starts[] = {0, 5, 0x7fffffff, UINT32_MAX - 40, UINT32_MAX};

/* ---- a guest ---- */

struct guest {
    struct blkif_sring *sring;
    enum blkif_abi abi;
    uint32_t pages, slots, slot_bytes;
    uint32_t req_prod; /* req_prod_pvt */
    uint32_t rsp_cons;
};

static uint8_t *guest_slot(const struct guest *guest, uint32_t index)
{
    return (uint8_t *)guest->sring + 64 + (index & (guest->slots - 1)) * guest->slot_bytes;
}

/* FRONT_RING_INIT, but at an index of choice. */
static void guest_start(struct guest *guest, enum blkif_abi abi, uint32_t pages, uint32_t index)
{
    *guest = (struct guest){
        .sring = aligned_alloc(LIMIT_PAGE_BYTES, (size_t)pages * LIMIT_PAGE_BYTES),
        .abi = abi,
        .pages = pages,
        .slots = ring_slots(abi, pages),
        .slot_bytes = blkif_slot_bytes(abi),
        .req_prod = index,
        .rsp_cons = index,
    };
    assert_non_null(guest->sring);
    memset(guest->sring, CANARY, (size_t)pages * LIMIT_PAGE_BYTES);
    guest->sring->req_prod = guest->sring->rsp_prod = index;
    guest->sring->req_event = guest->sring->rsp_event = index + 1;
}

static void guest_stop(struct guest *guest)
{
    free(guest->sring);
}

static void start_both(struct guest *guest, struct ring *ring, enum blkif_abi abi, uint32_t pages,
                       uint32_t index)
{
    guest_start(guest, abi, pages, index);
    memset(ring, CANARY, sizeof(*ring));
    assert_int_equal(ring_attach(ring, guest->sring, pages, abi), 0);
}

/* A read of one segment; everything in it follows from its id. */
static void guest_fill(struct guest *guest, uint64_t id)
{
    uint8_t *slot = guest_slot(guest, guest->req_prod++);
    size_t at = guest->abi == BLKIF_ABI_X86_32 ? 4 : 8;
    uint64_t sector = id * 8;
    uint32_t gref = (uint32_t)id ^ 0xffff;

    memset(slot, (int)(id & 0xff), guest->slot_bytes);
    slot[0] = (uint8_t)(id & 1);
    slot[1] = 1;
    memcpy(slot + at, &id, sizeof(id));
    memcpy(slot + at + 8, &sector, sizeof(sector));
    memcpy(slot + at + 16, &gref, sizeof(gref));
}

/* RING_PUSH_REQUESTS_AND_CHECK_NOTIFY; sequential consistency stands for xen_mb, see ring.c. */
static bool guest_push(struct guest *guest)
{
    uint32_t old = __atomic_load_n(&guest->sring->req_prod, __ATOMIC_RELAXED);
    uint32_t new = guest->req_prod;

    __atomic_store_n(&guest->sring->req_prod, new, __ATOMIC_SEQ_CST);
    return new - __atomic_load_n(&guest->sring->req_event, __ATOMIC_SEQ_CST) < new - old;
}

static int16_t status_of(uint64_t id)
{
    return (int16_t)(-(int)(id % 3));
}

/* Takes one response off the ring and its fields from it; false if there is none. */
static bool guest_take(struct guest *guest, uint64_t *ret_id, uint8_t *ret_op, int16_t *ret_status)
{
    const uint8_t *slot = guest_slot(guest, guest->rsp_cons);

    if (__atomic_load_n(&guest->sring->rsp_prod, __ATOMIC_ACQUIRE) == guest->rsp_cons)
        return false;
    memcpy(ret_id, slot, sizeof(*ret_id));
    *ret_op = slot[8];
    memcpy(ret_status, slot + 10, sizeof(*ret_status));
    guest->rsp_cons++;
    return true;
}

/* What is wrong with a slot that should hold the request guest_fill made of its id, or NULL. */
static const char *slot_fault(const struct guest *guest,
                              const uint8_t slot[static LIMIT_SLOT_BYTES],
                              struct blkif_req *ret_req)
{
    blkif_req_decode(guest->abi, slot, ret_req);
    if (ret_req->op != (ret_req->id & 1) || ret_req->segment_count != 1)
        return "operation or count is not of this request";
    if (ret_req->sector != ret_req->id * 8)
        return "sector is not of this request";
    if (ret_req->seg[0].gref != ((uint32_t)ret_req->id ^ 0xffff))
        return "grant is not of this request";
    if (slot[guest->slot_bytes - 1] != (uint8_t)(ret_req->id & 0xff))
        return "the slot's end is not of this request";
    for (uint32_t i = guest->slot_bytes; i < LIMIT_SLOT_BYTES; i++)
        if (slot[i] != 0)
            return "not zero behind the slot";
    return NULL;
}

/* ---- randomness ---- */

static uint64_t seed_given(void)
{
    const char *seed = getenv("BLKGATE_SEED");

    return seed ? strtoull(seed, NULL, 0) : 20240917;
}

/* splitmix64 */
static uint64_t random_next(uint64_t *random)
{
    uint64_t z = *random += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint32_t random_below(uint64_t *random, uint32_t limit)
{
    return (uint32_t)(random_next(random) % limit);
}

/* ---- sizes and attaching ---- */

static void test_slots_are_xens(void **state)
{
    static const struct {
        uint32_t pages, slots;
    } cases[] = {{0, 0},   {1, 32},   {2, 64}, {3, 64},         {4, 128},
                 {8, 256}, {16, 512}, {17, 0}, {UINT32_MAX, 0}, {1U << 20, 0}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        for (size_t a = 0; a < ARRAY_LENGTH(abis); a++)
            assert_int_equal(ring_slots(abis[a], cases[i].pages), cases[i].slots);
#if !defined(__i386__)
    for (uint32_t pages = 1; pages <= LIMIT_RING_PAGES; pages++)
        assert_int_equal(ring_slots(BLKIF_ABI_X86_64, pages),
                         __CONST_RING_SIZE(blkif, pages * LIMIT_PAGE_BYTES));
#endif
}

/* A predecessor's responses are not repeated, and what it left is taken: BACK_RING_ATTACH. */
static void test_attach_goes_on_where_responses_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(starts); i++) {
        uint8_t slot[LIMIT_SLOT_BYTES];
        struct guest guest;
        struct ring ring;

        guest_start(&guest, BLKIF_ABI_X86_64, 1, starts[i]);
        for (uint64_t id = 0; id < guest.slots; id++)
            guest_fill(&guest, id);
        guest_push(&guest);
        assert_int_equal(ring_attach(&ring, guest.sring, 1, guest.abi), 0);
        assert_int_equal(ring_in_flight(&ring), 0);
        for (uint64_t id = 0; id < guest.slots; id++) {
            struct blkif_req req;

            assert_int_equal(ring_take(&ring, slot), 1);
            assert_null(slot_fault(&guest, slot, &req));
            assert_int_equal(req.id, id);
        }
        assert_int_equal(ring_take(&ring, slot), 0);
        guest_stop(&guest);
    }
}

static void test_attach_refuses_indices_too_far_apart(void **state)
{
    static const uint32_t apart[] = {33, 64, 1U << 31, UINT32_MAX};

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(apart); i++) {
        struct guest guest;
        struct ring ring, before;

        guest_start(&guest, BLKIF_ABI_X86_32, 1, 1000);
        guest.sring->req_prod = 1000 + apart[i];
        memset(&ring, CANARY, sizeof(ring));
        before = ring;
        assert_int_equal(ring_attach(&ring, guest.sring, 1, guest.abi), -EPROTO);
        assert_memory_equal(&ring, &before, sizeof(ring));
        guest_stop(&guest);
    }
}

/* XSA-300: not more pages than we agreed to map. */
static void test_attach_refuses_page_counts(void **state)
{
    static const uint32_t pages[] = {0, LIMIT_RING_PAGES + 1, UINT32_MAX};
    struct guest guest;
    struct ring ring;

    (void)state;
    guest_start(&guest, BLKIF_ABI_X86_64, LIMIT_RING_PAGES, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(pages); i++)
        assert_int_equal(ring_attach(&ring, guest.sring, pages[i], guest.abi), -EINVAL);
    assert_int_equal(ring_attach(&ring, guest.sring, LIMIT_RING_PAGES, guest.abi), 0);
    guest_stop(&guest);
}

/* A daemon that comes back goes on behind what its predecessor had taken (law 8). */
static void test_resume_goes_on_behind_what_was_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(starts); i++) {
        uint8_t slot[LIMIT_SLOT_BYTES];
        struct ring_view view;
        struct blkif_req req;
        struct guest guest;
        struct ring ring;

        guest_start(&guest, BLKIF_ABI_X86_32, 1, starts[i]);
        for (uint64_t id = 0; id < guest.slots; id++)
            guest_fill(&guest, id);
        guest_push(&guest);
        ring_view(guest.sring, &view);
        assert_int_equal(view.rsp_prod, starts[i]);
        assert_int_equal(view.req_prod, starts[i] + guest.slots);
        assert_int_equal(ring_resume(&ring, guest.sring, 1, guest.abi, &view, 30), 0);
        assert_int_equal(ring_in_flight(&ring), 30);
        for (uint64_t id = 30; id < 32; id++) {
            assert_int_equal(ring_take(&ring, slot), 1);
            assert_null(slot_fault(&guest, slot, &req));
            assert_int_equal(req.id, id);
        }
        assert_int_equal(ring_take(&ring, slot), 0);
        ring_put(&ring, 7, BLKIF_READ, BLKIF_OKAY);
        ring_push(&ring);
        assert_int_equal(guest.sring->rsp_prod, starts[i] + 1);
        guest_stop(&guest);
    }
}

/* It believes the view that recovery was decided by, not what the guest says since (law 3). */
static void test_resume_refuses_what_the_view_cannot_be(void **state)
{
    static const struct {
        uint32_t rsp_prod, req_prod, taken;
        int result;
    } cases[] = {
        {5, 5, 0, 0},          {5, 37, 32, 0},
        {UINT32_MAX, 3, 4, 0}, {5, 5, 1, -EPROTO},
        {5, 38, 0, -EPROTO},   {5, 4, 0, -EPROTO},
        {5, 37, 33, -EPROTO},  {5, 15, UINT32_MAX, -EPROTO},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct ring_view view = {0, cases[i].rsp_prod, cases[i].req_prod};
        struct guest guest;
        struct ring ring;

        guest_start(&guest, BLKIF_ABI_X86_64, 1, 77);
        assert_int_equal(ring_resume(&ring, guest.sring, 1, guest.abi, &view, cases[i].taken),
                         cases[i].result);
        guest_stop(&guest);
    }
}

/* The nonce is ours, the rest of the pad and the indices are not; initialising a ring removes it.
 */
static void test_nonce_lives_until_the_ring_is_initialised(void **state)
{
    struct ring_view view;
    struct blkif_sring before;
    struct guest guest;
    struct ring ring;

    (void)state;
    start_both(&guest, &ring, BLKIF_ABI_X86_64, 1, 9);
    memcpy(&before, guest.sring, sizeof(before));
    ring_set_nonce(&ring, 0x0123456789abcdef);
    assert_memory_equal(guest.sring, &before, AT_NONCE);
    assert_memory_equal((uint8_t *)guest.sring + 64, (uint8_t *)&before + 64, sizeof(before) - 64);
    ring_view(guest.sring, &view);
    assert_true(view.nonce == 0x0123456789abcdef);
    SHARED_RING_INIT(guest.sring);
    ring_view(guest.sring, &view);
    assert_true(view.nonce == 0);
    guest_stop(&guest);
}

/* ---- taking ---- */

/* Three rings full in every ABI and size: the stride, slots across a page's end, indices at 2^32.
 */
static void test_take_finds_each_slot_in_each_abi(void **state)
{
    (void)state;
    for (size_t n = 0; n < ARRAY_LENGTH(abis) * 5 * ARRAY_LENGTH(starts); n++) {
        uint32_t pages = 1U << (n / ARRAY_LENGTH(abis) % 5);
        struct guest guest;
        struct ring ring;

        start_both(&guest, &ring, abis[n % ARRAY_LENGTH(abis)], pages,
                   starts[n / ARRAY_LENGTH(abis) / 5]);
        for (uint64_t id = 0; id < 3 * (uint64_t)guest.slots; id++) {
            uint8_t slot[LIMIT_SLOT_BYTES];
            struct blkif_req req;

            guest_fill(&guest, id);
            guest_push(&guest);
            memset(slot, CANARY, sizeof(slot));
            assert_int_equal(ring_take(&ring, slot), 1);
            assert_null(slot_fault(&guest, slot, &req));
            assert_int_equal(req.id, id);
            assert_int_equal(ring_take(&ring, slot), 0);
            ring_put(&ring, id, req.op, 0);
            ring_push(&ring);
        }
        guest_stop(&guest);
    }
}

/* Filled, but not behind req_prod: not ours yet. */
static void test_take_leaves_what_is_not_pushed(void **state)
{
    uint8_t slot[LIMIT_SLOT_BYTES];
    struct guest guest;
    struct ring ring;

    (void)state;
    start_both(&guest, &ring, BLKIF_ABI_X86_64, 1, UINT32_MAX);
    guest_fill(&guest, 0);
    assert_int_equal(ring_take(&ring, slot), 0);
    guest_push(&guest);
    guest_fill(&guest, 1);
    assert_int_equal(ring_take(&ring, slot), 1);
    assert_int_equal(ring_take(&ring, slot), 0);
    guest_stop(&guest);
}

/* ---- a guest that lies ---- */

struct overrun_case {
    const char *name;
    uint32_t taken, answered;
    uint32_t ahead; /* of the responses put */
    int want;
};

static const struct overrun_case overruns[] = {
    {"a ring ahead", 0, 0, 32, 1},
    {"XSA-39: a ring and one ahead", 0, 0, 33, -EPROTO},
    {"CVE-2010-4247: 2^31 ahead", 0, 0, 1U << 31, -EPROTO},
    {"back by one", 0, 0, UINT32_MAX, -EPROTO},
    {"XSA-39: a ring and one ahead of the responses, though not of what was taken", 10, 0, 33,
     -EPROTO},
    {"XSA-39: one more than there is room for", 32, 0, 33, -EPROTO},
    {"all taken, none answered, none new", 32, 0, 32, 0},
    {"all taken, one answered, one new", 32, 1, 32, 1},
    {"all taken, one answered, two new", 32, 1, 33, -EPROTO},
    {"back behind one that was taken", 10, 0, 9, -EPROTO},
    {"back behind all that were taken", 10, 0, 0, -EPROTO},
    {"back behind the responses", 10, 5, UINT32_MAX, -EPROTO},
};

static void start_overrun(struct guest *guest, struct ring *ring, const struct overrun_case *c,
                          uint32_t index)
{
    uint8_t slot[LIMIT_SLOT_BYTES];

    start_both(guest, ring, BLKIF_ABI_X86_64, 1, index);
    for (uint32_t i = 0; i < c->taken; i++) {
        guest_fill(guest, i);
        guest_push(guest);
        assert_int_equal(ring_take(ring, slot), 1);
    }
    for (uint32_t i = 0; i < c->answered; i++)
        ring_put(ring, i, 0, 0);
    guest->sring->req_prod = index + c->answered + c->ahead;
}

static void check_overrun(const struct overrun_case *c, uint32_t index)
{
    uint8_t slot[LIMIT_SLOT_BYTES];
    struct guest guest;
    struct ring ring;
    int result;

    start_overrun(&guest, &ring, c, index);
    memset(slot, CANARY, sizeof(slot));
    result = ring_take(&ring, slot);
    if (result != c->want)
        fail_msg("%s, from %u: %d, not %d", c->name, index, result, c->want);
    if (result < 0) {
        assert_int_equal(slot[0], CANARY);
        assert_int_equal(ring_in_flight(&ring), c->taken - c->answered);
        /* Put right, it stays broken; what was taken is answered all the same. */
        guest.sring->req_prod = ring.req_cons + 1;
        assert_int_equal(ring_take(&ring, slot), -EPROTO);
        while (ring_in_flight(&ring) > 0)
            ring_put(&ring, 0, 0, BLKIF_ERROR);
        ring_push(&ring);
        assert_int_equal(guest.sring->rsp_prod, index + c->taken);
        assert_int_equal(ring_take(&ring, slot), -EPROTO);
        assert_int_equal(ring_attach(&ring, guest.sring, 1, guest.abi), 0);
        assert_int_equal(ring_take(&ring, slot), 1);
    }
    guest_stop(&guest);
}

static void test_overrun_breaks_the_ring_until_attached_anew(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(overruns); i++)
        for (size_t s = 0; s < ARRAY_LENGTH(starts); s++)
            check_overrun(&overruns[i], starts[s]);
}

/* Law 10: however far ahead, a loop that takes ends at once, and asks for no event. */
static void test_final_check_ends_with_a_broken_ring(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(overruns); i++) {
        uint8_t slot[LIMIT_SLOT_BYTES];
        struct guest guest;
        struct ring ring;

        if (overruns[i].want != -EPROTO)
            continue;
        start_overrun(&guest, &ring, &overruns[i], 77);
        guest.sring->req_event = 0x12345678;
        assert_true(ring_final_check(&ring));
        /* Even if the guest takes it back meanwhile, the next take says so. */
        guest.sring->req_prod = ring.req_cons;
        assert_int_equal(ring_take(&ring, slot), -EPROTO);
        assert_false(ring_final_check(&ring));
        assert_int_equal(guest.sring->req_event, 0x12345678);
        guest_stop(&guest);
    }
}

/* ---- sleeping ---- */

static void test_final_check_arms_the_event_only_if_nothing_waits(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(starts); i++) {
        uint8_t slot[LIMIT_SLOT_BYTES];
        struct guest guest;
        struct ring ring;

        start_both(&guest, &ring, BLKIF_ABI_ARM, 1, starts[i]);
        guest.sring->req_event = starts[i] - 100;
        assert_false(ring_final_check(&ring));
        assert_int_equal(guest.sring->req_event, (uint32_t)(starts[i] + 1));

        guest_fill(&guest, 0);
        assert_true(guest_push(&guest));
        guest_fill(&guest, 1);
        assert_false(guest_push(&guest)); /* one event was asked for */
        assert_true(ring_final_check(&ring));
        assert_int_equal(guest.sring->req_event, (uint32_t)(starts[i] + 1));
        assert_int_equal(ring_take(&ring, slot), 1);
        assert_true(ring_final_check(&ring));
        assert_int_equal(ring_take(&ring, slot), 1);
        assert_false(ring_final_check(&ring));
        assert_int_equal(guest.sring->req_event, (uint32_t)(starts[i] + 3));
        guest_stop(&guest);
    }
}

/* ---- answering ---- */

/* Takes `count` requests off a ring that starts at `index`. */
static void start_taken(struct guest *guest, struct ring *ring, uint32_t index, uint32_t count)
{
    uint8_t slot[LIMIT_SLOT_BYTES];

    start_both(guest, ring, BLKIF_ABI_X86_32, 1, index);
    for (uint32_t i = 0; i < count; i++)
        guest_fill(guest, i);
    guest_push(guest);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(ring_take(ring, slot), 1);
}

/* For every relation of the old and new rsp_prod to rsp_event: in (old, new] means notify. */
static void test_notify_if_the_event_was_passed(void **state)
{
    (void)state;
    for (size_t s = 0; s < ARRAY_LENGTH(starts); s++) {
        for (uint32_t n = 0; n < 5 * 12; n++) {
            uint32_t count = n / 12, event_at = n % 12 - 4; /* relative to old: -4 ... 7 */
            bool want = event_at >= 1 && event_at <= count;
            struct guest guest;
            struct ring ring;

            start_taken(&guest, &ring, starts[s], count);
            guest.sring->rsp_event = starts[s] + event_at;
            for (uint32_t i = 0; i < count; i++)
                ring_put(&ring, i, 0, 0);
            if (ring_push(&ring) != want)
                fail_msg("from %u, %u responses, event at %d: not %d", starts[s], count,
                         (int)event_at, want);
            assert_int_equal(guest.sring->rsp_prod, (uint32_t)(starts[s] + count));
            /* XSA-391: never for nothing new. */
            assert_false(ring_push(&ring));
            guest_stop(&guest);
        }
    }
}

/* Law 3: rsp_prod is ours; what the guest writes there is neither believed nor kept. */
static void test_push_does_not_believe_the_shared_rsp_prod(void **state)
{
    struct guest guest;
    struct ring ring;

    (void)state;
    start_taken(&guest, &ring, UINT32_MAX, 2);
    guest.sring->rsp_event = 1;
    guest.sring->rsp_prod = 1; /* "you told me already" */
    ring_put(&ring, 0, 0, 0);
    ring_put(&ring, 1, 0, 0);
    assert_int_equal(guest.sring->rsp_prod, 1);
    assert_true(ring_push(&ring));
    assert_int_equal(guest.sring->rsp_prod, 1);
    guest.sring->rsp_prod = 0xdeadbeef;
    assert_int_equal(ring_in_flight(&ring), 0);
    assert_false(ring_push(&ring));
    guest_stop(&guest);
}

/* Responses lie in the order they were put, at the slot's stride; XSA-216: and nothing else. */
static void test_put_writes_the_next_slot_and_push_shows_it(void **state)
{
    static const size_t padding[] = {9, 12, 50, 107};

    (void)state;
    for (size_t s = 0; s < ARRAY_LENGTH(starts); s++) {
        struct guest guest;
        struct ring ring;

        start_taken(&guest, &ring, starts[s], 32);
        memset(guest_slot(&guest, 0), CANARY, (size_t)guest.slots * guest.slot_bytes);
        for (uint32_t i = 0; i < 32; i++) {
            ring_put(&ring, 31 - i, (uint8_t)(i & 1), status_of(i));
            assert_int_equal(guest.sring->rsp_prod, starts[s]);
        }
        ring_push(&ring);
        for (uint32_t i = 0; i < 32; i++) {
            const uint8_t *slot = guest_slot(&guest, starts[s] + i);
            uint64_t id = UINT64_MAX;
            uint8_t op = 0xff;
            int16_t status = 1;

            assert_true(guest_take(&guest, &id, &op, &status));
            assert_int_equal(id, 31 - i);
            assert_int_equal(op, i & 1);
            assert_int_equal(status, status_of(i));
            for (size_t p = 0; p < ARRAY_LENGTH(padding); p++)
                assert_int_equal(slot[padding[p]], CANARY);
        }
        guest_stop(&guest);
    }
}

/* Invariant 1: a response nobody asked for would overwrite a request; Linux disables such a disk.
 */
static void test_put_without_a_request_is_our_own_bug(void **state)
{
#ifdef NDEBUG
    (void)state;
    skip();
#else
    struct guest guest;
    struct ring ring;
    int status;
    pid_t child;

    (void)state;
    start_taken(&guest, &ring, 0, 1);
    ring_put(&ring, 0, 0, 0);
    fflush(NULL);
    child = fork();
    if (child == 0) {
        const struct rlimit no_core = {0, 0};

        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would report it */
        close(STDERR_FILENO);
        ring_put(&ring, 0, 0, 0);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    guest_stop(&guest);
#endif
}

/* ---- a random guest and backend, turn by turn, against a model ---- */

enum { MODEL_SLOTS_MAX = 512, MODEL_STEPS = 150000 };

struct model {
    struct guest guest;
    struct ring ring;
    uint64_t random;
    uint64_t filled, pushed, taken; /* ids are given in this order */
    uint64_t held[MODEL_SLOTS_MAX]; /* taken, not answered */
    uint32_t held_count;
    uint64_t put[MODEL_SLOTS_MAX]; /* ids by the index of their response, for the guest */
    uint64_t puts, shown, seen;
    bool broken;
};

static void model_fill(struct model *m)
{
    if (m->filled - m->seen < m->guest.slots)
        guest_fill(&m->guest, m->filled++);
}

static void model_guest_push(struct model *m)
{
    uint32_t before = m->guest.sring->req_prod, event = m->guest.sring->req_event;
    bool notified = guest_push(&m->guest);

    /* Asleep is who armed the event at the next request: whoever pushes it must notify. */
    if (event == before + 1 && m->guest.req_prod != before)
        assert_true(notified);
    m->pushed = m->filled;
}

static void model_take(struct model *m)
{
    uint8_t slot[LIMIT_SLOT_BYTES];
    struct blkif_req req;
    int result = ring_take(&m->ring, slot);

    if (m->broken) {
        assert_int_equal(result, -EPROTO);
        return;
    }
    assert_int_equal(result, m->taken < m->pushed);
    if (result == 1) {
        assert_null(slot_fault(&m->guest, slot, &req));
        assert_int_equal(req.id, m->taken);
        m->held[m->held_count++] = m->taken++;
    }
}

/* Answers in any order. */
static void model_put(struct model *m)
{
    uint32_t which;
    uint64_t id;

    if (m->held_count == 0)
        return;
    which = random_below(&m->random, m->held_count);
    id = m->held[which];
    m->held[which] = m->held[--m->held_count];
    ring_put(&m->ring, id, (uint8_t)(id & 1), status_of(id));
    m->put[m->puts++ % MODEL_SLOTS_MAX] = id;
}

static void model_push(struct model *m)
{
    uint32_t event_ahead = m->guest.sring->rsp_event - m->guest.sring->rsp_prod;
    uint64_t new = m->puts - m->shown;

    assert_int_equal(ring_push(&m->ring), event_ahead >= 1 && event_ahead <= new);
    m->shown = m->puts;
}

static void model_guest_take(struct model *m)
{
    uint64_t id;
    uint8_t op;
    int16_t status;

    if (guest_take(&m->guest, &id, &op, &status)) {
        assert_true(m->seen < m->shown);
        assert_int_equal(id, m->put[m->seen++ % MODEL_SLOTS_MAX]);
        assert_int_equal(op, id & 1);
        assert_int_equal(status, status_of(id));
    } else {
        assert_int_equal(m->seen, m->shown);
    }
    if (random_below(&m->random, 2) == 0)
        m->guest.sring->rsp_event = m->guest.rsp_cons + 1;
}

static void model_final_check(struct model *m)
{
    uint32_t event = m->guest.sring->req_event;
    bool waiting = ring_final_check(&m->ring);

    if (m->broken) {
        assert_false(waiting);
        return;
    }
    assert_int_equal(waiting, m->taken < m->pushed);
    assert_int_equal(m->guest.sring->req_event, waiting ? event : m->ring.req_cons + 1);
}

/* The guest runs ahead or back; sometimes it is then attached anew, all of its requests answered
 * by the predecessor. */
static void model_lie(struct model *m)
{
    uint32_t room = m->guest.slots - (uint32_t)(m->taken - m->puts);
    uint32_t honest = m->guest.sring->req_prod;
    uint8_t slot[LIMIT_SLOT_BYTES];

    if (!m->broken) {
        m->guest.sring->req_prod =
            m->ring.req_cons + room + 1 + random_below(&m->random, UINT32_MAX - room);
        assert_int_equal(ring_take(&m->ring, slot), -EPROTO);
        m->guest.sring->req_prod = honest;
        m->broken = true;
    }
    if (random_below(&m->random, 4) == 0) {
        while (m->held_count > 0)
            model_put(m);
        model_push(m);
        assert_int_equal(ring_attach(&m->ring, m->guest.sring, m->guest.pages, m->guest.abi), 0);
        m->broken = false;
    }
}

static void model_step(struct model *m)
{
    switch (random_below(&m->random, 64)) {
    case 0 ... 14: model_fill(m); break;
    case 15 ... 22: model_guest_push(m); break;
    case 23 ... 36: model_take(m); break;
    case 37 ... 46: model_put(m); break;
    case 47 ... 50: model_push(m); break;
    case 51 ... 58: model_guest_take(m); break;
    case 59 ... 62: model_final_check(m); break;
    default:
        if (m->broken || random_below(&m->random, 8) == 0)
            model_lie(m);
    }
    assert_int_equal(ring_in_flight(&m->ring), m->held_count);
    assert_in_range(ring_in_flight(&m->ring), 0, m->guest.slots);
    assert_int_equal(m->guest.sring->rsp_prod, (uint32_t)(m->ring.rsp_prod - (m->puts - m->shown)));
}

static void test_random_steps_follow_the_model(void **state)
{
    uint64_t seed = seed_given();

    (void)state;
    print_message("BLKGATE_SEED=%llu\n", (unsigned long long)seed);
    for (size_t n = 0; n < ARRAY_LENGTH(abis) * 2; n++) {
        static struct model m;

        m = (struct model){.random = seed + n};
        start_both(&m.guest, &m.ring, abis[n / 2], n % 2 ? LIMIT_RING_PAGES : 1,
                   UINT32_MAX - random_below(&m.random, 2000));
        for (unsigned int step = 0; step < MODEL_STEPS; step++)
            model_step(&m);
        assert_true(m.seen > MODEL_STEPS / 64);
        guest_stop(&m.guest);
    }
}

/* ---- a guest in a thread of its own ---- */

enum { SHARED_REQUESTS = 200000, STALL_MS = 20000 };

/* An event channel: a bit that wakes, and no other means of hearing from one another. */
struct event {
    uint32_t pending;
};

/* Both threads see the first failure, and stop. */
struct pair {
    struct guest guest;
    struct event to_guest, to_backend;
    const char *failure;
};

static void event_send(struct event *event)
{
    __atomic_store_n(&event->pending, 1, __ATOMIC_RELEASE);
}

static const char *pair_failure(struct pair *pair)
{
    return __atomic_load_n(&pair->failure, __ATOMIC_RELAXED);
}

static void pair_fail(struct pair *pair, const char *failure)
{
    const char *none = NULL;

    __atomic_compare_exchange_n(&pair->failure, &none, failure, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Sleeps until the event comes; awake, but blind to the ring. A wakeup that does not come is lost:
 * false. */
static bool event_wait(struct event *event, struct pair *pair, const char *stalled)
{
    int64_t deadline_ms = 0;

    for (unsigned int spin = 1; !__atomic_exchange_n(&event->pending, 0, __ATOMIC_ACQUIRE);
         spin++) {
        if (spin % 256 != 0)
            continue;
        if (deadline_ms == 0)
            deadline_ms = now_ms() + STALL_MS;
        if (now_ms() > deadline_ms)
            pair_fail(pair, stalled);
        if (pair_failure(pair))
            return false;
        sched_yield();
    }
    return true;
}

/* A few nanoseconds more or less, so that the two sides meet at every point of their paths. */
static void dawdle(uint64_t *random)
{
    for (volatile uint32_t i = random_below(random, 64); i > 0; i--)
        ;
}

/* blkif_interrupt of Linux's xen-blkfront, once through. */
static void guest_interrupt(struct pair *pair, uint8_t *answered)
{
    struct guest *guest = &pair->guest;
    bool more = true;

    while (more && !pair_failure(pair)) {
        uint64_t id;
        uint8_t op;
        int16_t status;

        while (guest_take(guest, &id, &op, &status)) {
            if (id >= SHARED_REQUESTS || answered[id]++)
                pair_fail(pair, "a response to nothing, or the second one");
            else if (op != (id & 1) || status != status_of(id))
                pair_fail(pair, "a response with another one's fields");
        }
        if (guest->rsp_cons == guest->req_prod) {
            __atomic_store_n(&guest->sring->rsp_event, guest->rsp_cons + 1, __ATOMIC_RELAXED);
            return;
        }
        __atomic_store_n(&guest->sring->rsp_event, guest->rsp_cons + 1, __ATOMIC_SEQ_CST);
        more = __atomic_load_n(&guest->sring->rsp_prod, __ATOMIC_SEQ_CST) != guest->rsp_cons;
    }
}

static void *guest_main(void *argument)
{
    struct pair *pair = argument;
    struct guest *guest = &pair->guest;
    uint8_t *answered = calloc(SHARED_REQUESTS, 1);
    uint64_t random = seed_given(), id = 0;
    uint32_t depth = 1;

    while (id < SHARED_REQUESTS && !pair_failure(pair)) {
        uint32_t room = depth - (guest->req_prod - guest->rsp_cons), batch;

        for (batch = random_below(&random, room) + 1; batch > 0 && id < SHARED_REQUESTS; batch--)
            guest_fill(guest, id++);
        if (guest_push(guest))
            event_send(&pair->to_backend);
        dawdle(&random);
        /* Full, or just so: wait for the interrupt. Low depths meet the sleeper, high ones not. */
        while ((guest->req_prod - guest->rsp_cons >= depth || id == SHARED_REQUESTS) &&
               guest->req_prod != guest->rsp_cons &&
               event_wait(&pair->to_guest, pair, "the guest sleeps, its wakeup was lost"))
            guest_interrupt(pair, answered);
        if (guest->req_prod == guest->rsp_cons)
            depth = 1U << random_below(&random, 6);
    }
    for (uint64_t i = 0; i < SHARED_REQUESTS && !pair_failure(pair); i++)
        if (!answered[i])
            pair_fail(pair, "a request was not answered");
    free(answered);
    return NULL;
}

/* Takes all there is; the next id expected is *next. */
static void backend_take(struct pair *pair, struct ring *ring, uint64_t *next)
{
    uint8_t slot[LIMIT_SLOT_BYTES];
    struct blkif_req req;
    int result;

    while ((result = ring_take(ring, slot)) == 1) {
        const char *fault = slot_fault(&pair->guest, slot, &req);

        if (fault)
            pair_fail(pair, fault);
        if (req.id != (*next)++)
            pair_fail(pair, "a request was lost, or came twice");
    }
    if (result < 0)
        pair_fail(pair, "an honest guest's ring was found broken");
}

static void backend_main(struct pair *pair, struct ring *ring)
{
    uint64_t random = seed_given() + 1, taken = 0, put = 0;

    while (put < SHARED_REQUESTS && !pair_failure(pair)) {
        backend_take(pair, ring, &taken);
        /* Up to a random one, so that some wait for others; all, before sleeping. */
        for (uint64_t stop = put + random_below(&random, 8); put < taken && put < stop; put++)
            ring_put(ring, put, (uint8_t)(put & 1), status_of(put));
        if (ring_push(ring))
            event_send(&pair->to_guest);
        dawdle(&random);
        if (put == taken && put < SHARED_REQUESTS && !ring_final_check(ring) &&
            !event_wait(&pair->to_backend, pair, "the backend sleeps, its wakeup was lost"))
            return;
    }
}

/*
 * Invariant 3 and the two-sided sleep: every request comes once, as it was written, and nobody
 * sleeps over one. Under ThreadSanitizer an access that the indices do not order is a race.
 */
static void test_a_guest_beside_us_loses_nothing(void **state)
{
    (void)state;
    for (size_t a = 0; a < ARRAY_LENGTH(abis); a++) {
        static struct pair pair;
        struct ring ring;
        pthread_t thread;

        memset(&pair, 0, sizeof(pair));
        start_both(&pair.guest, &ring, abis[a], 1, UINT32_MAX - SHARED_REQUESTS / 2);
        assert_int_equal(pthread_create(&thread, NULL, guest_main, &pair), 0);
        backend_main(&pair, &ring);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (pair.failure)
            fail_msg("%s", pair.failure);
        guest_stop(&pair.guest);
    }
}

/* ---- a guest that scribbles over the ring while we use it ---- */

struct scribbler {
    struct guest guest;
    bool stop;
};

static void *scribbler_main(void *argument)
{
    struct scribbler *s = argument;
    uint32_t *words = (uint32_t *)(void *)s->guest.sring;
    uint64_t random = seed_given() + 2;

    while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
        uint32_t at = random_below(&random, LIMIT_PAGE_BYTES / 4);
        uint32_t rsp_prod = __atomic_load_n(&s->guest.sring->rsp_prod, __ATOMIC_RELAXED);

        /* Mostly indices that could be true, so that more than the first look is put to test. */
        if (random_below(&random, 4) == 0)
            __atomic_store_n(&s->guest.sring->req_prod,
                             rsp_prod + random_below(&random, s->guest.slots + 2),
                             __ATOMIC_RELAXED);
        else
            __atomic_store_n(&words[at], (uint32_t)random_next(&random), __ATOMIC_RELAXED);
    }
    return NULL;
}

/* XSA-155, law 3: a request is what the one copy says; nothing the guest writes later counts. */
static void test_a_scribbling_guest_breaks_nothing_but_its_ring(void **state)
{
    enum { TAKEN = 5000, BROKEN = 500 };
    static struct scribbler s;
    int64_t deadline_ms = now_ms() + STALL_MS;
    uint32_t taken = 0, broken = 0;
    struct ring ring;
    pthread_t thread;

    (void)state;
    memset(&s, 0, sizeof(s));
    start_both(&s.guest, &ring, BLKIF_ABI_X86_32, 1, 0);
    assert_int_equal(pthread_create(&thread, NULL, scribbler_main, &s), 0);
    while ((taken < TAKEN || broken < BROKEN) && now_ms() < deadline_ms) {
        uint8_t slot[LIMIT_SLOT_BYTES], copy[LIMIT_SLOT_BYTES];
        struct blkif_req req, again;
        int result = ring_take(&ring, slot);

        assert_in_range(ring_in_flight(&ring), 0, ring.slots);
        if (result == 1) {
            taken++;
            memcpy(copy, slot, sizeof(copy));
            blkif_req_decode(ring.abi, slot, &req);
            blkif_req_decode(ring.abi, slot, &again);
            assert_memory_equal(slot, copy, sizeof(copy));
            assert_int_equal(req.segment_count, again.segment_count);
        }
        while (ring_in_flight(&ring) > taken % ring.slots)
            ring_put(&ring, taken, 0, 0);
        ring_push(&ring);
        ring_final_check(&ring);
        if (ring.broken) {
            broken++;
            while (ring_attach(&ring, s.guest.sring, 1, s.guest.abi) < 0)
                sched_yield();
        }
        if (result == 0)
            sched_yield();
    }
    __atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
    assert_int_equal(pthread_join(thread, NULL), 0);
    /* A loaded machine may not come to as many; one that comes to none tests nothing. */
    assert_true(taken > 0 && broken > 0);
    guest_stop(&s.guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_are_xens),
        cmocka_unit_test(test_attach_goes_on_where_responses_end),
        cmocka_unit_test(test_attach_refuses_indices_too_far_apart),
        cmocka_unit_test(test_attach_refuses_page_counts),
        cmocka_unit_test(test_resume_goes_on_behind_what_was_taken),
        cmocka_unit_test(test_resume_refuses_what_the_view_cannot_be),
        cmocka_unit_test(test_nonce_lives_until_the_ring_is_initialised),
        cmocka_unit_test(test_take_finds_each_slot_in_each_abi),
        cmocka_unit_test(test_take_leaves_what_is_not_pushed),
        cmocka_unit_test(test_overrun_breaks_the_ring_until_attached_anew),
        cmocka_unit_test(test_final_check_ends_with_a_broken_ring),
        cmocka_unit_test(test_final_check_arms_the_event_only_if_nothing_waits),
        cmocka_unit_test(test_notify_if_the_event_was_passed),
        cmocka_unit_test(test_push_does_not_believe_the_shared_rsp_prod),
        cmocka_unit_test(test_put_writes_the_next_slot_and_push_shows_it),
        cmocka_unit_test(test_put_without_a_request_is_our_own_bug),
        cmocka_unit_test(test_random_steps_follow_the_model),
        cmocka_unit_test(test_a_guest_beside_us_loses_nothing),
        cmocka_unit_test(test_a_scribbling_guest_breaks_nothing_but_its_ring),
    };

    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
