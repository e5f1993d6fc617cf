/*
 * keepdir: the directory of the kept files (keep.h), one for each connected device:
 * KIND-DOMID-DEVID.
 *
 * It belongs on a tmpfs: all that guests write goes through it, nothing in it is worth anything
 * after the host's death, and a store into memory that a tmpfs has given cannot fail.
 */
#ifndef BLKGATE_GATEWAY_KEEPDIR_H
#define BLKGATE_GATEWAY_KEEPDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Makes it if it is missing, with its parents, and sees that files can be made there. -errno and a
 * reason. */
int keepdir_prepare(const char *path, char *ret_reason, size_t reason_bytes);

/* Is it, or will it be, a good place for so much data of writes? False and why not; where nobody
 * can say, true. Changes nothing. */
bool keepdir_fits(const char *path, uint64_t memory_bytes, char *ret_reason, size_t reason_bytes);

void keepdir_file(const char *path, const char *kind, uint32_t domid, uint32_t devid,
                  char *ret_file, size_t file_bytes);

/* Removes the files of devices that is_gone says are gone for good, and logs it. Files of other
 * names are not ours. */
void keepdir_sweep(const char *path,
                   bool (*is_gone)(void *arg, const char *kind, uint32_t domid, uint32_t devid),
                   void *arg);

#endif
