/* probe: what the guests of tests/system share. One guest, one disk, one page of data. */
#ifndef PROBE_H
#define PROBE_H

#include "guest.h"

#include <stdio.h>

enum { PROBE_WARM = 4, PROBE_CLOSE_MS = 8000 + 1500 /* LIMIT_CLOSE_MS, and a slow machine */ };

struct probe {
    struct tool_disk disk;
    struct front front;
    uint32_t domid, frame, ref;
    unsigned wrong; /* how much did not hold: the exit status */
};

#define expect(p, condition, ...)                   \
    do {                                            \
        if (!(condition)) {                         \
            fprintf(stderr, "wrong: " __VA_ARGS__); \
            fprintf(stderr, "\n");                  \
            (p)->wrong++;                           \
        }                                           \
    } while (0)

/* Exits with 1 when there can be no guest. */
void probe_start(struct probe *probe);
bool probe_attach(struct probe *probe); /* attaches and connects; false: it is wrong */
struct front_request probe_request(const struct probe *probe, uint8_t op, uint64_t sector);
/* PROBE_WARM writes and as many reads of them, one after the other. */
void probe_io(struct probe *probe, bool may_write);
void probe_reread(struct probe *probe); /* what the last probe_io wrote is there yet */
void probe_flush(struct probe *probe);
void probe_close(struct probe *probe);
void probe_detach(struct probe *probe); /* nothing stays granted or mapped */

#endif
