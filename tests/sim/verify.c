/* What a request's frames must hold before and after, byte by byte.
 *
 * A READ starts with a canary in every frame; afterwards each sector of each frame must be
 *   - the model's bytes of a segment that names it (of any, where several do: their order is free),
 *   - or the untouched canary.
 * A WRITE must leave its frames alone; the model takes its bytes when it is answered OKAY. */
#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PAGE_SECTORS (GUEST_PAGE / GUEST_SECTOR)

static void page_fill(struct load *load, uint8_t *page)
{
    uint64_t word = load_random(load), step = load_random(load) | 1;
    size_t i;

    for (i = 0; i < GUEST_PAGE; i += sizeof(word), word += step)
        memcpy(page + i, &word, sizeof(word));
}

void io_prepare(struct load *load, struct io *io)
{
    bool readonly = io->req.op != OP_READ;
    unsigned i;

    for (i = 0; i < io->nr_frames; i++) {
        page_fill(load, guest_page(load->guest, io->frames[i]));
        memcpy(io->before + (size_t)i * GUEST_PAGE, guest_page(load->guest, io->frames[i]),
               GUEST_PAGE);
        io->refs[i] = guest_grant(load->guest, io->frames[i], 0, readonly);
    }
    for (i = 0; i < io->req.nr_segments && i < GUEST_SEGMENTS_MAX; i++)
        io->req.segments[i].ref = io->refs[io->frame_of[i]];
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

/* Bytes of one frame sector that nothing allows to be as they are. */
static unsigned sector_wrong(const struct load *load, const struct io *io, unsigned frame,
                             unsigned sector, const uint8_t *bytes, bool moved)
{
    const uint8_t *canary = io->before + (size_t)frame * GUEST_PAGE + (size_t)sector * GUEST_SECTOR;
    uint64_t at = io->req.sector;
    unsigned i, wrong = 0;
    bool named = false;

    for (i = 0; moved && i < io->req.nr_segments; i++) {
        const struct front_segment *seg = &io->req.segments[i];

        if (io->frame_of[i] == frame && seg->first <= sector && sector <= seg->last) {
            named = true;
            wrong = bytes_differing(bytes, load->model + (at + sector - seg->first) * GUEST_SECTOR,
                                    GUEST_SECTOR);
            if (wrong == 0)
                return 0;
        }
        at += (unsigned)(seg->last - seg->first) + 1;
    }
    return named ? wrong : bytes_differing(bytes, canary, GUEST_SECTOR);
}

static void frames_check(struct load *load, struct io *io, bool moved)
{
    unsigned frame, sector, wrong;
    const uint8_t *page;

    for (frame = 0; frame < io->nr_frames; frame++) {
        page = guest_page(load->guest, io->frames[frame]);
        for (sector = 0; sector < PAGE_SECTORS; sector++, page += GUEST_SECTOR) {
            wrong = sector_wrong(load, io, frame, sector, page, moved);
            if (wrong && load->nr_wrong_bytes == 0)
                fprintf(stderr,
                        "simguest: %s of %u segments at sector %" PRIu64
                        ": frame %u, sector %u is wrong in %u bytes\n",
                        io->req.op == OP_READ ? "read" : "write", io->req.nr_segments,
                        io->req.sector, frame, sector, wrong);
            load->nr_wrong_bytes += wrong;
        }
    }
}

static void model_write(struct load *load, const struct io *io)
{
    uint8_t *to = load->model + io->req.sector * GUEST_SECTOR;
    const struct front_segment *seg;
    size_t len;
    unsigned i;

    for (i = 0; i < io->req.nr_segments; i++, to += len) {
        seg = &io->req.segments[i];
        len = ((size_t)(seg->last - seg->first) + 1) * GUEST_SECTOR;
        memcpy(to,
               io->before + (size_t)io->frame_of[i] * GUEST_PAGE +
                   (size_t)seg->first * GUEST_SECTOR,
               len);
    }
}

void io_finish(struct load *load, struct io *io, int status)
{
    unsigned i;

    for (i = 0; i < io->nr_frames; i++) {
        if (guest_revoke(load->guest, io->refs[i]))
            continue;
        fprintf(stderr, "simguest: an answered request's grant is still mapped\n");
        load->nr_errors++;
    }
    if (status == RSP_OKAY && io->req.op == OP_WRITE)
        model_write(load, io);
    /* A failed read moves nothing here: all legal requests that fail do so at the server. */
    frames_check(load, io, io->req.op == OP_READ && status == RSP_OKAY);
    load->nr_bytes += status == RSP_OKAY ? io->nr_sectors * GUEST_SECTOR : 0;
}
