/* The toolstack's hand: a disk's nodes as libxl 4.17 creates, unplugs and destroys them. */
#include "guest.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#define POLL_NS 2000000

void tool_adopt(struct tool_disk *disk)
{
    uint32_t domid = disk->guest->domid;

    if (!disk->vdev)
        disk->vdev = "xvda";
    snprintf(disk->backend, sizeof(disk->backend), "/local/domain/%u/backend/%s/%u/%u",
             disk->backend_domid, disk->kind, domid, disk->devid);
    snprintf(disk->frontend, sizeof(disk->frontend), "/local/domain/%u/device/vbd/%u", domid,
             disk->devid);
    snprintf(disk->libxl, sizeof(disk->libxl), "/libxl/%u/device/vbd/%u", domid, disk->devid);
}

static int dir_make(struct tool_disk *disk, xs_transaction_t t, const char *dir, uint32_t owner,
                    uint32_t reader)
{
    struct xs_permissions perms[2] = {{.id = owner, .perms = XS_PERM_NONE},
                                      {.id = reader, .perms = XS_PERM_READ}};
    struct xs_handle *xs = disk->guest->xs;

    xs_rm(xs, t, dir);
    if (xs_mkdir(xs, t, dir) && xs_set_permissions(xs, t, dir, perms, owner == reader ? 1 : 2))
        return 0;
    fprintf(stderr, "guest %u: cannot make %s: %s\n", disk->guest->domid, dir, strerror(errno));
    return -1;
}

static int backend_nodes(struct tool_disk *disk, xs_transaction_t t, const char *dir)
{
    bool qdisk = strcmp(disk->kind, "qdisk") == 0, vbd3 = strcmp(disk->kind, "vbd3") == 0;
    const char *type = qdisk ? "qdisk" : vbd3 ? "tap" : "phy";
    struct guest *g = disk->guest;
    int err = 0;

    err |= guest_xs_write(g, t, dir, "frontend", "%s", disk->frontend);
    err |= guest_xs_write(g, t, dir, "params", "%s%s", qdisk || vbd3 ? "aio:" : "", disk->params);
    if (disk->script)
        err |= guest_xs_write(g, t, dir, "script", "%s", disk->script);
    err |= guest_xs_write(g, t, dir, "frontend-id", "%u", g->domid);
    err |= guest_xs_write(g, t, dir, "online", "1");
    err |= guest_xs_write(g, t, dir, "removable", "0");
    err |= guest_xs_write(g, t, dir, "bootable", "1");
    err |= guest_xs_write(g, t, dir, "state", "1");
    err |= guest_xs_write(g, t, dir, "dev", "%s", disk->vdev);
    err |= guest_xs_write(g, t, dir, "type", "%s", type);
    err |= guest_xs_write(g, t, dir, "mode", "%s", disk->readonly ? "r" : "w");
    err |= guest_xs_write(g, t, dir, "device-type", "disk");
    err |= guest_xs_write(g, t, dir, "discard-enable", "1");
    err |= guest_xs_write(g, t, dir, "specification", "xen");
    return err ? -1 : 0;
}

static int frontend_nodes(struct tool_disk *disk, xs_transaction_t t)
{
    struct guest *g = disk->guest;
    const char *dir = disk->frontend;
    int err = 0;

    err |= guest_xs_write(g, t, dir, "backend", "%s", disk->backend);
    err |= guest_xs_write(g, t, dir, "backend-id", "%u", disk->backend_domid);
    err |= guest_xs_write(g, t, dir, "state", "1");
    err |= guest_xs_write(g, t, dir, "virtual-device", "%u", disk->devid);
    err |= guest_xs_write(g, t, dir, "device-type", "disk");
    err |= guest_xs_write(g, t, dir, "trusted", "1");
    return err ? -1 : 0;
}

int tool_attach(struct tool_disk *disk)
{
    struct guest *g = disk->guest;
    xs_transaction_t t;
    int err;

    tool_adopt(disk);
    do {
        t = xs_transaction_start(g->xs);
        err = dir_make(disk, t, disk->libxl, 0, 0);
        err |= backend_nodes(disk, t, disk->libxl);
        err |= guest_xs_write(g, t, disk->libxl, "backend", "%s", disk->backend);
        err |= dir_make(disk, t, disk->frontend, g->domid, disk->backend_domid);
        err |= frontend_nodes(disk, t);
        err |= dir_make(disk, t, disk->backend, disk->backend_domid, g->domid);
        err |= backend_nodes(disk, t, disk->backend);
        if (err) {
            xs_transaction_end(g->xs, t, true);
            return -1;
        }
    } while (!xs_transaction_end(g->xs, t, false) && errno == EAGAIN);
    return 0;
}

int tool_hotplug_done(struct tool_disk *disk)
{
    return guest_xs_write(disk->guest, XBT_NULL, disk->backend, "hotplug-status", "connected");
}

/* With the environment that libxl gives a script in domain 0. */
int tool_hotplug_run(struct tool_disk *disk, const char *action)
{
    extern char **environ;
    char *argv[] = {(char *)(uintptr_t)disk->script, (char *)(uintptr_t)action, NULL};
    pid_t pid;
    int status;

    setenv("script", disk->script, 1);
    setenv("XENBUS_TYPE", disk->kind, 1);
    setenv("XENBUS_PATH", disk->backend + strlen("/local/domain/0/"), 1);
    setenv("XENBUS_BASE_PATH", "backend", 1);
    if (posix_spawn(&pid, disk->script, NULL, NULL, argv, environ) ||
        waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "guest %u: %s %s failed\n", disk->guest->domid, disk->script, action);
        return -1;
    }
    return 0;
}

/* One transaction; `force` is libxl's LIBXL__FORCE_ON, which takes the frontend away at once. */
static int close_ask(struct tool_disk *disk, bool force)
{
    struct guest *g = disk->guest;
    xs_transaction_t t;
    int err = 0, state;

    do {
        t = xs_transaction_start(g->xs);
        if (force)
            xs_rm(g->xs, t, disk->frontend);
        state = tool_state(disk);
        if (state != STATE_UNKNOWN)
            err |= guest_xs_write(g, t, disk->backend, "online", "0");
        if (state != STATE_UNKNOWN && state != STATE_CLOSED)
            err |= guest_xs_write(g, t, disk->backend, "state", "5");
    } while (!xs_transaction_end(g->xs, t, err != 0) && errno == EAGAIN);
    return err ? -1 : 0;
}

int tool_unplug(struct tool_disk *disk)
{
    return close_ask(disk, false);
}

int tool_destroy(struct tool_disk *disk)
{
    return close_ask(disk, true);
}

/* With the parents that are empty then, as libxl__xs_path_cleanup. */
static void path_cleanup(struct xs_handle *xs, const char *path)
{
    xs_transaction_t t;
    unsigned children;
    char left[160], *slash;

    do {
        t = xs_transaction_start(xs);
        xs_rm(xs, t, path);
        snprintf(left, sizeof(left), "%s", path);
        while ((slash = strrchr(left, '/')) && slash != left) {
            char **names;

            *slash = '\0';
            names = xs_directory(xs, t, left, &children);
            free(names);
            if (!names || children > 0)
                break;
            xs_rm(xs, t, left);
        }
    } while (!xs_transaction_end(xs, t, false) && errno == EAGAIN);
}

int tool_remove(struct tool_disk *disk)
{
    path_cleanup(disk->guest->xs, disk->frontend);
    path_cleanup(disk->guest->xs, disk->backend);
    path_cleanup(disk->guest->xs, disk->libxl);
    return 0;
}

int tool_state(struct tool_disk *disk)
{
    return (int)guest_xs_read_number(disk->guest, disk->backend, "state", STATE_UNKNOWN);
}

int tool_wait_state(struct tool_disk *disk, int state, int timeout_ms)
{
    struct timespec nap = {.tv_nsec = POLL_NS};
    int64_t deadline_ms = guest_clock_ms() + timeout_ms;

    while (tool_state(disk) != state) {
        if (guest_clock_ms() > deadline_ms) {
            fprintf(stderr, "guest %u: %s is in state %d and not %d after %d ms\n",
                    disk->guest->domid, disk->backend, tool_state(disk), state, timeout_ms);
            return -1;
        }
        nanosleep(&nap, NULL);
    }
    return 0;
}
