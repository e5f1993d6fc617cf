/*
 * plan: which of a disk's pending requests may go to the server now.
 *
 * The NBD server may execute what it has been sent in any order, and two overlapping commands in
 * flight are undefined (NBD doc/proto.md). The rule, which is acyclic by age and so can neither
 * starve nor deadlock anybody: a request may start when it overlaps none that is older and
 * unfinished, in flight *or still pending*, unless both only read.
 *
 * Pure: ranges in, a verdict out.
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

#endif
