/*
 * slab: page-aligned data buffers, bounded, handed out in power-of-two runs of pages by a buddy
 * allocator whose book-keeping lies outside the pages: a page never used costs no memory. Page
 * alignment is what makes one segment of a frame one grant-copy operation.
 *
 * The memory is a worker's (slab_create), for the reads of its disks; or a disk's kept file
 * (slab_create_over), which is made larger block by block as it is needed (slab_extend).
 *
 * When nothing is left slab_alloc returns NULL and the request waits on its disk's list: back
 * pressure, never a failed request. Belongs to one thread.
 */
#ifndef BLKGATE_GATEWAY_SLAB_H
#define BLKGATE_GATEWAY_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slab;

int slab_create(size_t bytes, struct slab **ret_slab); /* bytes: a multiple of slab_alloc_max */

/* Over page-aligned memory of the caller's, which must outlive it. It has none of it to give until
 * slab_extend. */
int slab_create_over(void *memory, size_t bytes, struct slab **ret_slab);

/* The next slab_alloc_max() bytes may be given from now on: false if there are no more. */
bool slab_extend(struct slab *slab);

/* Takes a certain run, of at least `bytes` from `run` on, as slab_alloc gave it in an earlier life
 * of the memory. False: it cannot have been one. */
bool slab_claim(struct slab *slab, const void *run, size_t bytes);
void slab_destroy(struct slab *slab); /* NULL is fine */

/* The longest run that slab_alloc can give. */
size_t slab_alloc_max(void);

/* A page-aligned run of at least `bytes`, its contents whatever they were; NULL if none is free. */
void *slab_alloc(struct slab *slab, size_t bytes);
void slab_free(struct slab *slab, void *run); /* NULL is fine */

size_t slab_used_bytes(const struct slab *slab);
size_t slab_left_bytes(const struct slab *slab); /* without what slab_extend would bring */

#endif
