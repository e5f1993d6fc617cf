/* The request that broke a backend in 2005: a guest with 1 KiB file system blocks sent eleven
 * segments of one sector each, eight of them in one frame. The backend took segments for whole
 * consecutive pages. Here: that list, and its permutations, for READ and WRITE. */
#include "load.h"

#include <stdio.h>
#include <string.h>

enum shape { AS_SEEN, DESCENDING, PERMUTED, SWAPPED_FRAMES, REPEATED, SHAPES };

static const char *const shape_names[SHAPES] = {"as seen", "descending", "permuted",
                                                "frames swapped", "one sector repeated"};

/* Eight sectors of one frame, then three of another; entry i of the list for a given shape. */
static void segment_choose(struct load *load, enum shape shape, const unsigned *order, unsigned i,
                           unsigned *ret_frame, unsigned *ret_sector)
{
    unsigned n = i;

    (void)load;
    if (shape == DESCENDING)
        n = GUEST_SEGMENTS_MAX - 1 - i;
    if (shape == PERMUTED)
        n = order[i];
    *ret_frame = n < 8 ? 0 : 1;
    *ret_sector = n % 8;
    if (shape == SWAPPED_FRAMES)
        *ret_frame = !*ret_frame;
    if (shape == REPEATED)
        *ret_sector = i < 8 ? 3 : 5;
}

static void list_make(struct load *load, struct io *io, uint8_t op, enum shape shape)
{
    unsigned order[GUEST_SEGMENTS_MAX], i, j, swap, frame, sector;

    for (i = 0; i < GUEST_SEGMENTS_MAX; i++)
        order[i] = i;
    for (i = GUEST_SEGMENTS_MAX - 1; i > 0; i--) {
        j = load_below(load, i + 1);
        swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    memset(&io->req, 0, sizeof(io->req));
    io->req.op = op;
    io->req.nr_segments = GUEST_SEGMENTS_MAX;
    io->nr_frames = 2;
    io->nr_sectors = GUEST_SEGMENTS_MAX;
    io->req.sector = load_random(load) % (load->options.model_sectors - GUEST_SEGMENTS_MAX + 1);
    for (i = 0; i < GUEST_SEGMENTS_MAX; i++) {
        segment_choose(load, shape, order, i, &frame, &sector);
        io->frame_of[i] = frame;
        io->segments[i].first = io->segments[i].last = (uint8_t)sector;
    }
}

int case2005_run(struct load *load)
{
    uint64_t rounds = load->options.requests ? load->options.requests : 100, round;
    int shape;

    for (shape = 0; shape < SHAPES; shape++) {
        for (round = 0; round < rounds; round++) {
            list_make(load, &load->ios[0], round & 1 ? OP_READ : OP_WRITE, (enum shape)shape);
            if (load_single(load, &load->ios[0]))
                return -1;
        }
        printf("case 2005, %s: %s\n", shape_names[shape], load_held(load) ? "exact" : "WRONG");
        if (!load_held(load))
            return -1;
    }
    return 0;
}
