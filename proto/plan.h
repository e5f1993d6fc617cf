/*
 * plan: which of a disk's requests may go to the server now, and which of them together, as one
 * command.
 *
 * The NBD server may execute what it has been sent in any order, and two overlapping commands in
 * flight are undefined (NBD doc/proto.md). The rule, which is acyclic by age and so can neither
 * starve nor deadlock anybody: a request may start when it overlaps none that is older and
 * unfinished, in flight *or still pending*, unless both only read.
 *
 * A plan holds a disk's unfinished requests by place. Each knows how many older ones are in its way
 * (`blockers`): it may start at 0, and the end of the last of them says so. What may start, and
 * lies side by side, makes a run (plan_gather): one command for all of it.
 *
 * It is a treap over the first sectors, with the furthest end of each subtree: adding, removing and
 * finding a neighbour take O(log n), and a step for each request that overlaps. The caller bounds
 * n.
 *
 * Pure: items are the caller's, embedded in its requests.
 */
#ifndef BLKGATE_PROTO_PLAN_H
#define BLKGATE_PROTO_PLAN_H

#include <stdbool.h>
#include <stdint.h>

struct plan_range {
    uint64_t sector;
    uint64_t sector_count; /* 0 overlaps nothing */
    bool writes;           /* WRITE, DISCARD: anything that changes bytes */
};

/* True if the two may be at the server at the same time. */
bool plan_compatible(const struct plan_range *a, const struct plan_range *b);

struct plan_item {
    struct plan_range range; /* the caller's, and fixed while it is in the plan */
    uint32_t blockers;       /* older ones in its way */
    bool planned;            /* it is in the plan */
    bool in_the_way;         /* of younger ones, or it was */
    struct plan_item *next;  /* in the run last gathered */
    /* Private: */
    uint32_t weight;  /* random; no child's is greater */
    uint64_t age;     /* a younger one's is greater */
    uint64_t end_max; /* of its subtree */
    struct plan_item *parent, *left, *right;
};

struct plan {
    struct plan_item *root;
    uint64_t next_age;
    uint32_t count;
    uint32_t dice; /* not 0 */
};

/* `seed`: what a guest cannot guess, so that it cannot choose the shape of the tree. */
void plan_init(struct plan *plan, uint32_t seed);

/* Adds the youngest. Its range is not empty. */
void plan_add(struct plan *plan, struct plan_item *item);

/* It is finished, or given up: `freed` is called for each that had nothing else in its way. It must
 * not change the plan. */
void plan_remove(struct plan *plan, struct plan_item *item,
                 void (*freed)(void *arg, struct plan_item *item), void *arg);

/* The one that ends where it begins, and the one that begins where it ends; NULL: none is known.
 * (Where others overlap there, one may be missed.) */
struct plan_item *plan_before(const struct plan_item *item);
struct plan_item *plan_behind(const struct plan *plan, const struct plan_item *item);

/* Side by side, in the order of their places. */
struct plan_run {
    struct plan_item *first; /* and from there by `next`, to NULL */
    uint32_t count;
    uint64_t sector_count;
    struct plan_item *before, *behind; /* its neighbours, which did not join it; or NULL */
};

/* `item` and what lies side by side with it, as far as `joins` (both may start, and are alike) and
 * max_sectors allow. */
void plan_gather(const struct plan *plan, struct plan_item *item, uint64_t max_sectors,
                 bool (*joins)(const struct plan_item *item, const struct plan_item *other),
                 struct plan_run *ret_run);

#endif
