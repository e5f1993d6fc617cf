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
    bool owns_base;
    size_t bytes;     /* that are, or will be, there to give */
    size_t end_bytes; /* that are */
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

int slab_create_over(void *memory, size_t bytes, struct slab **ret_slab)
{
    size_t pages = bytes / LIMIT_PAGE_BYTES;
    struct slab *slab = NULL;

    if (pages == 0 || pages % (1u << TOP) != 0 || pages > INT32_MAX)
        return -EINVAL;
    slab = calloc(1, sizeof *slab);
    if (!slab)
        return -ENOMEM;
    slab->pages = calloc(pages, sizeof *slab->pages);
    if (!slab->pages) {
        free(slab);
        return -ENOMEM;
    }
    slab->base = memory;
    slab->bytes = bytes;
    for (unsigned order = 0; order < ORDERS; order++)
        slab->free_list[order] = NONE;
    *ret_slab = slab;
    return 0;
}

bool slab_extend(struct slab *slab)
{
    if (slab->end_bytes == slab->bytes)
        return false;
    free_list_push(slab, (int32_t)(slab->end_bytes / LIMIT_PAGE_BYTES), TOP);
    slab->end_bytes += slab_alloc_max();
    return true;
}

int slab_create(size_t bytes, struct slab **ret_slab)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int err;

    if (memory == MAP_FAILED)
        return -errno;
    err = slab_create_over(memory, bytes, ret_slab);
    if (err < 0) {
        munmap(memory, bytes);
        return err;
    }
    (*ret_slab)->owns_base = true;
    while (slab_extend(*ret_slab))
        continue;
    return 0;
}

void slab_destroy(struct slab *slab)
{
    if (!slab)
        return;
    if (slab->owns_base)
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

/* Splits the free run `first` of `order` until the run `index` of order `want` is left over. */
static void hand_out(struct slab *slab, int32_t first, int32_t index, unsigned order, unsigned want)
{
    int32_t half;

    free_list_remove(slab, first);
    while (order > want) {
        half = (int32_t)(1u << --order);
        if (index & half) {
            free_list_push(slab, first, order);
            first += half;
        } else {
            free_list_push(slab, first + half, order);
        }
    }
    slab->pages[index].order = (uint8_t)want;
    slab->pages[index].is_run = true;
    slab->used_bytes += (size_t)LIMIT_PAGE_BYTES << want;
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
    hand_out(slab, index, index, order, want);
    return slab->base + (size_t)index * LIMIT_PAGE_BYTES;
}

bool slab_claim(struct slab *slab, const void *run, size_t bytes)
{
    size_t at_bytes = (size_t)((const uint8_t *)run - slab->base);
    int32_t index = (int32_t)(at_bytes / LIMIT_PAGE_BYTES), first;

    if (bytes == 0 || bytes > slab_alloc_max() || at_bytes % LIMIT_PAGE_BYTES != 0 ||
        at_bytes + bytes > slab->end_bytes || index % (1 << order_of(bytes)) != 0)
        return false;
    for (unsigned order = order_of(bytes); order < ORDERS; order++) {
        first = index & ~((1 << order) - 1);
        if (slab->pages[first].is_free && slab->pages[first].order == order) {
            hand_out(slab, first, index, order, order_of(bytes));
            return true;
        }
    }
    return false;
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
    return slab->end_bytes - slab->used_bytes;
}
