/* xengnttab_grant_copy, as Linux's gntdev carries it out.
 *
 * 1. Segments are taken in order, cut at the page boundaries of the local buffer, and gathered
 *    into batches of 16 operations, each one hypercall. A full batch runs when the next operation
 *    arrives; a segment found invalid then ends the call with EINVAL, and what was gathered and
 *    not yet run never runs, although its status already says okay.
 * 2. An operation that fails in the hypervisor sets its segment's status and nothing else: the
 *    call returns 0. The first failure of a segment stays.
 * 3. Statuses are Xen's: -3 for a reference beyond the table, -1 for an entry that is not granted,
 *    granted to another domain, or read-only and to be written; -2 for a domain that is not there.
 * 4. Stricter than gntdev: exactly one side must be foreign. (gntdev lets both be.)
 *
 * Bytes move by an inline instruction, not by memcpy: a sanitizer's memcpy would report two
 * threads that write one guest frame, which is legal here. What the sanitizers should see is
 * told to them instead: the local buffer.
 */
#include "gnttab.h"
#include "simcost.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define BATCH_OPS 16

struct copy_op {
    uint8_t *local;
    uint32_t domid;
    uint32_t ref;
    uint32_t offset;
    uint32_t len;
    bool to_guest;
    int16_t *status;
};

struct batch {
    unsigned used;
    struct copy_op ops[BATCH_OPS];
};

extern void *__asan_region_is_poisoned(void *start, size_t bytes) __attribute__((weak));
extern void __tsan_read_range(void *start, unsigned long bytes) __attribute__((weak));
extern void __tsan_write_range(void *start, unsigned long bytes) __attribute__((weak));

static void local_check(const struct copy_op *op)
{
    if (__asan_region_is_poisoned && __asan_region_is_poisoned(op->local, op->len)) {
        fprintf(stderr, "sim: grant copy of %u bytes %s poisoned memory at %p\n", op->len,
                op->to_guest ? "from" : "to", (void *)op->local);
        abort();
    }
    if (op->to_guest && __tsan_read_range)
        __tsan_read_range(op->local, op->len);
    if (!op->to_guest && __tsan_write_range)
        __tsan_write_range(op->local, op->len);
}

static void bytes_move(void *dest, const void *source, size_t len)
{
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(dest), "+S"(source), "+c"(len) : : "memory");
#else
    volatile uint8_t *to = dest;
    const uint8_t *from = source;

    while (len--)
        *to++ = *from++;
#endif
}

static int16_t op_run(struct sim_conn *conn, const struct copy_op *op)
{
    struct sim_domain *dom = sim_domain_find(conn, op->domid);
    uint64_t word;
    uint8_t *foreign;

    if (!dom)
        return GNTST_bad_domain;
    if (op->ref >= SIM_GRANTS)
        return GNTST_bad_gntref;
    word = atomic_load(&dom->grants[op->ref]);
    if (!(word & SIM_GRANT_VALID) || SIM_GRANT_DOMID(word) != conn->domid ||
        (op->to_guest && (word & SIM_GRANT_READONLY)))
        return GNTST_general_error;
    if (SIM_GRANT_FRAME(word) >= dom->pages)
        return GNTST_bad_page;
    foreign = dom->memory + (size_t)SIM_GRANT_FRAME(word) * SIM_PAGE + op->offset;
    local_check(op);
    if (op->to_guest)
        bytes_move(foreign, op->local, op->len);
    else
        bytes_move(op->local, foreign, op->len);
    return GNTST_okay;
}

static void batch_run(struct sim_conn *conn, struct batch *batch)
{
    struct sim_handle *handle = &conn->shared->handles[conn->handle];
    struct sim_stats *stats = &conn->shared->stats;
    uint64_t bytes = 0, errors = 0;
    struct copy_op *op;
    int16_t status;

    if (batch->used == 0)
        return;
    sim_cost_batch();
    atomic_fetch_add(&handle->copying, 1);
    for (op = batch->ops; op < batch->ops + batch->used; op++) {
        status = op_run(conn, op);
        if (status == GNTST_okay)
            bytes += op->len;
        else
            errors++;
        if (status != GNTST_okay && *op->status == GNTST_okay)
            *op->status = status;
    }
    atomic_fetch_sub(&handle->copying, 1);
    sim_count(&stats->grant_copy_batches, 1);
    sim_count(&stats->grant_copy_ops, batch->used);
    sim_count(&stats->grant_copy_bytes, bytes);
    sim_count(&stats->grant_copy_errors, errors);
    batch->used = 0;
}

static int segment_add(struct sim_conn *conn, struct batch *batch,
                       xengnttab_grant_copy_segment_t *seg)
{
    bool from_guest = (seg->flags & GNTCOPY_source_gref) != 0;
    bool to_guest = (seg->flags & GNTCOPY_dest_gref) != 0;
    uint8_t *local = from_guest ? seg->dest.virt : seg->source.virt;
    uint32_t offset = from_guest ? seg->source.foreign.offset : seg->dest.foreign.offset;
    uint32_t done, piece, room;

    if (from_guest == to_guest || offset + seg->len > SIM_PAGE)
        return EINVAL;
    seg->status = GNTST_okay;
    for (done = 0; done < seg->len; done += piece) {
        if (batch->used == BATCH_OPS)
            batch_run(conn, batch);
        room = SIM_PAGE - (uint32_t)((uintptr_t)(local + done) % SIM_PAGE);
        piece = seg->len - done < room ? seg->len - done : room;
        if (gnttab_is_mapped(local + done, piece))
            return EFAULT;
        batch->ops[batch->used++] = (struct copy_op){
            .local = local + done,
            .domid = from_guest ? seg->source.foreign.domid : seg->dest.foreign.domid,
            .ref = from_guest ? seg->source.foreign.ref : seg->dest.foreign.ref,
            .offset = offset + done,
            .len = piece,
            .to_guest = to_guest,
            .status = &seg->status,
        };
    }
    return 0;
}

int xengnttab_grant_copy(xengnttab_handle *xgt, uint32_t count,
                         xengnttab_grant_copy_segment_t *segs)
{
    struct batch batch = {0};
    uint32_t i;
    int err = 0;

    sim_one_syscall();
    sim_count(&xgt->conn->shared->stats.grant_copy_calls, 1);
    for (i = 0; i < count && !err; i++)
        err = segment_add(xgt->conn, &batch, &segs[i]);
    if (err) {
        errno = err;
        return -1;
    }
    batch_run(xgt->conn, &batch);
    return 0;
}
