#include "gateway/slab.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "proto/limits.h"

enum {
    ORDERS = 10, /* 4 KiB .. 2 MiB */
    TOP = ORDERS - 1,
    NONE = -1,
};

/* The first page of a run carries the run's book-keeping; the others' is unused. */
struct slab_page {
    int32_t next, prev; /* in the free list of its order */
    uint8_t order;
    bool is_free;
    bool is_run; /* handed out, first page */
};

struct slab {
    uint8_t *base;
    size_t bytes;
    size_t used_bytes;
    int32_t free_list[ORDERS];
    struct slab_page *pages;
};

static void free_list_push(struct slab *slab, int32_t index, unsigned order)
{
    struct slab_page *page = &slab->pages[index];

    page->order = (uint8_t)order;
    page->is_free = true;
    page->prev = NONE;
    page->next = slab->free_list[order];
    if (page->next != NONE)
        slab->pages[page->next].prev = index;
    slab->free_list[order] = index;
}

static void free_list_remove(struct slab *slab, int32_t index)
{
    struct slab_page *page = &slab->pages[index];

    if (page->prev != NONE)
        slab->pages[page->prev].next = page->next;
    else
        slab->free_list[page->order] = page->next;
    if (page->next != NONE)
        slab->pages[page->next].prev = page->prev;
    page->is_free = false;
}

int slab_create(size_t bytes, struct slab **ret_slab)
{
    size_t pages = bytes / LIMIT_PAGE_BYTES;
    struct slab *slab = NULL;
    int err = -ENOMEM;

    if (pages == 0 || pages % (1u << TOP) != 0 || pages > INT32_MAX)
        return -EINVAL;
    slab = calloc(1, sizeof *slab);
    if (!slab)
        goto fail;
    slab->bytes = bytes;
    slab->pages = calloc(pages, sizeof *slab->pages);
    if (!slab->pages)
        goto fail;
    slab->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab->base == MAP_FAILED) {
        err = -errno;
        slab->base = NULL;
        goto fail;
    }
    for (unsigned order = 0; order < ORDERS; order++)
        slab->free_list[order] = NONE;
    for (size_t i = pages; i > 0; i -= 1u << TOP)
        free_list_push(slab, (int32_t)(i - (1u << TOP)), TOP);
    *ret_slab = slab;
    return 0;
fail:
    slab_destroy(slab);
    return err;
}

void slab_destroy(struct slab *slab)
{
    if (!slab)
        return;
    if (slab->base)
        munmap(slab->base, slab->bytes);
    free(slab->pages);
    free(slab);
}

size_t slab_alloc_max(void)
{
    return (size_t)LIMIT_PAGE_BYTES << TOP;
}

static unsigned order_of(size_t bytes)
{
    unsigned order = 0;

    while (((size_t)LIMIT_PAGE_BYTES << order) < bytes)
        order++;
    return order;
}

void *slab_alloc(struct slab *slab, size_t bytes)
{
    unsigned want, order;
    int32_t index;

    if (bytes == 0 || bytes > slab_alloc_max())
        return NULL;
    want = order = order_of(bytes);
    while (order < ORDERS && slab->free_list[order] == NONE)
        order++;
    if (order == ORDERS)
        return NULL;
    index = slab->free_list[order];
    free_list_remove(slab, index);
    while (order > want) {
        order--;
        free_list_push(slab, index + (int32_t)(1u << order), order);
    }
    slab->pages[index].order = (uint8_t)want;
    slab->pages[index].is_run = true;
    slab->used_bytes += (size_t)LIMIT_PAGE_BYTES << want;
    return slab->base + (size_t)index * LIMIT_PAGE_BYTES;
}

void slab_free(struct slab *slab, void *run)
{
    int32_t index, buddy;
    unsigned order;

    if (!run)
        return;
    index = (int32_t)((size_t)((uint8_t *)run - slab->base) / LIMIT_PAGE_BYTES);
    assert(slab->pages[index].is_run);
    slab->pages[index].is_run = false;
    order = slab->pages[index].order;
    slab->used_bytes -= (size_t)LIMIT_PAGE_BYTES << order;
    for (; order < TOP; order++) {
        buddy = index ^ (int32_t)(1u << order);
        if (!slab->pages[buddy].is_free || slab->pages[buddy].order != order)
            break;
        free_list_remove(slab, buddy);
        if (buddy < index)
            index = buddy;
    }
    free_list_push(slab, index, order);
}

size_t slab_used_bytes(const struct slab *slab)
{
    return slab->used_bytes;
}

size_t slab_left_bytes(const struct slab *slab)
{
    return slab->bytes - slab->used_bytes;
}
