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

/* What a server says of an export, as far as it matters to us. */
struct traits {
    enum target_flush flush;
    uint32_t command_max_bytes;
    uint32_t trim_max_bytes;
    struct disk_properties properties;
};

struct target {
    struct ev_loop *loop;
    struct mailbox *mailbox;
    const struct disklink_spec *spec;
    const struct target_handler *handler;
    void *arg;
    struct resolve *resolve; /* while connecting */
    struct nbdconn *conn;    /* while connected */
    struct traits traits;
    struct resolve *probe;   /* while a probe connects */
    struct nbd_handle *next; /* a probe's connection, until the switch */
    struct traits next_traits;
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

/* The largest power of two within [low, high] that is not above `bytes`; low if there is none. */
static uint32_t clamp_power(int64_t bytes, uint32_t low, uint32_t high)
{
    uint32_t power = low;

    while (power < high && (int64_t)power * 2 <= bytes)
        power *= 2;
    return power;
}

static void read_traits(const struct disklink_spec *spec, struct nbd_handle *nbd,
                        struct traits *traits)
{
    int64_t size = nbd_get_size(nbd); /* negative from a hostile server: CVE-2023-5215 */
    int64_t preferred = nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED);
    int64_t maximum = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);
    bool readonly = spec->readonly || nbd_is_read_only(nbd) != 0;

    *traits = (struct traits){
        /* A disk that is never written is as flushed as it can be. */
        .flush = readonly ? TARGET_FLUSH_NEEDLESS : flush_kind(nbd),
        .command_max_bytes = LIMIT_COMMAND_BYTES,
        .trim_max_bytes = LIMIT_TRIM_BYTES,
        .properties =
            {
                .capacity_sectors = size > 0 ? (uint64_t)size / LIMIT_SECTOR_BYTES : 0,
                .readonly = readonly,
                .discard = !readonly && nbd_can_trim(nbd) == 1,
                .physical_sector_bytes =
                    clamp_power(preferred, LIMIT_SECTOR_BYTES, LIMIT_PAGE_BYTES),
                .discard_granularity_bytes =
                    clamp_power(preferred, LIMIT_SECTOR_BYTES, LIMIT_GRANULARITY_BYTES),
            },
    };
    traits->properties.flush = traits->flush == TARGET_FLUSH_COMMAND;
    if (maximum > 0 && maximum < LIMIT_COMMAND_BYTES)
        traits->command_max_bytes =
            (uint32_t)maximum / LIMIT_SECTOR_BYTES * (uint32_t)LIMIT_SECTOR_BYTES;
}

/* Is this server one whose every sector we can serve honestly? */
static int judge(const struct target *target, struct nbd_handle *nbd, struct traits *ret_traits,
                 char *reason, size_t reason_bytes)
{
    int64_t minimum = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    struct traits traits;

    read_traits(target->spec, nbd, &traits);
    if (traits.properties.capacity_sectors == 0) {
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
    if (traits.command_max_bytes < LIMIT_COMMAND_FLOOR_BYTES) {
        snprintf(reason, reason_bytes,
                 "the server's largest command is %u bytes, less than a page: put nbdkit's "
                 "blocksize filter (--filter=blocksize) before it",
                 traits.command_max_bytes);
        return -EINVAL;
    }
    if (traits.flush == TARGET_FLUSH_NONE && !target->spec->config->accept_volatile) {
        snprintf(reason, reason_bytes,
                 "the server can neither flush nor write through (FUA), so no write would be "
                 "safe: enable one of them there, or set accept-volatile = yes");
        return -EINVAL;
    }
    *ret_traits = traits;
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
    err = judge(target, nbd, &target->traits, reason, sizeof reason);
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
    target->handler->ready(target->arg, &target->traits.properties);
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
    target->mailbox = mailbox;
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
    target_probe_drop(target);
    nbdconn_destroy(target->conn);
    free(target);
}

const struct disk_properties *target_properties(const struct target *target)
{
    return &target->traits.properties;
}

enum target_flush target_flush_kind(const struct target *target)
{
    return target->traits.flush;
}

bool target_has_room(const struct target *target, uint32_t collected)
{
    return target->conn && nbdconn_in_flight(target->conn) + collected < LIMIT_COMMANDS_IN_FLIGHT;
}

uint32_t target_command_max_bytes(const struct target *target, bool trim)
{
    return trim ? target->traits.trim_max_bytes : target->traits.command_max_bytes;
}

void target_learn_max(struct target *target, bool trim, uint32_t length_bytes)
{
    uint32_t *max_bytes = trim ? &target->traits.trim_max_bytes : &target->traits.command_max_bytes;

    if (length_bytes < *max_bytes)
        *max_bytes = length_bytes;
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
                         target->traits.flush == TARGET_FLUSH_NEEDLESS);
}

int target_trim(struct target *target, struct nbdcmd *cmd, uint32_t length_bytes,
                uint64_t offset_bytes)
{
    if (!target->conn)
        return -ENOTCONN;
    return nbdconn_trim(target->conn, cmd, length_bytes, offset_bytes);
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

/* As judge, for a connection that is to take another one's place: what the disk made of that one's
 * way to be durable (law 6) must go on to hold. */
static int judge_next(const struct target *target, struct nbd_handle *nbd,
                      struct traits *ret_traits, char *reason, size_t reason_bytes)
{
    int err = judge(target, nbd, ret_traits, reason, reason_bytes);

    if (err == 0 && ret_traits->flush != target->traits.flush) {
        snprintf(reason, reason_bytes,
                 "the export flushes, or writes through (FUA), otherwise than before: the disk "
                 "stays as it is");
        err = -EINVAL;
    }
    return err;
}

static void on_probed(void *arg)
{
    struct target *target = arg;
    struct nbd_handle *nbd = NULL;
    char reason[LIMIT_REASON_BYTES] = "";
    int err;

    err = resolve_finish(target->probe, &nbd, reason, sizeof reason);
    target->probe = NULL;
    if (err == 0) {
        err = judge_next(target, nbd, &target->next_traits, reason, sizeof reason);
        if (err < 0)
            nbd_close(nbd);
        else
            target->next = nbd;
    }
    target->handler->probed(target->arg, err < 0 ? NULL : &target->next_traits.properties, reason);
}

int target_probe(struct target *target)
{
    if (target->probe)
        return -EALREADY;
    target_probe_drop(target);
    return resolve_start(target->spec->config, target->spec->connect_timeout_ms, target->mailbox,
                         on_probed, target, &target->probe);
}

void target_probe_drop(struct target *target)
{
    resolve_cancel(target->probe);
    target->probe = NULL;
    nbd_close(target->next);
    target->next = NULL;
}

void target_switch(struct target *target)
{
    struct nbd_handle *nbd = target->next;

    nbdconn_destroy(target->conn);
    target->conn = NULL;
    target->next = NULL;
    target->traits = target->next_traits;
    keep_alive(nbd);
    if (nbdconn_create(target->loop, nbd, &conn_handler, target, &target->conn) < 0)
        target->handler->lost(target->arg, "out of memory");
}
