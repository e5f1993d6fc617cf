/*
 * plan: overlapping requests must not be at the server together, unless both read. NBD leaves the
 * outcome undefined otherwise, and the guest sees old data after its write was acknowledged.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/plan.h"

struct plan_case {
    const char *name;
    uint64_t a, a_count, b, b_count;
    bool overlap;
};

static const struct plan_case cases[] = {
    {"the same range", 100, 8, 100, 8, true},
    {"b within a", 100, 8, 102, 2, true},
    {"b has a's head", 100, 8, 93, 8, true},
    {"b has a's tail", 100, 8, 107, 8, true},
    {"one common sector", 100, 1, 100, 1, true},
    /* mirage-block-xen was off by one here, and took neighbours for conflicts. */
    {"b right after a", 100, 8, 108, 8, false},
    {"b right before a", 100, 8, 92, 8, false},
    {"far apart", 0, 8, 1ULL << 40, 8, false},
    {"an empty b within a", 100, 8, 104, 0, false},
    {"an empty b at a's start", 100, 8, 100, 0, false},
    {"both empty", 100, 0, 100, 0, false},
    /* QEMU wrapped at 2^55 sectors: a range must not come round to the disk's start. */
    {"2^55 bytes round", 0, 8, 1ULL << 55, 8, false},
    {"the last sectors", UINT64_MAX - 7, 8, UINT64_MAX, 1, true},
    {"the last and the first", UINT64_MAX - 7, 8, 0, 8, false},
    {"a wrapping a, and what it would wrap to", UINT64_MAX - 7, 100, 0, 8, false},
    {"a wrapping a, and its end", UINT64_MAX - 7, 100, UINT64_MAX, 1, true},
    {"all and one", 0, UINT64_MAX, 12345, 1, true},
};

static void check(const struct plan_case *c, bool a_writes, bool b_writes)
{
    struct plan_range a = {.sector = c->a, .sector_count = c->a_count, .writes = a_writes};
    struct plan_range b = {.sector = c->b, .sector_count = c->b_count, .writes = b_writes};
    bool want = !c->overlap || (!a_writes && !b_writes);

    if (plan_compatible(&a, &b) != want)
        fail_msg("%s: a writes %d, b writes %d: not %d", c->name, a_writes, b_writes, want);
    if (plan_compatible(&b, &a) != want)
        fail_msg("%s, swapped: a writes %d, b writes %d: not %d", c->name, a_writes, b_writes,
                 want);
}

static void test_each_case_either_way_round(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check(&cases[i], false, false);
        check(&cases[i], true, false);
        check(&cases[i], false, true);
        check(&cases[i], true, true);
    }
}

/* Every pair of ranges in a disk of 12 sectors, against the definition: a sector in both. */
static void test_all_of_a_small_disk_by_definition(void **state)
{
    enum { DISK = 12 };

    (void)state;
    for (unsigned int n = 0; n < DISK * DISK * DISK * DISK; n++) {
        unsigned int a = n % DISK, b = n / DISK % DISK;
        unsigned int a_count = n / DISK / DISK % DISK, b_count = n / DISK / DISK / DISK;
        struct plan_case c = {"small disk", a, a_count, b, b_count, false};

        for (unsigned int sector = 0; sector < 2 * DISK; sector++)
            if (sector >= a && sector < a + a_count && sector >= b && sector < b + b_count)
                c.overlap = true;
        check(&c, true, false);
        check(&c, false, false);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_case_either_way_round),
        cmocka_unit_test(test_all_of_a_small_disk_by_definition),
    };

    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
