/* Latencies, counted in log-linear classes: 64 to each power of two, so that a percentile is right
 * to 1.6 %, however many there were. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_LINEAR_BITS 6
#define HISTOGRAM_CLASSES     ((64 - HISTOGRAM_LINEAR_BITS + 1) << HISTOGRAM_LINEAR_BITS)

struct histogram {
    uint64_t count, max_ns;
    uint64_t classes[HISTOGRAM_CLASSES];
};

void histogram_clear(struct histogram *histogram);
/* The same latency, so many times: what was answered together. */
void histogram_add(struct histogram *histogram, uint64_t ns, uint64_t times);
/* The latency that this part of all stay within: 0.5, 0.99, ... 0 if there are none. */
double histogram_us(const struct histogram *histogram, double part);

#endif
