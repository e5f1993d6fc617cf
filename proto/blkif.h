/*
 * blkif: the block interface's wire format, in and out (xen/io/blkif.h, Xen 4.17).
 *
 * Three ABIs exist because the 64-bit members of a slot are aligned to 8 bytes on x86_64 and arm
 * and to 4 bytes on x86_32: slots are 112 or 108 bytes long. One slot comes in as private bytes
 * (ring_take copied it, law 3) and leaves as one struct blkif_req; nothing here ever sees shared
 * memory but blkif_rsp_encode, which writes a response field by field and no byte more.
 *
 * Quantities are in 512-byte sectors whatever the disk's sector size (Xen commit 221f2748e8).
 * Pure: no system call, no allocation, no logging, no failure other than a return value.
 */
#ifndef BLKGATE_PROTO_BLKIF_H
#define BLKGATE_PROTO_BLKIF_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"

enum blkif_abi {
    BLKIF_ABI_X86_64, /* "x86_64-abi" */
    BLKIF_ABI_X86_32, /* "x86_32-abi" */
    BLKIF_ABI_ARM,    /* "arm-abi": laid out as x86_64 */
};

enum blkif_op {
    BLKIF_READ = 0,
    BLKIF_WRITE = 1,
    BLKIF_WRITE_BARRIER = 2,
    BLKIF_FLUSH = 3,
    BLKIF_PACKET = 4, /* reserved (SLES) */
    BLKIF_DISCARD = 5,
    BLKIF_INDIRECT = 6,
};

enum blkif_status {
    BLKIF_OKAY = 0,
    BLKIF_ERROR = -1,
    BLKIF_EOPNOTSUPP = -2,
    /*
     * For a flush that must fail: Linux takes ERROR and EOPNOTSUPP on an empty flush for success
     * (blkif_interrupt); any other value is an I/O error to it. Only ever used while closing.
     */
    BLKIF_FLUSH_LOST = -3,
};

struct blkif_seg {
    uint32_t gref;
    uint8_t first_sect, last_sect; /* inclusive, within the frame */
};

/* One request, decoded; what it names is unchecked until blkif_req_check. */
struct blkif_req {
    uint64_t id;
    uint64_t sector;        /* first sector on the disk */
    uint64_t sector_count;  /* DISCARD: as named; else from the segments, set by the checks */
    uint32_t indirect_ref;  /* INDIRECT: the frame of segment descriptors (see LIMIT_SEGMENTS) */
    uint16_t segment_count; /* as the guest named it: may exceed seg[] until checked */
    uint8_t op;             /* what to do, enum blkif_op or junk: INDIRECT's inner operation */
    uint8_t answer_op;      /* what the response must carry: the same */
    uint8_t flag;           /* DISCARD */
    bool indirect;          /* came as INDIRECT: seg[] is unused, the descriptors lie in a frame */
    struct blkif_seg seg[LIMIT_SEGMENTS_DIRECT];
};

/* What a disk can do, as far as a request may ask for it. */
struct blkif_limits {
    uint64_t capacity_sectors;
    bool readonly;
    bool can_flush; /* FLUSH is answered honestly: the server flushes or every write is durable */
    bool can_discard;
    uint16_t indirect_segments; /* the most an INDIRECT request may have; 0: not offered */
};

/* The ABI named by xenstore's `protocol`; NULL (absent) is what Linux takes it for: x86_32 on an
 * x86 backend, the native one on arm. -EINVAL for any other text. */
int blkif_abi_parse(const char *protocol, enum blkif_abi *ret_abi);
const char *blkif_abi_name(enum blkif_abi abi);

/* The length of a slot: 112, or 108 for x86_32. */
uint32_t blkif_slot_bytes(enum blkif_abi abi);

/* Decodes a private copy of a slot. Every input decodes to something. */
void blkif_req_decode(enum blkif_abi abi, const uint8_t slot[static LIMIT_SLOT_BYTES],
                      struct blkif_req *ret_req);

/*
 * BLKIF_OKAY: the request may be carried out as it stands, sector_count is set. Otherwise the
 * status to answer with: ERROR for what is malformed, out of range or a write to a read-only disk,
 * EOPNOTSUPP for operations this disk does not have.
 *
 * Of an indirect request only what its slot says can be checked: sector_count is then the most that
 * its segments can move, and blkif_segs_check has the last word.
 */
enum blkif_status blkif_req_check(struct blkif_req *req, const struct blkif_limits *limits);

/* Turns `count` segment descriptors, as copied from an indirect frame, into segments; `segs` may be
 * the same memory (law 3: a private copy, never the frame itself). */
void blkif_segs_decode(const uint8_t *bytes, uint16_t count, struct blkif_seg *segs);

/* The segments of a READ, WRITE or FLUSH with data: each within its frame, all within the disk.
 * Sets sector_count. */
enum blkif_status blkif_segs_check(struct blkif_req *req, const struct blkif_seg *segs,
                                   const struct blkif_limits *limits);

/* Writes a response into a (shared) slot: id, operation, status; no padding, nothing beyond. */
void blkif_rsp_encode(enum blkif_abi abi, volatile uint8_t *slot, uint64_t id, uint8_t op,
                      int16_t status);

static inline uint32_t blkif_seg_bytes(const struct blkif_seg *seg)
{
    return (uint32_t)(seg->last_sect - seg->first_sect + 1) * LIMIT_SECTOR_BYTES;
}

#endif
