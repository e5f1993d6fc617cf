#include "proto/plan.h"

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
