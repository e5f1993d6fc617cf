/*
 * lock: one daemon only. Two of them on one disk would answer the same requests twice, so the
 * lock is taken before anything else is touched and held for life; the kernel gives it back
 * however the daemon ends. The file stays: removing it would let a third daemon lock a new one.
 */
#ifndef BLKGATE_GATEWAY_LOCK_H
#define BLKGATE_GATEWAY_LOCK_H

#include <stddef.h>

/* Makes the file's directory (0700) where it is missing. -EWOULDBLOCK if another process holds
 * the lock, else -errno; ret_reason then says what stands in the way and what to do. The lock
 * ends when *ret_fd is closed. */
int lock_take(const char *path, char *ret_reason, size_t reason_bytes, int *ret_fd);

#endif
