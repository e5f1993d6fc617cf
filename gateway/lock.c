#include "gateway/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* mkdir -p of all but the last part of `path`. */
static int make_parents(const char *path)
{
    char *copy = strdup(path);
    int error = 0;

    if (!copy)
        return -ENOMEM;
    for (char *slash = copy + strspn(copy, "/"); (slash = strchr(slash, '/')) && error == 0;) {
        *slash = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            error = -errno;
        *slash = '/';
        slash += strspn(slash, "/");
    }
    free(copy);
    return error;
}

/* The holder wrote its pid into the file; only for the message, so anything odd is left out. */
static void describe_holder(int fd, const char *path, char *ret_reason, size_t reason_bytes)
{
    char text[16] = "";
    long pid = 0;

    if (pread(fd, text, sizeof(text) - 1, 0) > 0)
        pid = strtol(text, NULL, 10);
    if (pid > 0)
        snprintf(ret_reason, reason_bytes,
                 "process %ld holds %s and only one blkgated may run: stop that one first "
                 "(systemctl stop blkgated)",
                 pid, path);
    else
        snprintf(ret_reason, reason_bytes,
                 "another process holds %s and only one blkgated may run: stop that one first "
                 "(systemctl stop blkgated)",
                 path);
}

static int write_pid(int fd)
{
    char text[16];
    const int length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

    if (ftruncate(fd, 0) < 0)
        return -errno;
    if (pwrite(fd, text, (size_t)length, 0) != length)
        return -EIO;
    return 0;
}

int lock_take(const char *path, char *ret_reason, size_t reason_bytes, int *ret_fd)
{
    int error = make_parents(path);
    int fd = -1;

    if (error < 0) {
        snprintf(ret_reason, reason_bytes, "the directory of %s cannot be made: %s", path,
                 strerror(-error));
        return error;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        error = -errno;
        snprintf(ret_reason, reason_bytes, "%s cannot be opened: %s", path, strerror(-error));
        return error;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        error = -errno;
        if (error == -EWOULDBLOCK)
            describe_holder(fd, path, ret_reason, reason_bytes);
        else
            snprintf(ret_reason, reason_bytes, "%s cannot be locked: %s", path, strerror(-error));
        goto fail;
    }
    error = write_pid(fd);
    if (error < 0) {
        snprintf(ret_reason, reason_bytes, "%s cannot be written: %s", path, strerror(-error));
        goto fail;
    }
    *ret_fd = fd;
    return 0;

fail:
    close(fd);
    return error;
}
