/*
 * traits: what a server says of an export, as far as it matters to us, and whether it will do.
 *
 * What "flush" means here (law 6): with SEND_FLUSH a flush is the server's. Without it but with
 * SEND_FUA every write carries FUA, so an answered write is durable and a flush has nothing to do.
 * With neither the export is refused unless the config accepts a volatile server; then flushes are
 * not offered at all.
 *
 * Refused, with a reason that says what to do: an export smaller than a sector, a minimum block
 * above 512 (sectors would be lost), a maximum below LIMIT_COMMAND_FLOOR_BYTES, a writable disk on
 * a server that is volatile.
 */
#ifndef BLKGATE_GATEWAY_TRAITS_H
#define BLKGATE_GATEWAY_TRAITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/disklink.h"

struct nbd_handle;

enum target_flush {
    TARGET_FLUSH_NONE,     /* volatile: not offered */
    TARGET_FLUSH_COMMAND,  /* a flush is a command */
    TARGET_FLUSH_NEEDLESS, /* every write was durable when it completed */
};

struct traits {
    enum target_flush flush;
    uint32_t command_max_bytes;
    uint32_t trim_max_bytes;
    bool multi_conn; /* several connections see one another's writes, and flush them */
    struct disk_properties properties;
};

/* Is this server one whose every sector we can serve honestly? -EINVAL and a reason that says what
 * to do. The handle is READY. */
int traits_read(const struct disklink_spec *spec, struct nbd_handle *nbd, struct traits *ret_traits,
                char *ret_reason, size_t reason_bytes);

/* May it take the place of one that a guest was told of? NULL, or why not: only the capacity may
 * differ, and only upwards. */
const char *traits_misfit(const struct traits *told, const struct traits *found);

#endif
