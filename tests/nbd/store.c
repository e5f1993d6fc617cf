#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512, ZEROES = 1 << 16 };

struct store {
    int fd;
    uint64_t size_bytes;
    uint8_t *cache; /* volatile: all of it */
    uint8_t *dirty; /* a byte for each sector that the file does not have yet */
    uint64_t sectors;
};

static int file_read(int fd, uint64_t offset, uint8_t *to, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t got = pread(fd, to, bytes, (off_t)offset);

        if (got <= 0)
            return got < 0 ? -errno : -EIO;
        to += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

static int file_write(int fd, uint64_t offset, const uint8_t *from, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t put = pwrite(fd, from, bytes, (off_t)offset);

        if (put <= 0)
            return put < 0 ? -errno : -EIO;
        from += put;
        offset += (uint64_t)put;
        bytes -= (uint64_t)put;
    }
    return 0;
}

static int file_zero(int fd, uint64_t offset, uint64_t bytes)
{
    static const uint8_t zeroes[ZEROES];

    while (bytes > 0) {
        uint64_t part = bytes < ZEROES ? bytes : ZEROES;
        int r = file_write(fd, offset, zeroes, part);

        if (r < 0)
            return r;
        offset += part;
        bytes -= part;
    }
    return 0;
}

static int cache_open(struct store *store)
{
    store->sectors = (store->size_bytes + SECTOR - 1) / SECTOR;
    store->cache = malloc(store->size_bytes + 1);
    store->dirty = calloc(store->sectors + 1, 1);
    if (!store->cache || !store->dirty)
        return -ENOMEM;
    return file_read(store->fd, 0, store->cache, store->size_bytes);
}

struct store *store_open(const char *path, uint64_t size_bytes, bool is_volatile)
{
    struct store *store = calloc(1, sizeof(*store));
    struct stat stat;

    if (!store)
        return NULL;
    store->fd =
        path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : memfd_create("late", MFD_CLOEXEC);
    if (store->fd < 0 || fstat(store->fd, &stat) < 0)
        goto fail;
    store->size_bytes = size_bytes ? size_bytes : (uint64_t)stat.st_size;
    if ((uint64_t)stat.st_size < size_bytes && ftruncate(store->fd, (off_t)size_bytes) < 0)
        goto fail;
    if (is_volatile) {
        int r = cache_open(store);

        errno = -r;
        if (r < 0)
            goto fail;
    }
    return store;
fail:
    if (store->fd >= 0)
        close(store->fd);
    free(store->cache);
    free(store->dirty);
    free(store);
    return NULL;
}

uint64_t store_size_bytes(const struct store *store)
{
    return store->size_bytes;
}

int store_read(struct store *store, uint64_t offset, void *to, uint32_t bytes)
{
    if (!store->cache)
        return file_read(store->fd, offset, to, bytes);
    memcpy(to, store->cache + offset, bytes);
    return 0;
}

/* Brings the dirty ones of these sectors into the file, neighbours at once. */
static int clean(struct store *store, uint64_t first, uint64_t end)
{
    uint64_t run_end;

    for (; first < end; first = run_end) {
        uint64_t offset = first * SECTOR, end_byte;
        int r;

        run_end = first + 1;
        if (!store->dirty[first])
            continue;
        while (run_end < end && store->dirty[run_end])
            run_end++;
        end_byte = run_end * SECTOR < store->size_bytes ? run_end * SECTOR : store->size_bytes;
        r = file_write(store->fd, offset, store->cache + offset, end_byte - offset);
        if (r < 0)
            return r;
        memset(store->dirty + first, 0, run_end - first);
    }
    return 0;
}

int store_write(struct store *store, uint64_t offset, const void *from, uint32_t bytes,
                bool durable)
{
    uint64_t first = offset / SECTOR, end = (offset + bytes + SECTOR - 1) / SECTOR;

    if (!store->cache)
        return from ? file_write(store->fd, offset, from, bytes)
                    : file_zero(store->fd, offset, bytes);
    if (from)
        memcpy(store->cache + offset, from, bytes);
    else
        memset(store->cache + offset, 0, bytes);
    memset(store->dirty + first, 1, end - first);
    return durable ? clean(store, first, end) : 0;
}

int store_flush(struct store *store)
{
    return store->cache ? clean(store, 0, store->sectors) : 0;
}
