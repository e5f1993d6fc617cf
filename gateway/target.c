#include "gateway/target.h"

#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "gateway/config.h"
#include "gateway/resolve.h"
#include "proto/limits.h"

struct target {
    struct ev_loop *loop;
    const struct disklink_spec *spec;
    const struct target_handler *handler;
    void *arg;
    struct resolve *resolve; /* while connecting */
    struct nbdconn *conn;    /* while connected */
    enum target_flush flush;
    struct disk_properties properties;
};

static void on_completed(void *arg, struct nbdcmd *cmd)
{
    struct target *target = arg;

    target->handler->completed(target->arg, cmd);
}

static void on_lost(void *arg, const char *reason)
{
    struct target *target = arg;
    char copy[LIMIT_REASON_BYTES];

    snprintf(copy, sizeof copy, "%s", reason);
    nbdconn_destroy(target->conn);
    target->conn = NULL;
    target->handler->lost(target->arg, copy);
}

static const struct nbdconn_handler conn_handler = {on_completed, on_lost};

static enum target_flush flush_kind(struct nbd_handle *nbd)
{
    if (nbd_can_flush(nbd) == 1)
        return TARGET_FLUSH_COMMAND;
    if (nbd_can_fua(nbd) == 1)
        return TARGET_FLUSH_NEEDLESS;
    return TARGET_FLUSH_NONE;
}

static uint32_t clamp_physical(int64_t preferred_bytes)
{
    if (preferred_bytes < LIMIT_SECTOR_BYTES)
        return LIMIT_SECTOR_BYTES;
    return preferred_bytes > LIMIT_PAGE_BYTES ? LIMIT_PAGE_BYTES : (uint32_t)preferred_bytes;
}

/* Is this server one whose every sector we can serve honestly? Fills in the target. */
static int judge(struct target *target, struct nbd_handle *nbd, char *reason, size_t reason_bytes)
{
    const struct config_disk *config = target->spec->config;
    int64_t size = nbd_get_size(nbd); /* negative from a hostile server: CVE-2023-5215 */
    int64_t minimum = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    int64_t maximum = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);

    target->properties = (struct disk_properties){
        .capacity_sectors = size > 0 ? (uint64_t)size / LIMIT_SECTOR_BYTES : 0,
        .readonly = target->spec->readonly || nbd_is_read_only(nbd) != 0,
        .physical_sector_bytes = clamp_physical(nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED)),
    };
    /* A disk that is never written is as flushed as it can be. */
    target->flush = target->properties.readonly ? TARGET_FLUSH_NEEDLESS : flush_kind(nbd);
    target->properties.flush = target->flush == TARGET_FLUSH_COMMAND;

    if (target->properties.capacity_sectors == 0) {
        snprintf(reason, reason_bytes, "the export is smaller than one sector of 512 bytes");
        return -EINVAL;
    }
    if (minimum > LIMIT_SECTOR_BYTES) {
        snprintf(reason, reason_bytes,
                 "the server's smallest block is %lld bytes, a guest's is 512: put nbdkit's "
                 "blocksize filter (--filter=blocksize) before it",
                 (long long)minimum);
        return -EINVAL;
    }
    if (maximum > 0 && maximum < LIMIT_COMMAND_FLOOR_BYTES) {
        snprintf(reason, reason_bytes,
                 "the server's largest command is %lld bytes, a guest's request may have %d: put "
                 "nbdkit's blocksize filter (--filter=blocksize) before it",
                 (long long)maximum, LIMIT_SEGMENTS_DIRECT * LIMIT_PAGE_BYTES);
        return -EINVAL;
    }
    if (target->flush == TARGET_FLUSH_NONE && !config->accept_volatile) {
        snprintf(reason, reason_bytes,
                 "the server can neither flush nor write through (FUA), so no write would be "
                 "safe: enable one of them there, or set accept-volatile = yes");
        return -EINVAL;
    }
    return 0;
}

/* A dead peer must not look like a slow one for ever; libnbd sets none of these. */
static void keep_alive(struct nbd_handle *nbd)
{
    int fd = nbd_aio_get_fd(nbd), on = 1, idle_s = 10, interval_s = 5, count = 3;

    if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0)
        return;
    /* These fail on unix sockets, which need none of them. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

static void on_resolved(void *arg)
{
    struct target *target = arg;
    struct nbd_handle *nbd = NULL;
    char reason[LIMIT_REASON_BYTES];
    int err;

    err = resolve_finish(target->resolve, &nbd, reason, sizeof reason);
    target->resolve = NULL;
    if (err < 0)
        goto lost;
    err = judge(target, nbd, reason, sizeof reason);
    if (err < 0) {
        nbd_close(nbd);
        goto lost;
    }
    keep_alive(nbd);
    err = nbdconn_create(target->loop, nbd, &conn_handler, target, &target->conn);
    if (err < 0) {
        snprintf(reason, sizeof reason, "out of memory");
        goto lost;
    }
    target->handler->ready(target->arg, &target->properties);
    return;
lost:
    target->handler->lost(target->arg, reason);
}

int target_open(struct ev_loop *loop, struct mailbox *mailbox, const struct disklink_spec *spec,
                const struct target_handler *handler, void *arg, struct target **ret_target)
{
    struct target *target = calloc(1, sizeof *target);
    int err;

    if (!target)
        return -ENOMEM;
    target->loop = loop;
    target->spec = spec;
    target->handler = handler;
    target->arg = arg;
    err = resolve_start(spec->config, spec->connect_timeout_ms, mailbox, on_resolved, target,
                        &target->resolve);
    if (err < 0) {
        free(target);
        return err;
    }
    *ret_target = target;
    return 0;
}

void target_close(struct target *target)
{
    if (!target)
        return;
    resolve_cancel(target->resolve);
    nbdconn_destroy(target->conn);
    free(target);
}

enum target_flush target_flush_kind(const struct target *target)
{
    return target->flush;
}

bool target_has_room(const struct target *target, uint32_t collected)
{
    return target->conn && nbdconn_in_flight(target->conn) + collected < LIMIT_COMMANDS_IN_FLIGHT;
}

int target_read(struct target *target, struct nbdcmd *cmd, void *buffer, uint32_t length_bytes,
                uint64_t offset_bytes)
{
    if (!target->conn)
        return -ENOTCONN;
    return nbdconn_read(target->conn, cmd, buffer, length_bytes, offset_bytes);
}

int target_write(struct target *target, struct nbdcmd *cmd, const void *buffer,
                 uint32_t length_bytes, uint64_t offset_bytes)
{
    if (!target->conn)
        return -ENOTCONN;
    return nbdconn_write(target->conn, cmd, buffer, length_bytes, offset_bytes,
                         target->flush == TARGET_FLUSH_NEEDLESS);
}

int target_flush(struct target *target, struct nbdcmd *cmd)
{
    if (!target->conn)
        return -ENOTCONN;
    return nbdconn_flush(target->conn, cmd);
}

void target_deliver(struct target *target)
{
    if (target->conn)
        nbdconn_deliver(target->conn);
}
