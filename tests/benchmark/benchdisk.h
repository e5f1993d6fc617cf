/* One guest with one disk under load: what Linux's blkfront makes of an application's I/O, with as
 * little work as there can be. The disk's frames are granted once. See benchguest.c.
 *
 * 1. An I/O is as many ring requests as the backend's limit makes necessary: of 11 segments of a
 *    page, or by INDIRECT of as many as are offered and wanted.
 * 2. I/Os get into the ring in the order in which they were begun. What finds no room waits in
 *    waiting[], and its time counts.
 * 3. What one turn pushes is published together, as Linux does with what it has plugged.
 */
#ifndef BENCHDISK_H
#define BENCHDISK_H

#include "guest.h"
#include "player.h"

#define DISK_FRAMES 8192u /* of data, of all I/Os in flight: 32 MiB */

struct bench_io {
    bool reads;
    uint64_t first_byte, start_ns;
    uint32_t pushed_bytes;
    unsigned unanswered;      /* requests in the ring */
    const uint8_t *scattered; /* the sectors' order in the frame, or NULL */
};

struct bench_disk {
    struct guest *guest;
    struct tool_disk disk;
    struct front front;
    struct walk walk;
    unsigned segments_max; /* of a request */

    uint32_t *frames, *refs;           /* DISK_FRAMES of them, in no order, as of a running guest */
    uint32_t *list_frames, *list_refs; /* of INDIRECT: one for each 12 frames */

    /* Of the run: */
    const struct pattern *pattern;
    unsigned depth, check_every; /* one in so many reads is looked at; 0: none */
    uint64_t nr_begun;
    unsigned in_flight;
    struct bench_io ios[PLAYER_DEPTH_MAX]; /* each has its own frames */
    uint16_t io_of[GUEST_RING_SLOTS];      /* of the request with this shadow */
    unsigned waiting_first, nr_waiting;
    uint16_t waiting[PLAYER_DEPTH_MAX]; /* a ring of I/Os not wholly pushed */
};

struct bench_wish {
    uint32_t domid;
    const char *kind;
    const char *params;   /* the disk's name; NULL: the backend itself makes the nodes */
    int ring_order;       /* -1: as large as is offered */
    unsigned indirect;    /* the most segments of a request, if as many are offered */
    unsigned check_every; /* as above */
};

/* All return 0 or -1 with a line on stderr. */
int bench_disk_create(struct bench_disk *bench, const struct bench_wish *wish);
int bench_disk_connect(struct bench_disk *bench);
int bench_disk_close(struct bench_disk *bench);
void bench_disk_destroy(struct bench_disk *bench);

/* The first I/Os are begun, and those that are answered replaced. */
int bench_disk_start(struct bench_disk *bench, const struct run *run);
/* Takes the answers that are there, and if more are wanted begins as many I/Os. */
int bench_disk_turn(struct bench_disk *bench, bool more, struct outcome *out);

#endif
