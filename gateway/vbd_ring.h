/*
 * vbd_ring: what a frontend asks for when it connects: its ABI, rings and event channels, read
 * from its nodes into a disk_order. Everything in them is the guest's: what is not exactly right is
 * refused, with a reason for the operator.
 */
#ifndef BLKGATE_GATEWAY_VBD_RING_H
#define BLKGATE_GATEWAY_VBD_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/disklink.h"

struct vbd_ring_source {
    /* The value of F/key: 0, -ENOENT, or another -errno. */
    int (*read)(void *arg, const char *key, char *ret_value, size_t bytes);
    void *arg;
    uint32_t queues_offered; /* as the frontend could read it in B; nobody may use more */
    uint32_t order_offered;
};

/* Nodes that say more than the frontend at work has asked for: an earlier one left them. */
struct vbd_ring_shape {
    bool one_queue; /* whatever multi-queue-num-queues says */
    bool one_page;  /* whatever ring-page-order says */
};

/* Nodes as text ("" for none) by which one frontend's are told from another's. */
enum { VBD_RING_TEXT_BYTES = 16 };
struct vbd_ring_trace {
    struct vbd_ring_nodes {
        char event_channel[VBD_RING_TEXT_BYTES];
        char ring_ref[VBD_RING_TEXT_BYTES];  /* of a ring of one page */
        char ring_ref0[VBD_RING_TEXT_BYTES]; /* of a larger one */
    } only, first;                           /* in F itself, and in queue-0 */
};

/* How a frontend was connected. */
struct vbd_ring_past {
    struct vbd_ring_trace trace;
    struct vbd_ring_shape shape;
};

/* How F is to be read now. `before`: the device's last connection; NULL: there was none. 0, or a
 * read's error. */
int vbd_ring_judge(const struct vbd_ring_source *source, const struct vbd_ring_past *before,
                   struct vbd_ring_past *ret_now);

/* Fills abi, queue_count and queue[]. -EPROTO: refused, ret_reason says why; else the read's error:
 * nothing can be said now. */
int vbd_ring_read(const struct vbd_ring_source *source, const struct vbd_ring_shape *shape,
                  struct disk_order *ret_order, char ret_reason[static LIMIT_REASON_BYTES]);

/* Do both name the same rings and channels in the same ABI? */
bool vbd_ring_same(const struct disk_order *one, const struct disk_order *other);

#endif
