/*
 * grants: a worker's access to guests' memory; the only user of libxengnttab.
 *
 * Rings are mapped; data is only ever copied (law 1: exactly the bytes a segment names; XSA-229:
 * no mapped data page). Copies are collected over a loop turn and made by one call per direction.
 *
 * Rules of gntdev kept here (Linux drivers/xen/gntdev.c):
 *  - the call may return 0 although copies failed: every status is looked at;
 *  - one bad offset fails the whole call: offsets are asserted to lie within the frame, and if a
 *    call fails as a whole all the same, its copies are made one by one, so that only the bad ones
 *    fail (law 4). A copy made twice writes the same bytes twice;
 *  - directions are never mixed in one call: the dirty marking is per batch.
 */
#ifndef BLKGATE_GATEWAY_GRANTS_H
#define BLKGATE_GATEWAY_GRANTS_H

#include <stdint.h>

struct grants;

enum grants_direction { GRANTS_FROM_GUEST, GRANTS_TO_GUEST };

int grants_open(struct grants **ret_grants);
void grants_close(struct grants *grants); /* NULL is fine */

/* Maps `count` frames read-write, contiguously, all or none. */
int grants_map(struct grants *grants, uint32_t domid, const uint32_t *refs, uint32_t count,
               void **ret_memory);
void grants_unmap(struct grants *grants, void *memory, uint32_t count); /* NULL is fine */

/*
 * Adds one copy between bytes [offset, offset + length) of a frame and `local`. When it was made
 * and failed, *error becomes -EFAULT (and else stays as it is); `error` and `local` must live until
 * the next grants_run. A full collection runs at once. What goes on where the last one ended, for
 * the same `error`, is one copy with it.
 */
void grants_copy(struct grants *grants, enum grants_direction direction, uint32_t domid,
                 uint32_t ref, uint32_t offset, void *local, uint32_t length, int *error);

/* Makes all copies collected for a direction: one call. */
void grants_run(struct grants *grants, enum grants_direction direction);

#endif
