/* What an application asks of a disk: one I/O after the other, each as long as its pattern says. */
#ifndef PATTERN_H
#define PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#define PATTERN_BLOCK     4096u      /* the smallest I/O; each block has a stamp */
#define PATTERN_BYTES_MAX (1u << 20) /* the longest */

struct pattern {
    const char *name;
    uint32_t bytes; /* of an I/O */
    unsigned percent_read;
    bool random;
    bool scatter; /* eight permuted segments of one sector each, as of a 512-byte file system */
};

const struct pattern *pattern_find(const char *name); /* NULL: there is none of that name */

/* Where a pattern is on its part of a disk. */
struct walk {
    uint64_t first_byte, bytes;
    uint64_t cursor, random_state; /* of the next; must not be 0 */
};

uint64_t walk_random(struct walk *walk);
uint64_t walk_next(struct walk *walk, const struct pattern *pattern); /* the I/O's first byte */
bool walk_reads(struct walk *walk, const struct pattern *pattern);

/* What a block's first eight bytes hold, so that what was read can be checked in passing. */
uint64_t pattern_stamp(uint64_t first_byte);

#endif
