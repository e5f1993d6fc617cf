/* The bytes of a request of steadyguest: what is sent, and whether what came back is right. */
#include "steady.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PAGE_SECTORS (GUEST_PAGE / GUEST_SECTOR)
#define WORDS        (GUEST_SECTOR / sizeof(uint64_t))
#define TOLD_MAX     10u

/* Beyond any disk: of frames' sectors that no request names. */
#define NO_SECTOR UINT64_MAX

enum { WORD_SECTOR, WORD_WRITE, WORD_MS, WORD_REST };

uint32_t steady_now_ms(const struct steady *steady)
{
    return (uint32_t)(guest_clock_ms() - steady->start_ms);
}

void steady_stamp(uint8_t *to, uint64_t sector, uint64_t write, uint32_t ms)
{
    uint64_t words[WORDS] = {sector, write, ms};
    uint64_t x = (sector + 1) * UINT64_C(0x9e3779b97f4a7c15) + write * UINT64_C(0x2545f4914f6cdd1d);
    size_t i;

    for (i = WORD_REST; i < WORDS; i++) {
        x ^= x >> 29;
        x = x * UINT64_C(0xbf58476d1ce4e5b9) + ms;
        words[i] = x;
    }
    memcpy(to, words, GUEST_SECTOR);
}

static uint8_t *io_sector(const struct steady *steady, const struct steady_io *io, unsigned place)
{
    return guest_page(steady->guest, io->frames[place / PAGE_SECTORS]) +
           (size_t)(place % PAGE_SECTORS) * GUEST_SECTOR;
}

/* What a place in the frames holds when the request is sent. */
static void stamp_sent(const struct steady_io *io, unsigned place, uint8_t *to)
{
    if (io->op == STEADY_WRITE && place >= io->first && place < io->first + io->nr_sectors)
        steady_stamp(to, io->sector + place - io->first, io->write, io->sent_ms);
    else
        steady_stamp(to, NO_SECTOR, place, io->sent_ms);
}

/* The descriptors' frame is granted read-only, as are a write's. */
static void list_prepare(struct steady *steady, struct steady_io *io)
{
    uint8_t *page = guest_page(steady->guest, io->list_frame);
    unsigned i;

    for (i = 0; i < io->req.nr_segments; i++)
        guest_abi_indirect(page, i, &io->segments[i]);
    io->list_ref = guest_grant(steady->guest, io->list_frame, 0, true);
    io->req.indirect_refs[0] = io->list_ref;
}

void steady_io_prepare(struct steady *steady, struct steady_io *io)
{
    unsigned end = io->first + io->nr_sectors, i, left;

    io->sent_ms = steady_now_ms(steady);
    io->req.sector = io->sector;
    if (io->op == STEADY_DISCARD)
        io->req.nr_sectors = io->nr_sectors;
    if (io->nr_frames == 0)
        return;
    for (i = 0; i < io->nr_frames * PAGE_SECTORS; i++)
        stamp_sent(io, i, io_sector(steady, io, i));
    for (i = 0; i < io->nr_frames; i++) {
        left = end - i * PAGE_SECTORS;
        io->refs[i] = guest_grant(steady->guest, io->frames[i], 0, io->op == STEADY_WRITE);
        io->segments[i] = (struct front_segment){
            .ref = io->refs[i],
            .first = (uint8_t)(i == 0 ? io->first : 0),
            .last = (uint8_t)(left < PAGE_SECTORS ? left - 1 : PAGE_SECTORS - 1)};
    }
    io->req.nr_segments = (uint16_t)io->nr_frames;
    if (io->req.op == OP_INDIRECT)
        list_prepare(steady, io);
    else
        memcpy(io->req.segments, io->segments, sizeof(io->req.segments));
}

static void io_revoke(struct steady *steady, struct steady_io *io)
{
    unsigned i;
    bool all = true;

    for (i = 0; i < io->nr_frames; i++)
        all &= guest_revoke(steady->guest, io->refs[i]);
    if (io->list_ref)
        all &= guest_revoke(steady->guest, io->list_ref);
    io->list_ref = 0;
    if (all)
        return;
    fprintf(stderr, "steadyguest: an answered request's grant is still mapped\n");
    steady->nr_errors++;
}

static unsigned bytes_differing(const uint8_t *a, const uint8_t *b)
{
    unsigned n = 0, i;

    if (memcmp(a, b, GUEST_SECTOR) == 0)
        return 0;
    for (i = 0; i < GUEST_SECTOR; i++)
        n += a[i] != b[i];
    return n;
}

static bool is_zeros(const uint8_t *bytes)
{
    static const uint8_t zeros[GUEST_SECTOR];

    return memcmp(bytes, zeros, GUEST_SECTOR) == 0;
}

/* Is it exactly what some earlier write put there? */
static bool is_stale(const uint8_t *bytes, uint64_t at, uint64_t ret_words[WORD_REST])
{
    uint8_t expected[GUEST_SECTOR];

    memcpy(ret_words, bytes, WORD_REST * sizeof(*ret_words));
    steady_stamp(expected, ret_words[WORD_SECTOR], ret_words[WORD_WRITE],
                 (uint32_t)ret_words[WORD_MS]);
    return ret_words[WORD_SECTOR] == at && memcmp(bytes, expected, GUEST_SECTOR) == 0;
}

static void wrong_tell(struct steady *steady, uint64_t at, const uint8_t *bytes, unsigned wrong)
{
    const struct steady_sector *is = &steady->sectors[at];
    bool flushed = is->answered <= steady->flushed;
    uint64_t words[WORD_REST];
    char what[80];

    if (is_stale(bytes, at, words)) {
        steady->nr_stale_sectors++;
        snprintf(what, sizeof(what), "write %" PRIu64 " (sent at %.3f s)", words[WORD_WRITE],
                 (double)words[WORD_MS] / 1000);
    } else {
        snprintf(what, sizeof(what), "%s",
                 is_zeros(bytes) ? "zeros" : "what no write has put there");
    }
    if (steady->ending) {
        steady->nr_lost++;
        steady->nr_lost_flushed += flushed;
    }
    if (steady->nr_wrong_bytes == 0 || (steady->ending && steady->nr_lost <= TOLD_MAX))
        fprintf(stderr,
                "steadyguest: at %.3f s sector %" PRIu64 " holds %s, and not write %" PRIu64
                " (sent at %.3f s, answered at %.3f s%s)\n",
                (double)steady_now_ms(steady) / 1000, at, what, is->write,
                (double)is->sent_ms / 1000, (double)is->answered_ms / 1000,
                flushed ? ", and flushed" : "");
    steady->nr_wrong_bytes += wrong;
}

static void read_check(struct steady *steady, const struct steady_io *io)
{
    uint8_t expected[GUEST_SECTOR];
    unsigned i, wrong;

    for (i = 0; i < io->nr_sectors; i++) {
        const uint64_t at = io->sector + i;
        const struct steady_sector *is = &steady->sectors[at];
        const uint8_t *bytes = io_sector(steady, io, io->first + i);

        if (is->knowledge == STEADY_UNKNOWN ||
            (is->knowledge == STEADY_DISCARDED && is_zeros(bytes)))
            continue;
        steady_stamp(expected, at, is->write, is->sent_ms);
        wrong = bytes_differing(bytes, expected);
        if (wrong)
            wrong_tell(steady, at, bytes, wrong);
    }
}

/* What no answer brings anything to is as it was sent: all of it but an answered read's sectors. */
static void rest_check(struct steady *steady, const struct steady_io *io, bool brought)
{
    uint8_t expected[GUEST_SECTOR];
    unsigned i, wrong;

    for (i = 0; i < io->nr_frames * PAGE_SECTORS; i++) {
        if (brought && i >= io->first && i < io->first + io->nr_sectors)
            continue;
        stamp_sent(io, i, expected);
        wrong = bytes_differing(io_sector(steady, io, i), expected);
        if (wrong && steady->nr_wrong_bytes == 0)
            fprintf(stderr,
                    "steadyguest: %u bytes changed in a frame of %u sectors at %" PRIu64
                    ", where none may\n",
                    wrong, io->nr_sectors, io->sector);
        steady->nr_wrong_bytes += wrong;
    }
}

static void sectors_take(struct steady *steady, const struct steady_io *io, int status)
{
    struct steady_sector *is = &steady->sectors[io->sector], *end = is + io->nr_sectors;

    if (status == RSP_OKAY && io->op == STEADY_WRITE)
        steady->nr_answered++;
    for (; is < end; is++) {
        if (io->op == STEADY_READ) {
            is->readers--;
            continue;
        }
        is->writer = false;
        if (status != RSP_OKAY) {
            is->knowledge = STEADY_UNKNOWN;
        } else if (io->op == STEADY_DISCARD) {
            if (is->knowledge == STEADY_KNOWN)
                is->knowledge = STEADY_DISCARDED;
        } else {
            is->knowledge = STEADY_KNOWN;
            is->write = io->write;
            is->answered = steady->nr_answered;
            is->sent_ms = io->sent_ms;
            is->answered_ms = steady_now_ms(steady);
        }
    }
}

void steady_io_finish(struct steady *steady, struct steady_io *io, int status)
{
    const bool brought = io->op == STEADY_READ && status == RSP_OKAY;

    io_revoke(steady, io);
    rest_check(steady, io, brought);
    if (brought)
        read_check(steady, io);
    if (io->op != STEADY_FLUSH)
        sectors_take(steady, io, status);
    else if (status == RSP_OKAY && io->covers > steady->flushed)
        steady->flushed = io->covers;
}
