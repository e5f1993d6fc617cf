#include "proto/plan.h"

#include <assert.h>
#include <stddef.h>

/* By differences, so that no sum can wrap: a range beyond 2^64 counts as ending there. */
static bool overlap(const struct plan_range *a, const struct plan_range *b)
{
    if (a->sector_count == 0 || b->sector_count == 0)
        return false;
    if (a->sector <= b->sector)
        return b->sector - a->sector < a->sector_count;
    return a->sector - b->sector < b->sector_count;
}

bool plan_compatible(const struct plan_range *a, const struct plan_range *b)
{
    return !(a->writes || b->writes) || !overlap(a, b);
}

/* -- the tree -------------------------------------------------------------------------------- */

static uint64_t end_of(const struct plan_range *range)
{
    uint64_t end = range->sector + range->sector_count;

    return end < range->sector ? UINT64_MAX : end;
}

static bool is_left_of(const struct plan_item *a, const struct plan_item *b)
{
    return a->range.sector != b->range.sector ? a->range.sector < b->range.sector : a->age < b->age;
}

/* True if it has changed. */
static bool renew_end(struct plan_item *item)
{
    uint64_t end_max = end_of(&item->range);

    if (item->left && item->left->end_max > end_max)
        end_max = item->left->end_max;
    if (item->right && item->right->end_max > end_max)
        end_max = item->right->end_max;
    if (end_max == item->end_max)
        return false;
    item->end_max = end_max;
    return true;
}

/* Where the tree points to this item. */
static struct plan_item **place_of(struct plan *plan, const struct plan_item *item)
{
    if (!item->parent)
        return &plan->root;
    return item->parent->left == item ? &item->parent->left : &item->parent->right;
}

/* It and its parent change places; the order stays. */
static void rotate_up(struct plan *plan, struct plan_item *item)
{
    struct plan_item *parent = item->parent;
    bool is_left = parent->left == item;
    struct plan_item *inner = is_left ? item->right : item->left;

    *place_of(plan, parent) = item;
    item->parent = parent->parent;
    parent->parent = item;
    if (inner)
        inner->parent = parent;
    if (is_left) {
        parent->left = inner;
        item->right = parent;
    } else {
        parent->right = inner;
        item->left = parent;
    }
    item->end_max = parent->end_max; /* over the same ones as it was */
    renew_end(parent);
}

/* Calls `met` for each item of the subtree that cannot be at the server together with `item`. */
static void each_in_the_way(struct plan_item *root, const struct plan_item *item,
                            void (*met)(void *arg, struct plan_item *other), void *arg)
{
    for (; root && root->end_max > item->range.sector; root = root->right) {
        each_in_the_way(root->left, item, met, arg);
        if (root->range.sector >= end_of(&item->range))
            return;
        if (root != item && !plan_compatible(&root->range, &item->range))
            met(arg, root);
    }
}

/* xorshift, by Marsaglia. */
static uint32_t roll(struct plan *plan)
{
    plan->dice ^= plan->dice << 13;
    plan->dice ^= plan->dice >> 17;
    plan->dice ^= plan->dice << 5;
    return plan->dice;
}

void plan_init(struct plan *plan, uint32_t seed)
{
    *plan = (struct plan){.dice = seed ? seed : 1};
}

static void count_blocker(void *arg, struct plan_item *older)
{
    struct plan_item *item = arg;

    older->in_the_way = true;
    item->blockers++;
}

void plan_add(struct plan *plan, struct plan_item *item)
{
    uint64_t end = end_of(&item->range);
    struct plan_item **place = &plan->root;

    assert(item->range.sector_count > 0);
    *item = (struct plan_item){.range = item->range,
                               .planned = true,
                               .weight = roll(plan),
                               .age = plan->next_age++,
                               .end_max = end};
    each_in_the_way(plan->root, item, count_blocker, item);
    while (*place) {
        item->parent = *place;
        if (item->parent->end_max < end)
            item->parent->end_max = end;
        place = is_left_of(item, item->parent) ? &item->parent->left : &item->parent->right;
    }
    *place = item;
    while (item->parent && item->parent->weight < item->weight)
        rotate_up(plan, item);
    plan->count++;
}

struct removal {
    const struct plan_item *item;
    void (*freed)(void *arg, struct plan_item *item);
    void *arg;
};

static void unblock(void *arg, struct plan_item *other)
{
    const struct removal *removal = arg;

    if (other->age > removal->item->age && --other->blockers == 0)
        removal->freed(removal->arg, other);
}

void plan_remove(struct plan *plan, struct plan_item *item,
                 void (*freed)(void *arg, struct plan_item *item), void *arg)
{
    struct removal removal = {item, freed, arg};

    assert(item->planned);
    while (item->left || item->right)
        rotate_up(plan, !item->right || (item->left && item->left->weight > item->right->weight)
                            ? item->left
                            : item->right);
    *place_of(plan, item) = NULL;
    for (struct plan_item *above = item->parent; above && renew_end(above);)
        above = above->parent;
    item->planned = false;
    plan->count--;
    if (item->in_the_way)
        each_in_the_way(plan->root, item, unblock, &removal);
}

/* -- neighbours ------------------------------------------------------------------------------ */

struct plan_item *plan_before(const struct plan_item *item)
{
    const struct plan_item *at = item;
    struct plan_item *before = item->left;

    while (before && before->right)
        before = before->right;
    if (!before) {
        while (at->parent && at->parent->left == at)
            at = at->parent;
        before = at->parent;
    }
    return before && end_of(&before->range) == item->range.sector ? before : NULL;
}

struct plan_item *plan_behind(const struct plan *plan, const struct plan_item *item)
{
    uint64_t sector = end_of(&item->range);
    struct plan_item *found = NULL;

    for (struct plan_item *at = plan->root; at;) {
        if (at->range.sector == sector)
            found = at;
        at = at->range.sector >= sector ? at->left : at->right;
    }
    return found;
}

void plan_gather(const struct plan *plan, struct plan_item *item, uint64_t max_sectors,
                 bool (*joins)(const struct plan_item *item, const struct plan_item *other),
                 struct plan_run *ret_run)
{
    struct plan_run run = {.first = item, .count = 1, .sector_count = item->range.sector_count};
    struct plan_item *last = item;

    item->next = NULL;
    while ((run.before = plan_before(run.first)) && joins(item, run.before) &&
           run.sector_count + run.before->range.sector_count <= max_sectors) {
        run.before->next = run.first;
        run.first = run.before;
        run.count++;
        run.sector_count += run.first->range.sector_count;
    }
    while ((run.behind = plan_behind(plan, last)) && joins(item, run.behind) &&
           run.sector_count + run.behind->range.sector_count <= max_sectors) {
        last->next = run.behind;
        last = run.behind;
        last->next = NULL;
        run.count++;
        run.sector_count += last->range.sector_count;
    }
    *ret_run = run;
}
