/* What a request's frames must hold before and after, byte by byte.
 *
 * A READ starts with a canary in every frame; afterwards each sector of each frame must be
 *   - the model's bytes of a segment that names it (of any, where several do: their order is free),
 *   - or the untouched canary.
 * A WRITE, and a FLUSH with data, must leave its frames alone; the model takes its bytes when it is
 * answered OKAY. NBD leaves open what a discarded sector holds until it is written, but not that it
 * holds something else at each look: the model takes what the first read finds. */
#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PAGE_SECTORS (GUEST_PAGE / GUEST_SECTOR)

uint8_t io_op(const struct io *io)
{
    return io->req.op == OP_INDIRECT ? io->req.inner_op : io->req.op;
}

bool io_writes(const struct io *io)
{
    return io_op(io) == OP_WRITE || (io_op(io) == OP_FLUSH && io->req.nr_segments > 0);
}

void io_indirect(struct io *io)
{
    io->req.inner_op = io->req.op;
    io->req.op = OP_INDIRECT;
}

static void page_fill(struct load *load, uint8_t *page)
{
    uint64_t word = load_random(load), step = load_random(load) | 1;
    size_t i;

    for (i = 0; i < GUEST_PAGE; i += sizeof(word), word += step)
        memcpy(page + i, &word, sizeof(word));
}

/* The descriptors' frame is granted read-only: a backend has no business writing there. */
static void list_prepare(struct load *load, struct io *io)
{
    uint8_t *page = guest_page(load->guest, io->list_frame);
    unsigned i;

    memset(page, 0xa5, GUEST_PAGE);
    for (i = 0; i < io->req.nr_segments && i < GUEST_INDIRECT_MAX; i++)
        guest_abi_indirect(page, i, &io->segments[i]);
    io->list_ref = guest_grant(load->guest, io->list_frame, 0, true);
    memset(io->req.indirect_refs, 0xa5, sizeof(io->req.indirect_refs));
    io->req.indirect_refs[0] = io->list_ref;
}

void io_prepare(struct load *load, struct io *io)
{
    bool readonly = io_op(io) != OP_READ;
    unsigned i;

    for (i = 0; i < io->nr_frames; i++) {
        page_fill(load, guest_page(load->guest, io->frames[i]));
        memcpy(io->before + (size_t)i * GUEST_PAGE, guest_page(load->guest, io->frames[i]),
               GUEST_PAGE);
        io->refs[i] = guest_grant(load->guest, io->frames[i], 0, readonly);
    }
    for (i = 0; i < io->req.nr_segments; i++)
        io->segments[i].ref = io->refs[io->frame_of[i]];
    if (io->req.op == OP_INDIRECT)
        list_prepare(load, io);
    else
        memcpy(io->req.segments, io->segments, sizeof(io->req.segments));
}

static unsigned bytes_differing(const uint8_t *a, const uint8_t *b, size_t len)
{
    unsigned n = 0;

    if (memcmp(a, b, len) == 0)
        return 0;
    while (len-- > 0)
        n += *a++ != *b++;
    return n;
}

/* Bytes that are not what the model lets disk sector `at` hold. */
static unsigned sector_wrong(const struct load *load, uint64_t at, const uint8_t *bytes)
{
    static const uint8_t zeros[GUEST_SECTOR];
    unsigned wrong = bytes_differing(bytes, load->model + at * GUEST_SECTOR, GUEST_SECTOR);

    if (load->knowledge[at] == UNKNOWN)
        return 0;
    if (load->knowledge[at] == DISCARDED && wrong && memcmp(bytes, zeros, GUEST_SECTOR) == 0)
        return 0;
    return wrong;
}

/* What a discarded sector turned out to hold it holds from now on. */
static void sector_pin(struct load *load, uint64_t at, const uint8_t *bytes)
{
    if (load->knowledge[at] == KNOWN)
        return;
    memcpy(load->model + at * GUEST_SECTOR, bytes, GUEST_SECTOR);
    load->knowledge[at] = KNOWN;
}

enum { UNNAMED = 0xffff };

struct named {
    uint16_t wrong; /* UNNAMED, or the fewest wrong bytes of the segments that name it */
    uint16_t times;
};

/* Of each sector of each frame, by the segments of a read. */
static void segments_judge(const struct load *load, const struct io *io, struct named *named)
{
    uint64_t at = io->req.sector;
    unsigned i, sector, wrong;

    for (i = 0; i < io->req.nr_segments; i++) {
        const struct front_segment *seg = &io->segments[i];
        const uint8_t *page = guest_page(load->guest, io->frames[io->frame_of[i]]);

        if (io->frame_of[i] >= io->nr_frames)
            at += (unsigned)(seg->last - seg->first) + 1;
        for (sector = seg->first; io->frame_of[i] < io->nr_frames && sector <= seg->last;
             sector++, at++) {
            struct named *it = &named[io->frame_of[i] * PAGE_SECTORS + sector];

            wrong = sector_wrong(load, at, page + (size_t)sector * GUEST_SECTOR);
            if (wrong < it->wrong)
                it->wrong = (uint16_t)wrong;
            it->times++;
        }
    }
}

/* Only from frame sectors that one segment names: of others it is not known whose bytes they are.
 */
static void segments_pin(struct load *load, const struct io *io, const struct named *named)
{
    uint64_t at = io->req.sector;
    unsigned i, sector;

    for (i = 0; i < io->req.nr_segments; i++) {
        const struct front_segment *seg = &io->segments[i];
        const uint8_t *page = guest_page(load->guest, io->frames[io->frame_of[i]]);

        for (sector = seg->first; sector <= seg->last; sector++, at++) {
            const struct named *it = &named[io->frame_of[i] * PAGE_SECTORS + sector];

            if (it->times == 1 && it->wrong == 0)
                sector_pin(load, at, page + (size_t)sector * GUEST_SECTOR);
        }
    }
}

static void wrong_tell(struct load *load, const struct io *io, unsigned at, unsigned wrong)
{
    if (load->nr_wrong_bytes == 0)
        fprintf(stderr,
                "simguest: %s%s of %u segments at sector %" PRIu64
                ": frame %u, sector %u is wrong in %u bytes\n",
                io->req.op == OP_INDIRECT ? "indirect " : "", io_writes(io) ? "write" : "read",
                io->req.nr_segments, io->req.sector, at / PAGE_SECTORS, at % PAGE_SECTORS, wrong);
    load->nr_wrong_bytes += wrong;
}

void io_check(struct load *load, struct io *io, enum moved moved)
{
    static struct named named[GUEST_INDIRECT_MAX * PAGE_SECTORS];
    unsigned i, wrong;

    for (i = 0; i < io->nr_frames * PAGE_SECTORS; i++)
        named[i] = (struct named){.wrong = UNNAMED};
    if (moved != MOVED_NOTHING)
        segments_judge(load, io, named);
    for (i = 0; i < io->nr_frames * PAGE_SECTORS; i++) {
        const uint8_t *page = guest_page(load->guest, io->frames[i / PAGE_SECTORS]);

        wrong = named[i].wrong;
        if (wrong == UNNAMED || (wrong && moved == MOVED_PARTLY))
            wrong = bytes_differing(page + (size_t)(i % PAGE_SECTORS) * GUEST_SECTOR,
                                    io->before + (size_t)i * GUEST_SECTOR, GUEST_SECTOR);
        if (wrong)
            wrong_tell(load, io, i, wrong);
    }
    if (moved == MOVED_ALL)
        segments_pin(load, io, named);
}

static void model_write(struct load *load, const struct io *io)
{
    uint8_t *to = load->model + io->req.sector * GUEST_SECTOR;
    const struct front_segment *seg;
    size_t len;
    unsigned i;

    for (i = 0; i < io->req.nr_segments; i++, to += len) {
        seg = &io->segments[i];
        len = ((size_t)(seg->last - seg->first) + 1) * GUEST_SECTOR;
        memcpy(to,
               io->before + (size_t)io->frame_of[i] * GUEST_PAGE +
                   (size_t)seg->first * GUEST_SECTOR,
               len);
    }
    memset(load->knowledge + io->req.sector, KNOWN, io->nr_sectors);
}

static void model_discard(struct load *load, const struct io *io)
{
    uint64_t end = io->req.sector + io->req.nr_sectors, at;

    if (end > load->options.model_sectors)
        end = load->options.model_sectors;
    for (at = io->req.sector; at < end; at++)
        if (load->knowledge[at] == KNOWN)
            load->knowledge[at] = DISCARDED;
}

void io_revoke(struct load *load, struct io *io)
{
    bool all = true;
    unsigned i;

    for (i = 0; i < io->nr_frames; i++)
        all &= guest_revoke(load->guest, io->refs[i]);
    if (io->list_ref)
        all &= guest_revoke(load->guest, io->list_ref);
    io->list_ref = 0;
    if (all)
        return;
    fprintf(stderr, "simguest: an answered request's grant is still mapped\n");
    load->nr_errors++;
}

void io_finish(struct load *load, struct io *io, int status)
{
    bool moved = status == RSP_OKAY;

    io_revoke(load, io);
    if (moved && io_writes(io))
        model_write(load, io);
    if (moved && io_op(io) == OP_DISCARD)
        model_discard(load, io);
    /* A failed read moves nothing here: all legal requests that fail do so at the server. */
    io_check(load, io, io_op(io) == OP_READ && moved ? MOVED_ALL : MOVED_NOTHING);
    load->nr_bytes += moved && io_op(io) != OP_DISCARD ? io->nr_sectors * GUEST_SECTOR : 0;
}
