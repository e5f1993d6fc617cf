#include "gateway/traits.h"

#include <errno.h>
#include <libnbd.h>
#include <stdio.h>

#include "gateway/config.h"
#include "proto/limits.h"

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

static void read_all(const struct disklink_spec *spec, struct nbd_handle *nbd,
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
        .multi_conn = nbd_can_multi_conn(nbd) == 1,
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

int traits_read(const struct disklink_spec *spec, struct nbd_handle *nbd, struct traits *ret_traits,
                char *reason, size_t reason_bytes)
{
    int64_t minimum = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    struct traits traits;

    read_all(spec, nbd, &traits);
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
    if (traits.flush == TARGET_FLUSH_NONE && !spec->config->accept_volatile) {
        snprintf(reason, reason_bytes,
                 "the server can neither flush nor write through (FUA), so no write would be "
                 "safe: enable one of them there, or set accept-volatile = yes");
        return -EINVAL;
    }
    *ret_traits = traits;
    return 0;
}

const char *traits_misfit(const struct traits *told, const struct traits *found)
{
    if (found->properties.capacity_sectors < told->properties.capacity_sectors)
        return "the export has become smaller";
    if (found->properties.readonly != told->properties.readonly)
        return "the export has become read-only, or is no longer";
    if (found->flush != told->flush)
        return "the server does not flush as it did before";
    if (found->properties.discard != told->properties.discard)
        return "the server trims no longer, or does now";
    return NULL;
}
