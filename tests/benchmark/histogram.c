#include "histogram.h"

#include <string.h>

#define LINEAR (1u << HISTOGRAM_LINEAR_BITS)

/* Below LINEAR each number has its own class; above, the highest bits of it say which. */
static unsigned class_of(uint64_t ns)
{
    unsigned shift;

    if (ns < LINEAR)
        return (unsigned)ns;
    shift = 63u - (unsigned)__builtin_clzll(ns) - HISTOGRAM_LINEAR_BITS;
    return ((shift + 1) << HISTOGRAM_LINEAR_BITS) + (unsigned)(ns >> shift) - LINEAR;
}

/* The middle of a class. */
static double middle_ns(unsigned class)
{
    unsigned shift;

    if (class < LINEAR)
        return class;
    shift = (class >> HISTOGRAM_LINEAR_BITS) - 1;
    return (double)((uint64_t)(LINEAR + class % LINEAR) << shift) + (double)(1ull << shift) / 2;
}

void histogram_clear(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

void histogram_add(struct histogram *histogram, uint64_t ns, uint64_t times)
{
    histogram->count += times;
    histogram->classes[class_of(ns)] += times;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
}

double histogram_us(const struct histogram *histogram, double part)
{
    double wanted = part * (double)histogram->count, seen = 0;
    unsigned i;

    for (i = 0; i < HISTOGRAM_CLASSES; i++) {
        seen += (double)histogram->classes[i];
        if (seen > 0 && seen >= wanted)
            return middle_ns(i) / 1000;
    }
    return 0;
}
