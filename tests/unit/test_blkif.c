/*
 * blkif: the wire format of each ABI, and every value a guest must not get away with.
 *
 * What is expected comes from Xen: the native structs are those of xen/io/blkif.h; those of
 * x86_32, which that header only gives to an i386 compiler, are declared anew with its alignment.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

#include "proto/blkif.h"

/* i386 aligns 64-bit members to 4 bytes; nothing else of the structs differs, but one pad. */
#pragma pack(push, 4)
struct i386_request {
    uint8_t operation, nr_segments;
    blkif_vdev_t handle;
    uint64_t id;
    blkif_sector_t sector_number;
    struct blkif_request_segment seg[BLKIF_MAX_SEGMENTS_PER_REQUEST];
};
struct i386_discard {
    uint8_t operation, flag;
    blkif_vdev_t handle;
    uint64_t id;
    blkif_sector_t sector_number;
    uint64_t nr_sectors;
};
struct i386_indirect {
    uint8_t operation, indirect_op;
    uint16_t nr_segments;
    uint64_t id;
    blkif_sector_t sector_number;
    blkif_vdev_t handle;
    grant_ref_t indirect_grefs[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
    uint64_t pad;
};
struct i386_response {
    uint64_t id;
    uint8_t operation;
    int16_t status;
};
#pragma pack(pop)

union i386_slot {
    struct i386_request req;
    struct i386_response rsp;
};

#define AT(type, member, offset) \
    _Static_assert(offsetof(struct type, member) == (offset), #type "." #member)
#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)

#if !defined(__i386__)
AT(blkif_request, id, 8);
AT(blkif_request, sector_number, 16);
AT(blkif_request, seg, 24);
AT(blkif_request_discard, id, 8);
AT(blkif_request_discard, sector_number, 16);
AT(blkif_request_discard, nr_sectors, 24);
AT(blkif_request_indirect, id, 8);
AT(blkif_request_indirect, sector_number, 16);
AT(blkif_request_indirect, indirect_grefs, 28);
SIZE(struct blkif_request_indirect, 64);
SIZE(struct blkif_response, 16);
SIZE(union blkif_sring_entry, 112);
#endif
AT(blkif_request, nr_segments, 1);
AT(blkif_request_discard, flag, 1);
AT(blkif_request_indirect, indirect_op, 1);
AT(blkif_request_indirect, nr_segments, 2);
AT(blkif_request_segment, first_sect, 4);
AT(blkif_request_segment, last_sect, 5);
SIZE(struct blkif_request_segment, 8);
AT(blkif_response, operation, 8);
AT(blkif_response, status, 10);
AT(i386_request, id, 4);
AT(i386_request, sector_number, 12);
AT(i386_request, seg, 20);
AT(i386_discard, nr_sectors, 20);
AT(i386_indirect, indirect_grefs, 24);
AT(i386_response, operation, 8);
AT(i386_response, status, 10);
SIZE(struct i386_discard, 28);
SIZE(struct i386_indirect, 64);
SIZE(struct i386_response, 12);
SIZE(union i386_slot, 108);

_Static_assert((int)BLKIF_READ == BLKIF_OP_READ && (int)BLKIF_WRITE == BLKIF_OP_WRITE, "ops");
_Static_assert((int)BLKIF_WRITE_BARRIER == BLKIF_OP_WRITE_BARRIER, "ops");
_Static_assert((int)BLKIF_FLUSH == BLKIF_OP_FLUSH_DISKCACHE, "ops");
_Static_assert((int)BLKIF_PACKET == BLKIF_OP_RESERVED_1, "ops");
_Static_assert((int)BLKIF_DISCARD == BLKIF_OP_DISCARD, "ops");
_Static_assert((int)BLKIF_INDIRECT == BLKIF_OP_INDIRECT, "ops");
_Static_assert((int)BLKIF_OKAY == BLKIF_RSP_OKAY && (int)BLKIF_ERROR == BLKIF_RSP_ERROR, "status");
_Static_assert((int)BLKIF_EOPNOTSUPP == BLKIF_RSP_EOPNOTSUPP, "status");
_Static_assert((int)LIMIT_SEGMENTS_DIRECT == BLKIF_MAX_SEGMENTS_PER_REQUEST, "segments");
_Static_assert((int)LIMIT_SLOT_BYTES >= sizeof(union blkif_sring_entry), "slot");

enum { JUNK = 0xa5, CANARY = 0x5c };

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static const enum blkif_abi abis[] = {BLKIF_ABI_X86_64, BLKIF_ABI_X86_32, BLKIF_ABI_ARM};

static bool is_i386(enum blkif_abi abi)
{
    return abi == BLKIF_ABI_X86_32;
}

/* ---- slots as a guest of each ABI would fill them; what it leaves alone is junk ---- */

#define FILL_TRANSFER(raw)                                                                   \
    do {                                                                                     \
        (raw)->operation = req->op;                                                          \
        (raw)->nr_segments = (uint8_t)req->segment_count;                                    \
        (raw)->handle = 0xca00;                                                              \
        (raw)->id = req->id;                                                                 \
        (raw)->sector_number = req->sector;                                                  \
        for (unsigned int i = 0; i < req->segment_count && i < LIMIT_SEGMENTS_DIRECT; i++) { \
            (raw)->seg[i].gref = req->seg[i].gref;                                           \
            (raw)->seg[i].first_sect = req->seg[i].first_sect;                               \
            (raw)->seg[i].last_sect = req->seg[i].last_sect;                                 \
        }                                                                                    \
    } while (0)

#define FILL_DISCARD(raw)                      \
    do {                                       \
        (raw)->operation = req->op;            \
        (raw)->flag = req->flag;               \
        (raw)->handle = 0xca00;                \
        (raw)->id = req->id;                   \
        (raw)->sector_number = req->sector;    \
        (raw)->nr_sectors = req->sector_count; \
    } while (0)

#define FILL_INDIRECT(raw)                       \
    do {                                         \
        (raw)->operation = BLKIF_OP_INDIRECT;    \
        (raw)->indirect_op = req->answer_op;     \
        (raw)->nr_segments = req->segment_count; \
        (raw)->id = req->id;                     \
        (raw)->sector_number = req->sector;      \
        (raw)->handle = 0xca00;                  \
        (raw)->indirect_grefs[0] = 0x11223344;   \
    } while (0)

static void fill_native(uint8_t slot[static LIMIT_SLOT_BYTES], const struct blkif_req *req)
{
    union {
        struct blkif_request transfer;
        struct blkif_request_discard discard;
        struct blkif_request_indirect indirect;
    } raw;

    memset(&raw, JUNK, sizeof(raw));
    if (req->op == BLKIF_OP_DISCARD)
        FILL_DISCARD(&raw.discard);
    else if (req->indirect)
        FILL_INDIRECT(&raw.indirect);
    else
        FILL_TRANSFER(&raw.transfer);
    memcpy(slot, &raw, sizeof(raw));
}

static void fill_i386(uint8_t slot[static LIMIT_SLOT_BYTES], const struct blkif_req *req)
{
    union {
        struct i386_request transfer;
        struct i386_discard discard;
        struct i386_indirect indirect;
    } raw;

    memset(&raw, JUNK, sizeof(raw));
    if (req->op == BLKIF_OP_DISCARD)
        FILL_DISCARD(&raw.discard);
    else if (req->indirect)
        FILL_INDIRECT(&raw.indirect);
    else
        FILL_TRANSFER(&raw.transfer);
    memcpy(slot, &raw, sizeof(raw));
}

static void fill(enum blkif_abi abi, uint8_t slot[static LIMIT_SLOT_BYTES],
                 const struct blkif_req *req)
{
    memset(slot, JUNK, LIMIT_SLOT_BYTES);
    if (is_i386(abi))
        fill_i386(slot, req);
    else
        fill_native(slot, req);
}

static void assert_req_equal(const struct blkif_req *got, const struct blkif_req *want)
{
    assert_int_equal(got->id, want->id);
    assert_int_equal(got->sector, want->sector);
    assert_int_equal(got->sector_count, want->sector_count);
    assert_int_equal(got->segment_count, want->segment_count);
    assert_int_equal(got->op, want->op);
    assert_int_equal(got->answer_op, want->answer_op);
    assert_int_equal(got->flag, want->flag);
    assert_int_equal(got->indirect, want->indirect);
    assert_int_equal(got->indirect_ref, want->indirect_ref);
    for (unsigned int i = 0; i < LIMIT_SEGMENTS_DIRECT; i++) {
        assert_int_equal(got->seg[i].gref, want->seg[i].gref);
        assert_int_equal(got->seg[i].first_sect, want->seg[i].first_sect);
        assert_int_equal(got->seg[i].last_sect, want->seg[i].last_sect);
    }
}

/* ---- names ---- */

static void test_abi_names_are_xens(void **state)
{
    enum blkif_abi abi = BLKIF_ABI_ARM;

    (void)state;
    assert_int_equal(blkif_abi_parse(XEN_IO_PROTO_ABI_X86_64, &abi), 0);
    assert_int_equal(abi, BLKIF_ABI_X86_64);
    assert_int_equal(blkif_abi_parse(XEN_IO_PROTO_ABI_X86_32, &abi), 0);
    assert_int_equal(abi, BLKIF_ABI_X86_32);
    assert_int_equal(blkif_abi_parse(XEN_IO_PROTO_ABI_ARM, &abi), 0);
    assert_int_equal(abi, BLKIF_ABI_ARM);
    assert_string_equal(blkif_abi_name(BLKIF_ABI_X86_64), XEN_IO_PROTO_ABI_X86_64);
    assert_string_equal(blkif_abi_name(BLKIF_ABI_X86_32), XEN_IO_PROTO_ABI_X86_32);
    assert_string_equal(blkif_abi_name(BLKIF_ABI_ARM), XEN_IO_PROTO_ABI_ARM);
}

/* Linux takes a missing `protocol` for x86_32, whatever Xen's header says (common.h). */
static void test_abi_absent_is_what_linux_takes_it_for(void **state)
{
    enum blkif_abi abi = BLKIF_ABI_X86_64;

    (void)state;
    assert_int_equal(blkif_abi_parse(NULL, &abi), 0);
#if defined(__x86_64__) || defined(__i386__)
    assert_int_equal(abi, BLKIF_ABI_X86_32);
#else
    assert_int_equal(abi, BLKIF_ABI_ARM);
#endif
}

static void test_abi_junk_is_refused_and_leaves_no_result(void **state)
{
    static const char *const junk[] = {
        "",           "x86_64",       "x86_64-abi ", " x86_64-abi",
        "X86_64-ABI", "x86_64-abi\n", "x86_64-abix", "x86_32-ab",
        "native",     "arm",
    };
    enum blkif_abi abi = BLKIF_ABI_ARM;

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(junk); i++) {
        if (blkif_abi_parse(junk[i], &abi) != -EINVAL)
            fail_msg("\"%s\" was taken for an ABI", junk[i]);
        assert_int_equal(abi, BLKIF_ABI_ARM);
    }
}

static void test_slot_lengths_are_xens(void **state)
{
    (void)state;
    assert_int_equal(blkif_slot_bytes(BLKIF_ABI_X86_64), sizeof(union blkif_sring_entry));
    assert_int_equal(blkif_slot_bytes(BLKIF_ABI_ARM), sizeof(union blkif_sring_entry));
    assert_int_equal(blkif_slot_bytes(BLKIF_ABI_X86_32), sizeof(union i386_slot));
}

/* ---- decoding ---- */

/* The two layouts byte by byte: `wide` is x86_64 and arm, `i386` x86_32. */
static const struct golden {
    const char *name;
    struct blkif_req req;
    const char *wide, *i386;
} golden[] = {
    {"read of two segments",
     {.id = 0x1122334455667788,
      .sector = 0x0102030405,
      .segment_count = 2,
      .op = BLKIF_READ,
      .answer_op = BLKIF_READ,
      .seg = {{0xdeadbeef, 0, 7}, {9, 3, 3}}},
     "0002 00ca a5a5a5a5 8877665544332211 0504030201000000"
     "efbeadde 0007 a5a5 09000000 0303 a5a5 a5a5a5a5a5a5a5a5",
     "0002 00ca 8877665544332211 0504030201000000"
     "efbeadde 0007 a5a5 09000000 0303 a5a5 a5a5a5a5a5a5a5a5"},
    {"write of one segment",
     {.id = 1,
      .sector = 8,
      .segment_count = 1,
      .op = BLKIF_WRITE,
      .answer_op = BLKIF_WRITE,
      .seg = {{0x102, 1, 2}}},
     "0101 00ca a5a5a5a5 0100000000000000 0800000000000000 02010000 0102 a5a5 a5a5",
     "0101 00ca 0100000000000000 0800000000000000 02010000 0102 a5a5 a5a5"},
    {"barrier of one segment",
     {.id = 2,
      .sector = 9,
      .segment_count = 1,
      .op = BLKIF_WRITE_BARRIER,
      .answer_op = BLKIF_WRITE_BARRIER,
      .seg = {{0x103, 0, 0}}},
     "0201 00ca a5a5a5a5 0200000000000000 0900000000000000 03010000 0000 a5a5 a5a5",
     "0201 00ca 0200000000000000 0900000000000000 03010000 0000 a5a5 a5a5"},
    {"empty flush",
     {.id = UINT64_MAX, .op = BLKIF_FLUSH, .answer_op = BLKIF_FLUSH},
     "0300 00ca a5a5a5a5 ffffffffffffffff 0000000000000000 a5a5a5a5",
     "0300 00ca ffffffffffffffff 0000000000000000 a5a5a5a5"},
    {"secure discard of more than 2^32 sectors",
     {.id = 3,
      .sector = 0x1000,
      .sector_count = 0x100000001,
      .flag = BLKIF_DISCARD_SECURE,
      .op = BLKIF_DISCARD,
      .answer_op = BLKIF_DISCARD},
     "0501 00ca a5a5a5a5 0300000000000000 0010000000000000 0100000001000000 a5a5",
     "0501 00ca 0300000000000000 0010000000000000 0100000001000000 a5a5"},
    {"indirect write of 256 segments, to be answered as a write",
     {.id = 4,
      .sector = 0x2000,
      .segment_count = 256,
      .indirect_ref = 0x11223344,
      .indirect = true,
      .op = BLKIF_WRITE,
      .answer_op = BLKIF_WRITE},
     "0601 0001 a5a5a5a5 0400000000000000 0020000000000000 00ca a5a5 44332211 a5a5a5a5",
     "0601 0001 0400000000000000 0020000000000000 00ca a5a5 44332211 a5a5a5a5"},
    {"an unknown operation, laid out as a transfer",
     {.id = 5,
      .sector = 6,
      .segment_count = 1,
      .op = 0xff,
      .answer_op = 0xff,
      .seg = {{7, 255, 254}}},
     "ff01 00ca a5a5a5a5 0500000000000000 0600000000000000 07000000 fffe a5a5 a5a5",
     "ff01 00ca 0500000000000000 0600000000000000 07000000 fffe a5a5 a5a5"},
};

/* Hex with blanks into a slot full of junk. */
static void unhex(uint8_t slot[static LIMIT_SLOT_BYTES], const char *hex)
{
    size_t length = 0;

    memset(slot, JUNK, LIMIT_SLOT_BYTES);
    for (const char *c = hex; *c; c++) {
        static const char digits[] = "0123456789abcdef";
        uint8_t high;

        if (*c == ' ')
            continue;
        high = (uint8_t)(strchr(digits, *c) - digits);
        c++;
        slot[length++] = (uint8_t)(high << 4 | (strchr(digits, *c) - digits));
    }
}

static void test_golden_bytes_decode_in_each_abi(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(golden); i++) {
        for (size_t a = 0; a < ARRAY_LENGTH(abis); a++) {
            uint8_t slot[LIMIT_SLOT_BYTES], xens[LIMIT_SLOT_BYTES];
            struct blkif_req req;

            unhex(slot, is_i386(abis[a]) ? golden[i].i386 : golden[i].wide);
            fill(abis[a], xens, &golden[i].req);
            if (memcmp(slot, xens, sizeof(slot)) != 0)
                fail_msg("%s: not the bytes Xen's header gives", golden[i].name);
            memset(&req, JUNK, sizeof(req));
            blkif_req_decode(abis[a], slot, &req);
            assert_req_equal(&req, &golden[i].req);
        }
    }
}

/* tapdisk believed up to 32 of 11 segments; NetBSD cut the count to 8 bits. */
static void test_decode_never_goes_beyond_eleven_segments(void **state)
{
    static const uint16_t counts[] = {0, 1, 10, 11, 12, 32, 255};

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        for (size_t a = 0; a < ARRAY_LENGTH(abis); a++) {
            struct blkif_req want = {.id = 7, .segment_count = counts[i]};
            uint8_t slot[LIMIT_SLOT_BYTES];
            struct blkif_req req;

            for (uint32_t s = 0; s < counts[i] && s < LIMIT_SEGMENTS_DIRECT; s++)
                want.seg[s] = (struct blkif_seg){0x1000 + s, (uint8_t)s, (uint8_t)(2 * s)};
            fill(abis[a], slot, &want);
            blkif_req_decode(abis[a], slot, &req);
            assert_req_equal(&req, &want);
        }
    }
}

/* An indirect count is 16 bits wide, and not limited when decoded. */
static void test_decode_keeps_the_whole_indirect_count(void **state)
{
    (void)state;
    for (size_t a = 0; a < ARRAY_LENGTH(abis); a++) {
        struct blkif_req want = {.indirect = true,
                                 .indirect_ref = 0x11223344,
                                 .op = 0xee,
                                 .answer_op = 0xee,
                                 .segment_count = UINT16_MAX};
        uint8_t slot[LIMIT_SLOT_BYTES];
        struct blkif_req req;

        fill(abis[a], slot, &want);
        blkif_req_decode(abis[a], slot, &req);
        assert_req_equal(&req, &want);
    }
}

/* XSA-155: whatever the slot holds, it decodes the same twice and reads nothing but the slot. */
static void test_any_bytes_decode_to_something(void **state)
{
    uint32_t random = 1;

    (void)state;
    for (unsigned int n = 0; n < 100000; n++) {
        enum blkif_abi abi = abis[n % ARRAY_LENGTH(abis)];
        struct blkif_limits limits = {.capacity_sectors = UINT64_MAX, .can_flush = true};
        uint8_t slot[LIMIT_SLOT_BYTES];
        struct blkif_req first, second;

        for (size_t i = 0; i < sizeof(slot); i++) {
            random = random * 1664525 + 1013904223;
            slot[i] = (uint8_t)(random >> 24);
        }
        slot[0] = (uint8_t)(slot[0] % 8);
        memset(&first, 0, sizeof(first));
        memset(&second, JUNK, sizeof(second));
        blkif_req_decode(abi, slot, &first);
        blkif_req_decode(abi, slot, &second);
        assert_req_equal(&second, &first);
        if (blkif_req_check(&first, &limits) == BLKIF_OKAY && first.op != BLKIF_FLUSH)
            assert_in_range(first.segment_count, 1, LIMIT_SEGMENTS_DIRECT);
    }
}

/* ---- checking ---- */

static const struct blkif_limits writable = {.capacity_sectors = 1000, .can_flush = true};
static const struct blkif_limits full = {.capacity_sectors = 1000,
                                         .can_flush = true,
                                         .can_discard = true,
                                         .indirect_segments = LIMIT_SEGMENTS};
static const struct blkif_limits readonly = {
    .capacity_sectors = 1000, .readonly = true, .can_flush = true};
static const struct blkif_limits unflushable = {.capacity_sectors = 1000};
static const struct blkif_limits vast = {.capacity_sectors = UINT64_MAX, .can_flush = true};

/* The request's segments are all `seg`. */
static const struct check_case {
    const char *name;
    const struct blkif_limits *limits;
    uint32_t op, segment_count;
    struct blkif_seg seg;
    uint64_t sector;
    enum blkif_status want;
    uint64_t sector_count;
} check_cases[] = {
    {"a sector", &writable, BLKIF_READ, 1, {1, 0, 0}, 0, BLKIF_OKAY, 1},
    {"a page", &writable, BLKIF_WRITE, 1, {1, 0, 7}, 0, BLKIF_OKAY, 8},
    {"a page's last sector", &writable, BLKIF_READ, 1, {1, 7, 7}, 0, BLKIF_OKAY, 1},
    {"eleven pages", &writable, BLKIF_WRITE, 11, {1, 0, 7}, 0, BLKIF_OKAY, 88},
    {"the disk's end", &writable, BLKIF_READ, 11, {1, 0, 7}, 912, BLKIF_OKAY, 88},
    {"the disk's last sector", &writable, BLKIF_WRITE, 1, {1, 2, 2}, 999, BLKIF_OKAY, 1},
    {"read of a read-only disk", &readonly, BLKIF_READ, 1, {1, 0, 7}, 0, BLKIF_OKAY, 8},

    /* Linux blkback refuses empty transfers; tapdisk took up to 32 segments (CA-392151). */
    {"no segment", &writable, BLKIF_READ, 0, {1, 0, 7}, 0, BLKIF_ERROR, 0},
    {"no segment to write", &writable, BLKIF_WRITE, 0, {1, 0, 7}, 0, BLKIF_ERROR, 0},
    {"12 segments", &writable, BLKIF_READ, 12, {1, 0, 0}, 0, BLKIF_ERROR, 0},
    {"32 segments", &writable, BLKIF_READ, 32, {1, 0, 0}, 0, BLKIF_ERROR, 0},
    {"255 segments", &writable, BLKIF_WRITE, 255, {1, 0, 0}, 0, BLKIF_ERROR, 0},

    /* tapdisk left last_sect unchecked: I/O beyond the page. XSA-423: nothing of length 0. */
    {"first > last", &writable, BLKIF_READ, 1, {1, 5, 4}, 0, BLKIF_ERROR, 0},
    {"first > last by 1, in all", &writable, BLKIF_WRITE, 11, {1, 1, 0}, 0, BLKIF_ERROR, 0},
    {"last 8", &writable, BLKIF_READ, 1, {1, 0, 8}, 0, BLKIF_ERROR, 0},
    {"last 255", &writable, BLKIF_READ, 1, {1, 0, 255}, 0, BLKIF_ERROR, 0},
    {"first and last 8", &writable, BLKIF_WRITE, 1, {1, 8, 8}, 0, BLKIF_ERROR, 0},
    {"first and last 255", &writable, BLKIF_WRITE, 1, {1, 255, 255}, 0, BLKIF_ERROR, 0},

    /* QEMU: sector_number * 512 wrapped. */
    {"a sector beyond the end", &writable, BLKIF_READ, 1, {1, 0, 0}, 1000, BLKIF_ERROR, 0},
    {"across the end", &writable, BLKIF_WRITE, 1, {1, 0, 7}, 993, BLKIF_ERROR, 0},
    {"across the end by the 11th", &writable, BLKIF_WRITE, 11, {1, 0, 7}, 913, BLKIF_ERROR, 0},
    {"2^55", &writable, BLKIF_READ, 1, {1, 0, 7}, 1ULL << 55, BLKIF_ERROR, 0},
    {"2^64 - 1", &writable, BLKIF_READ, 1, {1, 0, 0}, UINT64_MAX, BLKIF_ERROR, 0},
    {"2^64 - 8, wrapping to 0",
     &writable,
     BLKIF_WRITE,
     1,
     {1, 0, 7},
     UINT64_MAX - 7,
     BLKIF_ERROR,
     0},
    {"2^64 - 4, wrapping to 4", &vast, BLKIF_WRITE, 1, {1, 0, 7}, UINT64_MAX - 3, BLKIF_ERROR, 0},

    /* CVE-2013-2140 */
    {"write to a read-only disk", &readonly, BLKIF_WRITE, 1, {1, 0, 7}, 0, BLKIF_ERROR, 0},
    {"bad write to a read-only disk", &readonly, BLKIF_WRITE, 255, {1, 9, 1}, 0, BLKIF_ERROR, 0},

    {"flush", &writable, BLKIF_FLUSH, 0, {0, 0, 0}, 0, BLKIF_OKAY, 0},
    {"flush naming a sector", &writable, BLKIF_FLUSH, 0, {0, 0, 0}, UINT64_MAX, BLKIF_OKAY, 0},
    {"flush of a read-only disk", &readonly, BLKIF_FLUSH, 0, {0, 0, 0}, 0, BLKIF_OKAY, 0},
    /* Okay would be a lie. */
    {"flush not had", &unflushable, BLKIF_FLUSH, 0, {0, 0, 0}, 0, BLKIF_EOPNOTSUPP, 0},
    {"flush with data", &writable, BLKIF_FLUSH, 1, {1, 0, 7}, 8, BLKIF_OKAY, 8},
    {"flush with data, not had", &unflushable, BLKIF_FLUSH, 1, {1, 0, 7}, 0, BLKIF_EOPNOTSUPP, 0},
    {"flush with data, read-only", &readonly, BLKIF_FLUSH, 1, {1, 0, 7}, 0, BLKIF_ERROR, 0},
    {"flush with data, beyond", &writable, BLKIF_FLUSH, 1, {1, 0, 7}, 993, BLKIF_ERROR, 0},
    {"flush with 12 segments", &writable, BLKIF_FLUSH, 12, {1, 0, 7}, 0, BLKIF_ERROR, 0},

    {"barrier", &writable, BLKIF_WRITE_BARRIER, 1, {1, 0, 7}, 0, BLKIF_EOPNOTSUPP, 0},
    {"empty barrier", &writable, BLKIF_WRITE_BARRIER, 0, {1, 0, 7}, 0, BLKIF_EOPNOTSUPP, 0},
    {"packet", &writable, BLKIF_PACKET, 1, {1, 0, 7}, 0, BLKIF_EOPNOTSUPP, 0},
    {"discard", &writable, BLKIF_DISCARD, 0, {0, 0, 0}, 0, BLKIF_EOPNOTSUPP, 0},
    /* tapdisk's ERROR to an unknown operation crashed guests (CA-416464). */
    {"op 7", &writable, 7, 1, {1, 0, 7}, 0, BLKIF_EOPNOTSUPP, 0},
    {"op 255", &writable, 255, 255, {1, 9, 1}, UINT64_MAX, BLKIF_EOPNOTSUPP, 0},
};

static void test_every_good_and_bad_request(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(check_cases); i++) {
        const struct check_case *c = &check_cases[i];
        struct blkif_req req = {.sector = c->sector};
        enum blkif_status status;

        req.op = req.answer_op = (uint8_t)c->op;
        req.segment_count = (uint16_t)c->segment_count;
        for (unsigned int s = 0; s < LIMIT_SEGMENTS_DIRECT; s++)
            req.seg[s] = c->seg;
        status = blkif_req_check(&req, c->limits);
        if (status != c->want)
            fail_msg("%s: answered %d, not %d", c->name, status, c->want);
        if (status == BLKIF_OKAY && req.sector_count != c->sector_count)
            fail_msg("%s: %llu sectors", c->name, (unsigned long long)req.sector_count);
    }
}

/* By what the slot says alone; the segments come later. */
static void test_indirect_is_bounded_before_its_descriptors_are_read(void **state)
{
    static const struct {
        const struct blkif_limits *limits;
        uint8_t op;
        uint16_t segments;
        uint64_t sector;
        enum blkif_status want;
    } cases[] = {
        {&full, BLKIF_READ, 1, 0, BLKIF_OKAY},
        {&full, BLKIF_WRITE, 12, 999 - 11, BLKIF_OKAY},
        {&full, BLKIF_READ, LIMIT_SEGMENTS, 0, BLKIF_OKAY},
        {&writable, BLKIF_READ, 1, 0, BLKIF_EOPNOTSUPP}, /* not offered */
        {&full, BLKIF_READ, 0, 0, BLKIF_ERROR},
        {&full, BLKIF_READ, LIMIT_SEGMENTS + 1, 0, BLKIF_ERROR},
        {&full, BLKIF_WRITE, UINT16_MAX, 0, BLKIF_ERROR},
        {&full, BLKIF_WRITE, 12, 999, BLKIF_ERROR},
        {&full, BLKIF_READ, 1, UINT64_MAX, BLKIF_ERROR},
        {&full, BLKIF_WRITE_BARRIER, 1, 0, BLKIF_ERROR},
        {&full, BLKIF_FLUSH, 1, 0, BLKIF_ERROR},
        {&full, BLKIF_DISCARD, 1, 0, BLKIF_ERROR},
        {&full, BLKIF_INDIRECT, 1, 0, BLKIF_ERROR},
        {&full, 0xee, 1, 0, BLKIF_ERROR},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct blkif_req req = {.indirect = true,
                                .op = cases[i].op,
                                .segment_count = cases[i].segments,
                                .sector = cases[i].sector};

        if (blkif_req_check(&req, cases[i].limits) != cases[i].want)
            fail_msg("indirect case %zu", i);
        if (cases[i].want == BLKIF_OKAY) /* what older and younger requests must not overlap */
            assert_int_equal(req.sector_count, cases[i].segments * LIMIT_PAGE_SECTORS);
    }
    {
        struct blkif_limits limits = full;
        struct blkif_req req = {.indirect = true, .op = BLKIF_WRITE, .segment_count = 1};

        limits.readonly = true;
        assert_int_equal(blkif_req_check(&req, &limits), BLKIF_ERROR);
    }
}

/* Descriptors decode in place, 256 of them, and one bad one anywhere refuses the request. */
static void test_indirect_segments(void **state)
{
    struct blkif_request_segment xens[LIMIT_SEGMENTS] = {0};
    struct blkif_seg segs[LIMIT_SEGMENTS];

    (void)state;
    for (unsigned int i = 0; i < LIMIT_SEGMENTS; i++)
        xens[i] = (struct blkif_request_segment){
            .gref = 0x80000000 + i, .first_sect = (uint8_t)(i % 8), .last_sect = 7};
    _Static_assert(sizeof(xens) == sizeof(segs), "a descriptor is 8 bytes");
    memcpy(segs, xens, sizeof(segs));
    blkif_segs_decode((const uint8_t *)segs, LIMIT_SEGMENTS, segs);
    for (unsigned int i = 0; i < LIMIT_SEGMENTS; i++) {
        assert_int_equal(segs[i].gref, 0x80000000 + i);
        assert_int_equal(segs[i].first_sect, i % 8);
        assert_int_equal(segs[i].last_sect, 7);
    }
    for (unsigned int at = 0; at <= LIMIT_SEGMENTS; at++) {
        struct blkif_limits limits = {.capacity_sectors = 1152 + 5};
        struct blkif_req req = {
            .indirect = true, .op = BLKIF_READ, .segment_count = LIMIT_SEGMENTS, .sector = 5};
        struct blkif_seg kept = segs[at % LIMIT_SEGMENTS];

        if (at < LIMIT_SEGMENTS)
            segs[at].last_sect = at % 2 ? 8 : 255;
        assert_int_equal(blkif_segs_check(&req, segs, &limits),
                         at < LIMIT_SEGMENTS ? BLKIF_ERROR : BLKIF_OKAY);
        segs[at % LIMIT_SEGMENTS] = kept;
        req.sector++; /* now one beyond the end */
        assert_int_equal(blkif_segs_check(&req, segs, &limits), BLKIF_ERROR);
    }
}

/* A discard names its sectors itself, 64 bits wide. */
static void test_discard(void **state)
{
    static const struct {
        uint64_t sector, sectors;
        enum blkif_status want;
    } cases[] = {
        {0, 1, BLKIF_OKAY},           {0, 1000, BLKIF_OKAY},
        {999, 1, BLKIF_OKAY},         {0, 0, BLKIF_ERROR},
        {1000, 0, BLKIF_ERROR},       {0, 1001, BLKIF_ERROR},
        {999, 2, BLKIF_ERROR},        {1, UINT64_MAX, BLKIF_ERROR},
        {UINT64_MAX, 2, BLKIF_ERROR}, {UINT64_MAX, UINT64_MAX, BLKIF_ERROR},
    };
    struct blkif_limits limits = full;

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct blkif_req req = {
            .op = BLKIF_DISCARD, .sector = cases[i].sector, .sector_count = cases[i].sectors};

        if (blkif_req_check(&req, &full) != cases[i].want)
            fail_msg("discard case %zu", i);
        assert_int_equal(req.sector_count, cases[i].sectors);
        assert_int_not_equal(blkif_req_check(&req, &writable), BLKIF_OKAY); /* not offered */
    }
    limits.readonly = true;
    {
        struct blkif_req req = {.op = BLKIF_DISCARD, .sector_count = 1};

        assert_int_equal(blkif_req_check(&req, &limits), BLKIF_ERROR); /* CVE-2013-2140 */
    }
}

/* One bad segment among good ones, wherever it is. */
static void test_a_bad_segment_anywhere_refuses_the_request(void **state)
{
    static const struct blkif_seg bad[] = {{1, 5, 4}, {1, 0, 8}, {1, 8, 8}, {1, 255, 0}};

    (void)state;
    for (size_t b = 0; b < ARRAY_LENGTH(bad); b++) {
        for (unsigned int at = 0; at < LIMIT_SEGMENTS_DIRECT; at++) {
            struct blkif_req req = {.op = BLKIF_WRITE, .segment_count = LIMIT_SEGMENTS_DIRECT};

            for (unsigned int s = 0; s < LIMIT_SEGMENTS_DIRECT; s++)
                req.seg[s] = s == at ? bad[b] : (struct blkif_seg){s, 0, 7};
            assert_int_equal(blkif_req_check(&req, &vast), BLKIF_ERROR);
        }
    }
}

/* What lies behind the named segments is not looked at. */
static void test_only_the_named_segments_count(void **state)
{
    struct blkif_req req = {.op = BLKIF_READ, .segment_count = 2};

    (void)state;
    memset(req.seg, 0xff, sizeof(req.seg));
    req.seg[0] = (struct blkif_seg){1, 4, 7};
    req.seg[1] = (struct blkif_seg){2, 0, 0};
    assert_int_equal(blkif_req_check(&req, &writable), BLKIF_OKAY);
    assert_int_equal(req.sector_count, 5);
    assert_int_equal(blkif_seg_bytes(&req.seg[0]), 2048);
    assert_int_equal(blkif_seg_bytes(&req.seg[1]), 512);
}

/* ---- responses ---- */

/* XSA-216: id, operation and status are written, and not a byte of padding or beyond. */
static void test_response_writes_its_fields_and_no_other_byte(void **state)
{
    static const uint8_t want[] = {0x88, 0x77, 0x66, 0x55,   0x44, 0x33,
                                   0x22, 0x11, 0x01, CANARY, 0xfe, 0xff};

    (void)state;
    for (size_t a = 0; a < ARRAY_LENGTH(abis); a++) {
        /* At 4, as in a ring every other slot of x86_32 lies. */
        _Alignas(8) uint8_t memory[4 + LIMIT_SLOT_BYTES + 8];
        uint8_t *slot = memory + 4;
        struct blkif_response xens;

        memset(memory, CANARY, sizeof(memory));
        blkif_rsp_encode(abis[a], slot, 0x1122334455667788, BLKIF_WRITE, BLKIF_EOPNOTSUPP);
        assert_memory_equal(slot, want, sizeof(want));
        for (size_t i = 0; i < sizeof(memory); i++)
            if (i < 4 || i >= 4 + sizeof(want))
                assert_int_equal(memory[i], CANARY);
        memcpy(&xens, slot, sizeof(xens));
        assert_int_equal(xens.id, 0x1122334455667788);
        assert_int_equal(xens.operation, BLKIF_OP_WRITE);
        assert_int_equal(xens.status, BLKIF_RSP_EOPNOTSUPP);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_abi_names_are_xens),
        cmocka_unit_test(test_abi_absent_is_what_linux_takes_it_for),
        cmocka_unit_test(test_abi_junk_is_refused_and_leaves_no_result),
        cmocka_unit_test(test_slot_lengths_are_xens),
        cmocka_unit_test(test_golden_bytes_decode_in_each_abi),
        cmocka_unit_test(test_decode_never_goes_beyond_eleven_segments),
        cmocka_unit_test(test_decode_keeps_the_whole_indirect_count),
        cmocka_unit_test(test_any_bytes_decode_to_something),
        cmocka_unit_test(test_every_good_and_bad_request),
        cmocka_unit_test(test_indirect_is_bounded_before_its_descriptors_are_read),
        cmocka_unit_test(test_indirect_segments),
        cmocka_unit_test(test_discard),
        cmocka_unit_test(test_a_bad_segment_anywhere_refuses_the_request),
        cmocka_unit_test(test_only_the_named_segments_count),
        cmocka_unit_test(test_response_writes_its_fields_and_no_other_byte),
    };

    return cmocka_run_group_tests_name("blkif", tests, NULL, NULL);
}
