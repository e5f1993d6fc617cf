/*
 * slab: page-aligned data buffers, bounded, for the requests of one worker.
 *
 * One anonymous mapping of a fixed size, handed out in power-of-two runs of pages by a buddy
 * allocator whose book-keeping lies outside the pages: a page never used costs no memory. Page
 * alignment is what makes one segment of a frame one grant-copy operation.
 *
 * When nothing is left slab_alloc returns NULL and the request waits on its disk's list: back
 * pressure, never a failed request. Belongs to one thread.
 */
#ifndef BLKGATE_GATEWAY_SLAB_H
#define BLKGATE_GATEWAY_SLAB_H

#include <stddef.h>
#include <stdint.h>

struct slab;

int slab_create(size_t bytes, struct slab **ret_slab); /* bytes: a multiple of 2 MiB */
void slab_destroy(struct slab *slab);                  /* NULL is fine */

/* The longest run that slab_alloc can give. */
size_t slab_alloc_max(void);

/* A page-aligned run of at least `bytes`, its contents whatever they were; NULL if none is free. */
void *slab_alloc(struct slab *slab, size_t bytes);
void slab_free(struct slab *slab, void *run); /* NULL is fine */

size_t slab_used_bytes(const struct slab *slab);
size_t slab_left_bytes(const struct slab *slab);

#endif
