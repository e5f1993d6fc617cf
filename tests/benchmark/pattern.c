#include "pattern.h"

#include <stddef.h>
#include <string.h>

const struct pattern *pattern_find(const char *name)
{
    /* clang-format off */
    static const struct pattern patterns[] = {
        {"4k-randread",   4096,    100, .random = true},
        {"4k-randwrite",  4096,    0,   .random = true},
        {"4k-rw70",       4096,    70,  .random = true},
        {"4k-seqread",    4096,    100},
        {"4k-seqwrite",   4096,    0},
        {"64k-seqread",   65536,   100},
        {"64k-seqwrite",  65536,   0},
        {"1m-seqread",    1048576, 100},
        {"1m-seqwrite",   1048576, 0},
        {"scatter-read",  4096,    100, .scatter = true},
        {"scatter-write", 4096,    0,   .scatter = true},
    };
    /* clang-format on */
    size_t i;

    for (i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
        if (strcmp(patterns[i].name, name) == 0)
            return &patterns[i];
    return NULL;
}

uint64_t walk_random(struct walk *walk)
{
    uint64_t x = walk->random_state;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    walk->random_state = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

uint64_t walk_next(struct walk *walk, const struct pattern *pattern)
{
    uint64_t places = walk->bytes / pattern->bytes, at;

    if (pattern->random)
        return walk->first_byte + (walk_random(walk) >> 16) % places * pattern->bytes;
    at = walk->cursor;
    if (at % pattern->bytes || at / pattern->bytes >= places)
        at = 0;
    walk->cursor = at + pattern->bytes;
    return walk->first_byte + at;
}

bool walk_reads(struct walk *walk, const struct pattern *pattern)
{
    if (pattern->percent_read % 100 == 0)
        return pattern->percent_read > 0;
    return (walk_random(walk) >> 16) % 100 < pattern->percent_read;
}

uint64_t pattern_stamp(uint64_t first_byte)
{
    return (first_byte / PATTERN_BLOCK + 1) * UINT64_C(0x9e3779b97f4a7c15);
}
