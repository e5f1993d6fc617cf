/*
 * store: the bytes of a late server. A file, or memory of its own; what is in the file is durable.
 *
 * If volatile, a write lives in this process's memory until a flush, or until it is itself durable
 * (FUA), brings its 512-byte sectors into the file: a SIGKILL loses exactly what was not flushed.
 * Otherwise the file is written at once, and several processes may serve the same one, coherently.
 * Durable here means that it survives the process; nothing is synced to a disk.
 *
 * Ranges are within the size: the caller has checked. One caller at a time. 0 or -errno.
 */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stdint.h>

struct store;

/* path NULL: memory. size_bytes 0: the file's. A larger file keeps what is behind the size, a
 * smaller one grows. NULL and errno on failure. */
struct store *store_open(const char *path, uint64_t size_bytes, bool is_volatile);
uint64_t store_size_bytes(const struct store *store);
int store_read(struct store *store, uint64_t offset, void *to, uint32_t bytes);
/* from NULL: zeroes. */
int store_write(struct store *store, uint64_t offset, const void *from, uint32_t bytes,
                bool durable);
int store_flush(struct store *store);

#endif
