/* The three layouts of a ring slot, from xen/io/blkif.h: gcc's for x86_64 and ARM, where a u64 is
 * aligned to 8, and x86_32's, where it is aligned to 4. Asserted against the header below. */
#include "guest.h"

#include <string.h>
#include <xen/xen.h>
#include <xen/io/blkif.h>

#define SEGMENT_BYTES 8

/* clang-format off */
static const struct guest_abi abis[] = {
    {"x86_64", "x86_64-abi", 112, 8, 16, 24, 24, 24, 28},
    {"x86_32", "x86_32-abi", 108, 4, 12, 20, 20, 20, 24},
    {"arm",    "arm-abi",    112, 8, 16, 24, 24, 24, 28},
    /* No protocol: a Linux backend on x86 takes that for x86_32 (BLKIF_PROTOCOL_DEFAULT). */
    {"none",   NULL,         108, 4, 12, 20, 20, 20, 24},
};
/* clang-format on */

_Static_assert(sizeof(struct blkif_request) == 112, "slot");
_Static_assert(offsetof(struct blkif_request, id) == 8, "id");
_Static_assert(offsetof(struct blkif_request, sector_number) == 16, "sector");
_Static_assert(offsetof(struct blkif_request, seg) == 24, "segments");
_Static_assert(sizeof(struct blkif_request_segment) == SEGMENT_BYTES, "segment");
_Static_assert(offsetof(struct blkif_request_discard, nr_sectors) == 24, "discard");
_Static_assert(offsetof(struct blkif_request_indirect, handle) == 24, "indirect handle");
_Static_assert(offsetof(struct blkif_request_indirect, indirect_grefs) == 28, "indirect refs");
_Static_assert(offsetof(struct blkif_response, operation) == 8, "response");
_Static_assert(offsetof(struct blkif_response, status) == 10, "response");

const struct guest_abi *guest_abi_find(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof(abis) / sizeof(abis[0]); i++)
        if (strcmp(abis[i].name, name) == 0)
            return &abis[i];
    return NULL;
}

static void segment_put(uint8_t *to, const struct front_segment *seg)
{
    memset(to, 0, SEGMENT_BYTES);
    memcpy(to, &seg->ref, 4);
    to[4] = seg->first;
    to[5] = seg->last;
}

void guest_abi_indirect(uint8_t *page, unsigned index, const struct front_segment *seg)
{
    segment_put(page + index * SEGMENT_BYTES, seg);
}

void guest_abi_encode(const struct guest_abi *abi, const struct front_request *req, uint8_t *slot)
{
    unsigned i;

    memset(slot, 0xa5, abi->slot_bytes); /* padding is not zero in a real guest either */
    slot[0] = req->op;
    memcpy(slot + abi->id, &req->id, 8);
    memcpy(slot + abi->sector, &req->sector, 8);
    if (req->op == OP_DISCARD) {
        slot[1] = req->flag;
        memcpy(slot + 2, &req->handle, 2);
        memcpy(slot + abi->discard_sectors, &req->nr_sectors, 8);
    } else if (req->op == OP_INDIRECT) {
        slot[1] = req->inner_op;
        memcpy(slot + 2, &req->nr_segments, 2);
        memcpy(slot + abi->indirect_handle, &req->handle, 2);
        memcpy(slot + abi->indirect_refs, req->indirect_refs, sizeof(req->indirect_refs));
    } else {
        slot[1] = (uint8_t)req->nr_segments;
        memcpy(slot + 2, &req->handle, 2);
        for (i = 0; i < req->nr_segments && i < GUEST_SEGMENTS_MAX; i++)
            segment_put(slot + abi->segments + i * SEGMENT_BYTES, &req->segments[i]);
    }
}
