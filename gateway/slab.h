/*
 * slab: page-aligned data buffers, bounded. A buffer begins as a run of pages from a buddy
 * allocator, whose book-keeping lies outside the pages (a page never used costs no memory); from
 * then on each page lives for itself, for as long as somebody holds it. So several can have their
 * parts of one buffer, even of one page, and each lets go of its own. Page alignment is what makes
 * one segment of a frame one grant-copy operation.
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
void slab_destroy(struct slab *slab); /* NULL is fine */

/* The longest buffer that slab_alloc can give. */
size_t slab_alloc_max(void);

/* Page-aligned, of at least `bytes`, its contents whatever they were; NULL if there is none. The
 * caller holds its pages, once. */
void *slab_alloc(struct slab *slab, size_t bytes);

/* Holds the pages under these bytes once more, and lets go of them: a page that nobody holds is
 * free. */
void slab_hold(struct slab *slab, const void *at, size_t bytes);
void slab_drop(struct slab *slab, const void *at, size_t bytes);

/* Holds pages that were held in an earlier life of the memory, whether they are free or not. False:
 * they are not there. */
bool slab_claim(struct slab *slab, const void *at, size_t bytes);

size_t slab_used_bytes(const struct slab *slab);
size_t slab_left_bytes(const struct slab *slab); /* without what slab_extend would bring */

#endif
