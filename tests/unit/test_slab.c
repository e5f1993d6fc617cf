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
    slab_free(slab, NULL);
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
            slab_free(slab, run[--count]);
        assert_int_equal(slab_used_bytes(slab), 0);
    }
    /* Freed pages grew together again. */
    assert_non_null(run[0] = slab_alloc(slab, slab_alloc_max()));
    assert_non_null(run[1] = slab_alloc(slab, slab_alloc_max()));
    slab_free(slab, run[0]);
    slab_free(slab, run[1]);
    slab_destroy(slab);
}

struct run {
    uint8_t *at;
    size_t bytes;
    uint8_t mark;
};

static void check_marked(const struct run *run)
{
    for (size_t i = 0; i < run->bytes; i++)
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
            slab_free(slab, run->at);
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
        memset(run->at, run->mark, step % 64 ? 1 : run->bytes);
        if (step % 64)
            run->bytes = 1;
    }
    assert_true(refused > 0); /* else the arena was never full, and the test shows little */
    for (int i = 0; i < RUNS; i++) {
        if (runs[i].at)
            check_marked(&runs[i]);
        slab_free(slab, runs[i].at);
    }
    assert_int_equal(slab_used_bytes(slab), 0);
    slab_destroy(slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_bad_sizes),
        cmocka_unit_test(gives_all_of_it_and_then_null),
        cmocka_unit_test(runs_never_overlap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
