/* slab: law 10 (bounded, no request fails for want of memory) and what every buffer relies on: page
 * alignment, no two runs that overlap, all of it there again after all was freed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/slab.h"
#include "proto/limits.h"

enum { ARENA_BYTES = 4 << 20, RUNS = 300, STEPS = 200000 };

static void refuses_bad_sizes(void **state)
{
    struct slab *slab = NULL;

    (void)state;
    assert_int_not_equal(slab_create(0, &slab), 0);
    assert_int_not_equal(slab_create(LIMIT_PAGE_BYTES, &slab), 0);
    assert_null(slab);
    assert_int_equal(slab_create(ARENA_BYTES, &slab), 0);
    assert_null(slab_alloc(slab, 0));
    assert_null(slab_alloc(slab, slab_alloc_max() + 1));
    slab_destroy(slab);
    slab_destroy(NULL);
}

static void gives_all_of_it_and_then_null(void **state)
{
    void *run[ARENA_BYTES / LIMIT_PAGE_BYTES];
    struct slab *slab = NULL;
    size_t count = 0;

    (void)state;
    assert_int_equal(slab_create(ARENA_BYTES, &slab), 0);
    for (int round = 0; round < 3; round++) {
        for (count = 0; count < sizeof run / sizeof *run; count++)
            assert_non_null(run[count] = slab_alloc(slab, 1));
        assert_null(slab_alloc(slab, 1));
        while (count > 0)
            slab_drop(slab, run[--count], 1);
        assert_int_equal(slab_used_bytes(slab), 0);
    }
    /* Freed pages grew together again. */
    assert_non_null(run[0] = slab_alloc(slab, slab_alloc_max()));
    assert_non_null(run[1] = slab_alloc(slab, slab_alloc_max()));
    slab_drop(slab, run[0], slab_alloc_max());
    slab_drop(slab, run[1], slab_alloc_max());
    slab_destroy(slab);
}

struct run {
    uint8_t *at;
    size_t bytes, marked_bytes;
    uint8_t mark;
};

static void check_marked(const struct run *run)
{
    for (size_t i = 0; i < run->marked_bytes; i++)
        assert_int_equal(run->at[i], run->mark);
}

static void runs_never_overlap(void **state)
{
    struct run runs[RUNS] = {0};
    struct slab *slab = NULL;
    unsigned refused = 0;

    (void)state;
    srand(1);
    assert_int_equal(slab_create(ARENA_BYTES, &slab), 0);
    for (int step = 0; step < STEPS; step++) {
        struct run *run = &runs[rand() % RUNS];

        if (run->at) {
            if (step % 64 == 0)
                check_marked(run);
            slab_drop(slab, run->at, run->bytes);
            run->at = NULL;
            continue;
        }
        run->bytes = 1 + (size_t)rand() % (rand() % 8 ? 45056 : 300000);
        run->at = slab_alloc(slab, run->bytes);
        if (!run->at) {
            refused++;
            continue;
        }
        assert_int_equal((uintptr_t)run->at % LIMIT_PAGE_BYTES, 0);
        run->mark = (uint8_t)rand();
        run->marked_bytes = step % 64 ? 1 : run->bytes;
        memset(run->at, run->mark, run->marked_bytes);
    }
    assert_true(refused > 0); /* else the arena was never full, and the test shows little */
    for (int i = 0; i < RUNS; i++) {
        if (!runs[i].at)
            continue;
        check_marked(&runs[i]);
        slab_drop(slab, runs[i].at, runs[i].bytes);
    }
    assert_int_equal(slab_used_bytes(slab), 0);
    slab_destroy(slab);
}

/* -- over somebody else's memory -------------------------------------------------------------- */

static _Alignas(LIMIT_PAGE_BYTES) uint8_t arena[ARENA_BYTES];

static struct slab *over_arena(unsigned blocks)
{
    struct slab *slab = NULL;

    assert_int_equal(slab_create_over(arena, sizeof arena, &slab), 0);
    while (blocks-- > 0)
        assert_true(slab_extend(slab));
    return slab;
}

static void grows_block_by_block(void **state)
{
    struct slab *slab = over_arena(0);

    (void)state;
    assert_null(slab_alloc(slab, 1)); /* nothing is there yet, and nothing is touched */
    assert_int_equal(slab_left_bytes(slab), 0);
    for (size_t block = 0; block < ARENA_BYTES / slab_alloc_max(); block++) {
        assert_true(slab_extend(slab));
        assert_int_equal(slab_left_bytes(slab), slab_alloc_max());
        assert_ptr_equal(slab_alloc(slab, slab_alloc_max()), arena + block * slab_alloc_max());
        assert_null(slab_alloc(slab, 1));
    }
    assert_false(slab_extend(slab));
    memset(arena, 0x11, sizeof arena);
    slab_destroy(slab);
    for (size_t i = 0; i < sizeof arena; i++) /* the memory is its owner's, and stays */
        assert_int_equal(arena[i], 0x11);
    assert_int_not_equal(slab_create_over(arena, slab_alloc_max() / 2, &slab), 0);
}

/* What a buffer does not need of its run is others', and each page goes when its last holder does.
 */
static void pages_live_for_themselves(void **state)
{
    enum { PAGE = LIMIT_PAGE_BYTES };
    struct slab *slab = over_arena(1);
    uint8_t *five = slab_alloc(slab, 4 * PAGE + 1), *run;

    (void)state;
    assert_int_equal(slab_used_bytes(slab), 5 * PAGE);
    for (unsigned i = 0; i < 3; i++) /* the rest of its eight pages */
        assert_true((run = slab_alloc(slab, PAGE)) >= five + 5 * PAGE && run < five + 8 * PAGE);
    slab_hold(slab, five + PAGE - 512, 1024); /* a little of two pages */
    slab_hold(slab, five + PAGE, 512);        /* and another of one of them */
    slab_drop(slab, five, 4 * PAGE + 1);
    assert_int_equal(slab_used_bytes(slab), 5 * PAGE); /* three others', and two */
    slab_drop(slab, five + PAGE - 512, 1024);
    assert_int_equal(slab_used_bytes(slab), 4 * PAGE);
    assert_ptr_equal(slab_alloc(slab, 1), five);
    slab_drop(slab, five + PAGE, 512);
    slab_drop(slab, five, PAGE);
    slab_drop(slab, five + 5 * PAGE, 3 * PAGE); /* several buffers' at once */
    assert_int_equal(slab_used_bytes(slab), 0);
    assert_ptr_equal(slab_alloc(slab, slab_alloc_max()), arena);
    slab_destroy(slab);
}

static void claims_what_was_given_before(void **state)
{
    struct slab *slab = over_arena(1);
    uint8_t *run;

    (void)state;
    assert_false(slab_claim(slab, arena, 0));
    assert_false(slab_claim(slab, arena, slab_alloc_max() + 1));
    assert_false(slab_claim(slab, arena + slab_alloc_max(), 1)); /* not there yet */
    assert_false(slab_claim(slab, arena + slab_alloc_max() - 4096, 8192));
    assert_false(slab_claim(slab, (uint8_t *)((uintptr_t)arena - 4096), 4096)); /* before it */
    assert_int_equal(slab_used_bytes(slab), 0);
    assert_true(slab_claim(slab, arena + 3 * LIMIT_PAGE_BYTES + 512, 512));
    assert_true(slab_claim(slab, arena + 3 * LIMIT_PAGE_BYTES + 1024, 512)); /* of the same page */
    assert_true(slab_claim(slab, arena + LIMIT_PAGE_BYTES - 512, 1024));
    assert_int_equal(slab_used_bytes(slab), 3 * LIMIT_PAGE_BYTES);
    /* What is left goes to others, and comes back as from anybody. */
    assert_non_null(run = slab_alloc(slab, 1));
    assert_ptr_equal(run, arena + 2 * LIMIT_PAGE_BYTES);
    assert_null(slab_alloc(slab, slab_alloc_max()));
    slab_drop(slab, arena + 3 * LIMIT_PAGE_BYTES + 512, 512);
    slab_drop(slab, run, 1);
    slab_drop(slab, arena, 2 * LIMIT_PAGE_BYTES);
    assert_int_equal(slab_used_bytes(slab), LIMIT_PAGE_BYTES);
    slab_drop(slab, arena + 3 * LIMIT_PAGE_BYTES + 1024, 512);
    assert_ptr_equal(run = slab_alloc(slab, slab_alloc_max()), arena);
    slab_destroy(slab);
}

/* Whatever one life had given, the next one claims all of it, in any order, and gives the rest. */
static void a_next_life_has_the_same_pages(void **state)
{
    struct run runs[RUNS] = {0};
    struct slab *slab = over_arena(2), *next;
    size_t used;
    unsigned count = 0;

    (void)state;
    srand(2);
    for (int step = 0; step < STEPS / 10; step++) {
        struct run *run = &runs[rand() % RUNS];

        if (run->at)
            slab_drop(slab, run->at, run->bytes);
        run->bytes = 1 + (size_t)rand() % (rand() % 8 ? 20000 : 300000);
        run->at = slab_alloc(slab, run->bytes);
    }
    for (unsigned i = 0; i < RUNS; i++) { /* only who has one, in another order than by address */
        struct run run = runs[i];

        if (run.at)
            runs[count++] = run;
    }
    assert_true(count > RUNS / 4);
    used = slab_used_bytes(slab);
    slab_destroy(slab);
    next = over_arena(2);
    for (unsigned i = 0; i < count; i++)
        assert_true(slab_claim(next, runs[i].at, runs[i].bytes));
    assert_int_equal(slab_used_bytes(next), used);
    while (slab_alloc(next, 1))
        used += LIMIT_PAGE_BYTES;
    assert_int_equal(used, ARENA_BYTES);
    for (unsigned i = 0; i < count; i++)
        slab_drop(next, runs[i].at, runs[i].bytes);
    assert_true(slab_used_bytes(next) < ARENA_BYTES);
    slab_destroy(next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_bad_sizes),
        cmocka_unit_test(gives_all_of_it_and_then_null),
        cmocka_unit_test(runs_never_overlap),
        cmocka_unit_test(grows_block_by_block),
        cmocka_unit_test(pages_live_for_themselves),
        cmocka_unit_test(claims_what_was_given_before),
        cmocka_unit_test(a_next_life_has_the_same_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
