#include "gateway/keepdir.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "gateway/log.h"
#include "proto/limits.h"
#include "proto/xenbus.h"

enum { KIND_BYTES = 16, SHOWN_BYTES = 160 };

/* -- the directory --------------------------------------------------------------------------- */

static int make(const char *path)
{
    char part[LIMIT_PATH_BYTES];
    struct stat status;

    if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part - KIND_BYTES - 24)
        return -ENAMETOOLONG;
    for (char *slash = part; slash;) {
        slash = strchr(slash + 1, '/');
        if (slash)
            *slash = '\0';
        if (mkdir(part, 0700) < 0 && errno != EEXIST)
            return -errno;
        if (slash)
            *slash = '/';
    }
    if (stat(path, &status) < 0)
        return -errno;
    return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

int keepdir_prepare(const char *path, char *ret_reason, size_t reason_bytes)
{
    int err = make(path);

    if (err == 0 && access(path, R_OK | W_OK | X_OK) < 0)
        err = -errno;
    if (err < 0)
        snprintf(ret_reason, reason_bytes,
                 "no files can be kept in %s: %s (the key keep of the configuration names it)",
                 path, strerror(-err));
    return err;
}

/* Of the directory, or of what it will be made in. */
static bool find_file_system(const char *path, struct statfs *ret_status)
{
    char part[LIMIT_PATH_BYTES];
    char *slash;

    snprintf(part, sizeof part, "%s", path);
    while (statfs(part, ret_status) < 0) {
        slash = strrchr(part, '/');
        if (errno != ENOENT || !slash || slash == part)
            return false;
        *slash = '\0';
    }
    return true;
}

bool keepdir_fits(const char *path, uint64_t memory_bytes, char *ret_reason, size_t reason_bytes)
{
    struct statfs status;
    uint64_t size_bytes;

    if (!find_file_system(path, &status))
        return true;
    size_bytes = (uint64_t)status.f_blocks * (uint64_t)status.f_bsize;
    if ((uint64_t)status.f_type != TMPFS_MAGIC && (uint64_t)status.f_type != RAMFS_MAGIC) {
        snprintf(
            ret_reason, reason_bytes,
            "keep = %s is not on a tmpfs: what guests write is written there too, at that file "
            "system's pace, and if it fails blkgated dies; it is of no use after a reboot",
            path);
        return false;
    }
    if (size_bytes > 0 && size_bytes < memory_bytes) {
        snprintf(ret_reason, reason_bytes,
                 "memory = %" PRIu64 "M, but keep = %s is on a tmpfs of %" PRIu64 "M, which that "
                 "may fill for all: give it a tmpfs of its own, or set memory lower",
                 memory_bytes >> 20, path, size_bytes >> 20);
        return false;
    }
    return true;
}

/* -- its files ------------------------------------------------------------------------------- */

void keepdir_file(const char *path, const char *kind, uint32_t domid, uint32_t devid,
                  char *ret_file, size_t file_bytes)
{
    (void)snprintf(ret_file, file_bytes, "%s/%s-%" PRIu32 "-%" PRIu32, path, kind, domid, devid);
}

/* Only names that we would give. */
static bool parse(const char *name, char ret_kind[static KIND_BYTES], uint32_t *ret_domid,
                  uint32_t *ret_devid)
{
    char copy[KIND_BYTES + 32], again[KIND_BYTES + 32];
    char *domid, *devid;

    if ((size_t)snprintf(copy, sizeof copy, "%s", name) >= sizeof copy)
        return false;
    domid = strchr(copy, '-');
    devid = domid ? strchr(domid + 1, '-') : NULL;
    if (!devid)
        return false;
    *domid++ = *devid++ = '\0';
    if ((size_t)snprintf(ret_kind, KIND_BYTES, "%s", copy) >= KIND_BYTES ||
        xenbus_parse_u32(domid, XENBUS_DOMID_MAX, ret_domid) < 0 ||
        xenbus_parse_u32(devid, UINT32_MAX, ret_devid) < 0)
        return false;
    snprintf(again, sizeof again, "%s-%" PRIu32 "-%" PRIu32, ret_kind, *ret_domid, *ret_devid);
    return strcmp(again, name) == 0;
}

void keepdir_sweep(const char *path,
                   bool (*is_gone)(void *arg, const char *kind, uint32_t domid, uint32_t devid),
                   void *arg)
{
    char kind[KIND_BYTES], shown[SHOWN_BYTES] = "";
    DIR *directory = opendir(path);
    uint32_t domid, devid;
    unsigned count = 0;
    size_t length = 0;
    struct dirent *entry;

    if (!directory)
        return; /* nothing was ever kept */
    while ((entry = readdir(directory))) {
        if (!parse(entry->d_name, kind, &domid, &devid) || !is_gone(arg, kind, domid, devid) ||
            unlinkat(dirfd(directory), entry->d_name, 0) < 0)
            continue;
        count++;
        if (length < sizeof shown) /* as many as there is room for */
            length += (size_t)snprintf(shown + length, sizeof shown - length, " %s", entry->d_name);
    }
    closedir(directory);
    if (count > 0)
        log_info(NULL, "kept files of %u devices that are gone were removed:%s%s", count, shown,
                 length < sizeof shown ? "" : " ...");
}
