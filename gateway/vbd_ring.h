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

/* Fills abi, queue_count and queue[]. -EPROTO: refused, ret_reason says why; else the read's error:
 * nothing can be said now. */
int vbd_ring_read(const struct vbd_ring_source *source, struct disk_order *ret_order,
                  char ret_reason[static LIMIT_REASON_BYTES]);

/* Do both name the same rings and channels in the same ABI? */
bool vbd_ring_same(const struct disk_order *one, const struct disk_order *other);

#endif
