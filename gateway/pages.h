/*
 * pages: memory straight from the kernel, zero, by whole pages: what is never touched costs
 * nothing. For tables and buffers that are large for the worst case and mostly unused. (malloc
 * gives such blocks out of its arenas, once it has seen larger ones, and then clears them, by
 * touching them.)
 */
#ifndef BLKGATE_GATEWAY_PAGES_H
#define BLKGATE_GATEWAY_PAGES_H

#include <stddef.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define PAGES_OF_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PAGES_OF_MALLOC 1
#endif
#endif

#ifdef PAGES_OF_MALLOC /* so that the sanitizer sees leaks, overruns, and use after the end */

#include <stdlib.h>
#include <string.h>

static inline void *pages_map(size_t bytes)
{
    void *memory = NULL;

    return posix_memalign(&memory, 4096, bytes) == 0 ? memset(memory, 0, bytes) : NULL;
}

static inline void pages_unmap(void *memory, size_t bytes)
{
    (void)bytes;
    free(memory);
}

#else

/* NULL: there is none. */
static inline void *pages_map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static inline void pages_unmap(void *memory, size_t bytes) /* NULL is fine */
{
    if (memory)
        munmap(memory, bytes);
}

#endif

#endif
