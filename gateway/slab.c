#include "gateway/slab.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "gateway/pages.h"
#include "proto/limits.h"

enum {
    ORDERS = 10, /* 4 KiB .. 2 MiB */
    TOP = ORDERS - 1,
    NONE = -1,
    LOOSE_PAGES = 64, /* as many as one connection has commands in flight */
};

struct slab_page {
    uint16_t holders;
    /* Of the first page of a free run of 2^order: */
    bool is_free;
    uint8_t order;
    int32_t next, prev; /* in the free list of its order */
};

struct slab {
    uint8_t *base;
    bool owns_base;
    size_t bytes;     /* that are, or will be, there to give */
    size_t end_bytes; /* that are */
    size_t used_bytes;
    int32_t free_list[ORDERS];
    struct slab_page *pages;
    /* Single pages that were free, lately: taken apart from a run and put back together again, most
     * 4 KiB buffers would cost twenty list operations. */
    uint32_t loose_count;
    int32_t loose[LOOSE_PAGES];
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
    slab->pages = pages_map(pages * sizeof *slab->pages);
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
    void *memory = pages_map(bytes);
    int err;

    if (!memory)
        return -ENOMEM;
    err = slab_create_over(memory, bytes, ret_slab);
    if (err < 0) {
        pages_unmap(memory, bytes);
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
        pages_unmap(slab->base, slab->bytes);
    pages_unmap(slab->pages, slab->bytes / LIMIT_PAGE_BYTES * sizeof *slab->pages);
    free(slab);
}

size_t slab_alloc_max(void)
{
    return (size_t)LIMIT_PAGE_BYTES << TOP;
}

static uint32_t pages_of(size_t bytes)
{
    return (uint32_t)((bytes + LIMIT_PAGE_BYTES - 1) / LIMIT_PAGE_BYTES);
}

static unsigned order_of(uint32_t pages)
{
    unsigned order = 0;

    while (1u << order < pages)
        order++;
    return order;
}

/* -- free runs -- */

/* Takes the run `index` of order `want` out of the free run `first`. */
static void take(struct slab *slab, int32_t first, int32_t index, unsigned want)
{
    unsigned order = slab->pages[first].order;
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
}

/* Makes a run of 2^order free, with its neighbours if they are. */
static void give_back_run(struct slab *slab, int32_t index, unsigned order)
{
    int32_t buddy;

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

/* Pages index .. end - 1, in as few runs as there are. */
static void give_back(struct slab *slab, int32_t index, int32_t end)
{
    unsigned order;

    if (end - index == 1 && slab->loose_count < LOOSE_PAGES) {
        slab->loose[slab->loose_count++] = index;
        return;
    }
    for (; index < end; index += (int32_t)(1u << order)) {
        order = 0;
        while (order < TOP && index % (int32_t)(2u << order) == 0 &&
               end - index >= (int32_t)(2u << order))
            order++;
        give_back_run(slab, index, order);
    }
}

static void collect_loose(struct slab *slab)
{
    while (slab->loose_count > 0)
        give_back_run(slab, slab->loose[--slab->loose_count], 0);
}

/* NONE: there is no run as long. */
static int32_t take_any(struct slab *slab, unsigned want)
{
    unsigned order = want;
    int32_t index;

    if (want == 0 && slab->loose_count > 0)
        return slab->loose[--slab->loose_count];
    while (order < ORDERS && slab->free_list[order] == NONE)
        order++;
    if (order == ORDERS)
        return NONE;
    index = slab->free_list[order];
    take(slab, index, index, want);
    return index;
}

/* -- pages that somebody holds -- */

void *slab_alloc(struct slab *slab, size_t bytes)
{
    uint32_t pages = pages_of(bytes);
    unsigned want = order_of(pages);
    int32_t index;

    if (bytes == 0 || bytes > slab_alloc_max())
        return NULL;
    index = take_any(slab, want);
    if (index == NONE) {
        collect_loose(slab);
        index = take_any(slab, want);
    }
    if (index == NONE)
        return NULL;
    for (uint32_t i = 0; i < pages; i++)
        slab->pages[(uint32_t)index + i].holders = 1;
    give_back(slab, index + (int32_t)pages, index + (int32_t)(1u << want));
    slab->used_bytes += (size_t)pages * LIMIT_PAGE_BYTES;
    return slab->base + (size_t)index * LIMIT_PAGE_BYTES;
}

struct span {
    int32_t index, end; /* of pages */
};

static struct span span_of(const struct slab *slab, const void *at, size_t bytes)
{
    size_t at_bytes = (size_t)((const uint8_t *)at - slab->base);

    return (struct span){(int32_t)(at_bytes / LIMIT_PAGE_BYTES),
                         (int32_t)pages_of(at_bytes + bytes)};
}

void slab_hold(struct slab *slab, const void *at, size_t bytes)
{
    struct span span = span_of(slab, at, bytes);

    for (int32_t i = span.index; i < span.end; i++) {
        assert(slab->pages[i].holders > 0 && slab->pages[i].holders < UINT16_MAX);
        slab->pages[i].holders++;
    }
}

void slab_drop(struct slab *slab, const void *at, size_t bytes)
{
    struct span span = span_of(slab, at, bytes);
    int32_t unheld = span.index; /* from there to i */

    for (int32_t i = span.index; i < span.end; i++) {
        assert(slab->pages[i].holders > 0);
        if (--slab->pages[i].holders == 0) {
            slab->used_bytes -= LIMIT_PAGE_BYTES;
            continue;
        }
        give_back(slab, unheld, i);
        unheld = i + 1;
    }
    give_back(slab, unheld, span.end);
}

static void claim_page(struct slab *slab, int32_t index)
{
    int32_t first = index;

    if (slab->pages[index].holders++ > 0)
        return;
    for (unsigned order = 0; !slab->pages[first].is_free || slab->pages[first].order != order;) {
        assert(order < TOP);
        order++;
        first = index & ~((1 << order) - 1);
    }
    take(slab, first, index, 0);
    slab->used_bytes += LIMIT_PAGE_BYTES;
}

bool slab_claim(struct slab *slab, const void *at, size_t bytes)
{
    size_t at_bytes = (size_t)((const uint8_t *)at - slab->base);
    struct span span;

    if (bytes == 0 || bytes > slab->end_bytes || at_bytes > slab->end_bytes - bytes)
        return false;
    collect_loose(slab);
    span = span_of(slab, at, bytes);
    for (int32_t i = span.index; i < span.end; i++)
        claim_page(slab, i);
    return true;
}

size_t slab_used_bytes(const struct slab *slab)
{
    return slab->used_bytes;
}

size_t slab_left_bytes(const struct slab *slab)
{
    return slab->end_bytes - slab->used_bytes;
}
