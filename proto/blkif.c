#include "proto/blkif.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Every Xen port is little-endian, and so is its wire: fields are loaded as they lie. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blkif is little-endian");

enum {
    /* The same in every ABI. */
    AT_OPERATION = 0,
    AT_NR_SEGMENTS = 1,          /* u8; READ, WRITE, and what is like them */
    AT_DISCARD_FLAG = 1,         /* u8 */
    AT_INDIRECT_OP = 1,          /* u8 */
    AT_INDIRECT_NR_SEGMENTS = 2, /* u16 */

    INDIRECT_GREFS_AT_REST = 4, /* behind the handle and its padding */

    SEG_BYTES = LIMIT_SEGMENT_BYTES,
    SEG_AT_GREF = 0,
    SEG_AT_FIRST = 4,
    SEG_AT_LAST = 5,

    RSP_AT_ID = 0,
    RSP_AT_OPERATION = 8,
    RSP_AT_STATUS = 10,
};

/* What the alignment of 64-bit members moves. */
static const struct layout {
    const char *name;
    uint8_t slot_bytes;
    uint8_t at_id;
    uint8_t at_sector;
    uint8_t at_rest; /* seg[], nr_sectors of DISCARD, handle of INDIRECT */
} layouts[] = {
    [BLKIF_ABI_X86_64] = {"x86_64-abi", 112, 8, 16, 24},
    [BLKIF_ABI_X86_32] = {"x86_32-abi", 108, 4, 12, 20},
    [BLKIF_ABI_ARM] = {"arm-abi", 112, 8, 16, 24},
};

enum { ABI_COUNT = sizeof(layouts) / sizeof(layouts[0]) };

static uint16_t load16(const uint8_t *at)
{
    uint16_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static uint32_t load32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static uint64_t load64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

int blkif_abi_parse(const char *protocol, enum blkif_abi *ret_abi)
{
    if (!protocol) {
#if defined(__x86_64__) || defined(__i386__)
        *ret_abi = BLKIF_ABI_X86_32;
#else
        *ret_abi = BLKIF_ABI_ARM;
#endif
        return 0;
    }
    for (unsigned int abi = 0; abi < ABI_COUNT; abi++) {
        if (strcmp(protocol, layouts[abi].name) == 0) {
            *ret_abi = (enum blkif_abi)abi;
            return 0;
        }
    }
    return -EINVAL;
}

const char *blkif_abi_name(enum blkif_abi abi)
{
    return layouts[abi].name;
}

uint32_t blkif_slot_bytes(enum blkif_abi abi)
{
    return layouts[abi].slot_bytes;
}

/* In place is allowed: a segment is read whole before it is written where it was read. */
_Static_assert(sizeof(struct blkif_seg) == SEG_BYTES, "descriptors are decoded in place");

void blkif_segs_decode(const uint8_t *bytes, uint16_t count, struct blkif_seg *segs)
{
    for (uint16_t i = 0; i < count; i++) {
        const uint8_t *at = bytes + (size_t)i * SEG_BYTES;
        struct blkif_seg seg = {load32(at + SEG_AT_GREF), at[SEG_AT_FIRST], at[SEG_AT_LAST]};

        segs[i] = seg;
    }
}

void blkif_req_decode(enum blkif_abi abi, const uint8_t slot[static LIMIT_SLOT_BYTES],
                      struct blkif_req *ret_req)
{
    const struct layout *layout = &layouts[abi];
    uint8_t op = slot[AT_OPERATION];

    *ret_req = (struct blkif_req){
        .id = load64(slot + layout->at_id),
        .sector = load64(slot + layout->at_sector),
        .op = op,
        .answer_op = op,
    };
    switch (op) {
    case BLKIF_DISCARD:
        ret_req->flag = slot[AT_DISCARD_FLAG];
        ret_req->sector_count = load64(slot + layout->at_rest);
        break;
    case BLKIF_INDIRECT:
        /* Linux disables a disk for good whose response carries INDIRECT itself. */
        ret_req->indirect = true;
        ret_req->op = ret_req->answer_op = slot[AT_INDIRECT_OP];
        ret_req->segment_count = load16(slot + AT_INDIRECT_NR_SEGMENTS);
        ret_req->indirect_ref = load32(slot + layout->at_rest + INDIRECT_GREFS_AT_REST);
        break;
    default:
        ret_req->segment_count = slot[AT_NR_SEGMENTS];
        blkif_segs_decode(slot + layout->at_rest,
                          ret_req->segment_count < LIMIT_SEGMENTS_DIRECT ? ret_req->segment_count
                                                                         : LIMIT_SEGMENTS_DIRECT,
                          ret_req->seg);
    }
}

static bool in_range(uint64_t sector, uint64_t sector_count, const struct blkif_limits *limits)
{
    /* By differences: sector + sector_count may wrap. */
    return sector_count <= limits->capacity_sectors &&
           sector <= limits->capacity_sectors - sector_count;
}

enum blkif_status blkif_segs_check(struct blkif_req *req, const struct blkif_seg *segs,
                                   const struct blkif_limits *limits)
{
    uint64_t sector_count = 0;

    for (uint16_t i = 0; i < req->segment_count; i++) {
        const struct blkif_seg *seg = &segs[i];

        if (seg->last_sect >= LIMIT_PAGE_SECTORS || seg->first_sect > seg->last_sect)
            return BLKIF_ERROR;
        sector_count += seg->last_sect - seg->first_sect + 1U;
    }
    if (!in_range(req->sector, sector_count, limits))
        return BLKIF_ERROR;
    req->sector_count = sector_count;
    return BLKIF_OKAY;
}

/* READ, WRITE, and FLUSH with data. */
static enum blkif_status check_transfer(struct blkif_req *req, const struct blkif_limits *limits)
{
    if (req->op != BLKIF_READ && limits->readonly)
        return BLKIF_ERROR;
    if (req->segment_count == 0 || req->segment_count > LIMIT_SEGMENTS_DIRECT)
        return BLKIF_ERROR;
    return blkif_segs_check(req, req->seg, limits);
}

static enum blkif_status check_indirect(struct blkif_req *req, const struct blkif_limits *limits)
{
    if (limits->indirect_segments == 0)
        return BLKIF_EOPNOTSUPP;
    if (req->op != BLKIF_READ && (req->op != BLKIF_WRITE || limits->readonly))
        return BLKIF_ERROR;
    if (req->segment_count == 0 || req->segment_count > limits->indirect_segments ||
        !in_range(req->sector, req->segment_count, limits)) /* a segment is a sector at least */
        return BLKIF_ERROR;
    req->sector_count = (uint64_t)req->segment_count * LIMIT_PAGE_SECTORS;
    return BLKIF_OKAY;
}

static enum blkif_status check_discard(const struct blkif_req *req,
                                       const struct blkif_limits *limits)
{
    if (limits->readonly) /* CVE-2013-2140 */
        return BLKIF_ERROR;
    if (!limits->can_discard)
        return BLKIF_EOPNOTSUPP;
    if (req->sector_count == 0 || !in_range(req->sector, req->sector_count, limits))
        return BLKIF_ERROR;
    return BLKIF_OKAY;
}

enum blkif_status blkif_req_check(struct blkif_req *req, const struct blkif_limits *limits)
{
    if (req->indirect)
        return check_indirect(req, limits);
    switch (req->op) {
    case BLKIF_READ:
    case BLKIF_WRITE: return check_transfer(req, limits);
    case BLKIF_DISCARD: return check_discard(req, limits);
    case BLKIF_FLUSH:
        if (!limits->can_flush)
            return BLKIF_EOPNOTSUPP;
        if (req->segment_count > 0)
            return check_transfer(req, limits);
        req->sector_count = 0;
        return BLKIF_OKAY;
    default: return BLKIF_EOPNOTSUPP;
    }
}

/* Relaxed stores, since the guest may be looking: each byte is written once, none is read back. */
static void store_shared(volatile uint8_t *to, const void *from, size_t bytes)
{
    const uint8_t *byte = from;

    for (size_t i = 0; i < bytes; i++)
        __atomic_store_n(to + i, byte[i], __ATOMIC_RELAXED);
}

void blkif_rsp_encode(enum blkif_abi abi, volatile uint8_t *slot, uint64_t id, uint8_t op,
                      int16_t status)
{
    (void)abi; /* the ABIs differ in the response's length only, and its end is padding */
    store_shared(slot + RSP_AT_ID, &id, sizeof(id));
    store_shared(slot + RSP_AT_OPERATION, &op, sizeof(op));
    store_shared(slot + RSP_AT_STATUS, &status, sizeof(status));
}
