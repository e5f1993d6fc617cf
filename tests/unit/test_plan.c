/*
 * plan: overlapping requests must not be at the server together, unless both read. NBD leaves the
 * outcome undefined otherwise, and the guest sees old data after its write was acknowledged.
 *
 * By hand the definition of that, and runs; at random a plan against a list that is searched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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

/* -- a plan against a list --------------------------------------------------------------------- */

enum { ITEMS = 300, DISK_SECTORS = 400, STEPS = 20000 };

static struct model {
    struct plan plan;
    struct plan_item items[ITEMS];
    uint64_t age[ITEMS]; /* 0: not planned */
    bool told_free[ITEMS];
    uint64_t next_age;
} m;

static unsigned int dice(unsigned int sides)
{
    return (unsigned int)rand() % sides;
}

static uint32_t blockers_by_definition(const struct model *model, unsigned int i)
{
    uint32_t blockers = 0;

    for (unsigned int j = 0; j < ITEMS; j++)
        blockers += model->age[j] != 0 && model->age[j] < model->age[i] &&
                    !plan_compatible(&model->items[j].range, &model->items[i].range);
    return blockers;
}

static uint64_t end_of(const struct plan_item *item)
{
    return item->range.sector + item->range.sector_count;
}

/* The order by place, no weight above its parent's, and the furthest end of each subtree. */
static uint64_t check_tree(const struct plan_item *at, const struct plan_item *parent,
                           uint64_t *before, uint32_t *count)
{
    uint64_t end = 0, left, right;

    if (!at)
        return 0;
    assert_ptr_equal(at->parent, parent);
    assert_true(!parent || at->weight <= parent->weight);
    left = check_tree(at->left, at, before, count);
    assert_true(*before <= at->range.sector);
    *before = at->range.sector;
    ++*count;
    right = check_tree(at->right, at, before, count);
    end = end_of(at);
    end = left > end ? left : end;
    end = right > end ? right : end;
    assert_int_equal(at->end_max, end);
    return end;
}

static void check_model(void)
{
    uint64_t before = 0;
    uint32_t count = 0;

    check_tree(m.plan.root, NULL, &before, &count);
    assert_int_equal(count, m.plan.count);
    for (unsigned int i = 0; i < ITEMS; i++) {
        assert_int_equal(m.items[i].planned, m.age[i] != 0);
        if (m.age[i] != 0)
            assert_int_equal(m.items[i].blockers, blockers_by_definition(&m, i));
    }
}

static void on_freed(void *arg, struct plan_item *item)
{
    struct model *model = arg;
    size_t i = (size_t)(item - model->items);

    assert_false(model->told_free[i]);
    model->told_free[i] = true;
}

static void add(unsigned int i)
{
    struct plan_item *item = &m.items[i];

    memset(item, 0xa5, sizeof(*item)); /* as a request that was used before */
    item->range = (struct plan_range){dice(DISK_SECTORS), 1 + dice(12), dice(3) == 0};
    if (dice(200) == 0)
        item->range = (struct plan_range){0, DISK_SECTORS, true}; /* a discard of everything */
    plan_add(&m.plan, item);
    m.age[i] = ++m.next_age;
    m.told_free[i] = item->blockers == 0;
}

/* Finished, or given up while others are in its way. */
static void remove_one(unsigned int i)
{
    bool before[ITEMS];

    memcpy(before, m.told_free, sizeof(before));
    plan_remove(&m.plan, &m.items[i], on_freed, &m);
    m.age[i] = 0;
    for (unsigned int j = 0; j < ITEMS; j++)
        if (m.age[j] != 0)
            assert_int_equal(m.told_free[j], before[j] || blockers_by_definition(&m, j) == 0);
}

static void test_a_plan_is_a_list_searched(void **state)
{
    (void)state;
    for (unsigned int seed = 0; seed < 4; seed++) {
        srand(seed);
        memset(&m, 0, sizeof(m));
        plan_init(&m.plan, seed);
        for (unsigned int step = 0; step < STEPS / 4; step++) {
            unsigned int i = dice(ITEMS);

            if (m.age[i] == 0 && dice(4) > seed % 2)
                add(i);
            else if (m.age[i] != 0)
                remove_one(i);
            if (step % 50 == 0)
                check_model();
        }
        for (unsigned int i = 0; i < ITEMS; i++)
            if (m.age[i] != 0)
                remove_one(i);
        assert_null(m.plan.root);
        assert_int_equal(m.plan.count, 0);
    }
}

/* -- runs -------------------------------------------------------------------------------------- */

static bool alike(const struct plan_item *item, const struct plan_item *other)
{
    return item->range.writes == other->range.writes && other->blockers == 0;
}

static void check_run(const struct plan_run *run, const struct plan_item *of, uint64_t max_sectors)
{
    uint64_t sectors = 0;
    uint32_t count = 0;
    bool has_it = false;

    for (const struct plan_item *at = run->first; at; at = at->next) {
        assert_true(at == of || alike(of, at));
        assert_true(!at->next || at->next->range.sector == end_of(at));
        has_it |= at == of;
        sectors += at->range.sector_count;
        count++;
    }
    assert_true(has_it);
    assert_true(!run->before || end_of(run->before) == run->first->range.sector);
    assert_true(!run->behind || run->behind->range.sector == run->first->range.sector + sectors);
    assert_int_equal(run->sector_count, sectors);
    assert_int_equal(run->count, count);
    assert_true(count == 1 || sectors <= max_sectors);
}

/* However they came, in whatever order: what lies side by side is one run, from any of it. */
static void test_a_run_is_found_from_any_of_it(void **state)
{
    struct plan plan;
    struct plan_item items[32];
    struct plan_run run;

    (void)state;
    for (unsigned int round = 0; round < 200; round++) {
        unsigned int order[32];

        srand(round);
        plan_init(&plan, round);
        for (unsigned int i = 0; i < 32; i++) {
            unsigned int other = dice(i + 1);

            order[i] = order[other];
            order[other] = i;
        }
        for (unsigned int i = 0; i < 32; i++) {
            items[order[i]].range = (struct plan_range){1000 + order[i] * 8, 8, round % 2};
            plan_add(&plan, &items[order[i]]);
        }
        for (unsigned int i = 0; i < 32; i++) {
            assert_ptr_equal(plan_before(&items[i]), i > 0 ? &items[i - 1] : NULL);
            assert_ptr_equal(plan_behind(&plan, &items[i]), i < 31 ? &items[i + 1] : NULL);
            plan_gather(&plan, &items[i], 256, alike, &run);
            check_run(&run, &items[i], 256);
            assert_int_equal(run.count, 32);
            plan_gather(&plan, &items[i], 60, alike, &run); /* not a multiple of 8 */
            check_run(&run, &items[i], 60);
            assert_int_equal(run.count, 7);
            plan_gather(&plan, &items[i], 0, alike, &run);
            assert_int_equal(run.count, 1); /* itself it always is */
        }
    }
}

static void test_runs_at_random(void **state)
{
    unsigned int several = 0;

    (void)state;
    srand(77);
    memset(&m, 0, sizeof(m));
    plan_init(&m.plan, 77);
    for (unsigned int step = 0; step < STEPS; step++) {
        unsigned int i = dice(ITEMS);
        struct plan_run run;

        if (m.age[i] == 0) {
            add(i);
        } else if (m.items[i].blockers == 0 && dice(2)) {
            plan_gather(&m.plan, &m.items[i], 40, alike, &run);
            check_run(&run, &m.items[i], 40);
            several += run.count > 1;
        } else {
            remove_one(i);
        }
    }
    assert_true(several > 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_case_either_way_round),
        cmocka_unit_test(test_all_of_a_small_disk_by_definition),
        cmocka_unit_test(test_a_plan_is_a_list_searched),
        cmocka_unit_test(test_a_run_is_found_from_any_of_it),
        cmocka_unit_test(test_runs_at_random),
    };

    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
