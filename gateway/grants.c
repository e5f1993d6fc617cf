#include "gateway/grants.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xengnttab.h>

#include "proto/limits.h"

enum {
    BATCH_COPIES = 1024, /* of one call: a turn's worth; beyond it the turn makes another call */
    STATUS_UNTOUCHED = INT16_MIN, /* no status of Xen's: a copy nobody made has failed (XSA-318) */
};

struct grants_batch {
    uint32_t count;
    xengnttab_grant_copy_segment_t copy[BATCH_COPIES];
    int *error[BATCH_COPIES];
};

struct grants {
    xengnttab_handle *handle;
    struct grants_batch batch[2]; /* by enum grants_direction */
};

int grants_open(struct grants **ret_grants)
{
    struct grants *grants = calloc(1, sizeof *grants);
    int err;

    if (!grants)
        return -ENOMEM;
    grants->handle = xengnttab_open(NULL, 0);
    if (!grants->handle) {
        err = errno ? -errno : -ENODEV;
        free(grants);
        return err;
    }
    *ret_grants = grants;
    return 0;
}

void grants_close(struct grants *grants)
{
    if (!grants)
        return;
    xengnttab_close(grants->handle);
    free(grants);
}

int grants_map(struct grants *grants, uint32_t domid, const uint32_t *refs, uint32_t count,
               void **ret_memory)
{
    uint32_t copy[LIMIT_RING_PAGES]; /* the library takes them writable */
    void *memory;

    if (count == 0 || count > LIMIT_RING_PAGES)
        return -EINVAL;
    memcpy(copy, refs, count * sizeof *refs);
    errno = 0;
    memory =
        xengnttab_map_domain_grant_refs(grants->handle, count, domid, copy, PROT_READ | PROT_WRITE);
    if (!memory)
        return errno ? -errno : -EINVAL;
    *ret_memory = memory;
    return 0;
}

void grants_unmap(struct grants *grants, void *memory, uint32_t count)
{
    if (memory)
        xengnttab_unmap(grants->handle, memory, count);
}

static void run_one_by_one(struct grants *grants, struct grants_batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        batch->copy[i].status = STATUS_UNTOUCHED;
        if (xengnttab_grant_copy(grants->handle, 1, &batch->copy[i]) != 0)
            batch->copy[i].status = STATUS_UNTOUCHED;
    }
}

void grants_run(struct grants *grants, enum grants_direction direction)
{
    struct grants_batch *batch = &grants->batch[direction];

    if (batch->count == 0)
        return;
    if (xengnttab_grant_copy(grants->handle, batch->count, batch->copy) != 0)
        run_one_by_one(grants, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        if (batch->copy[i].status != GNTST_okay)
            *batch->error[i] = -EFAULT;
    }
    batch->count = 0;
}

static void *local_of(const xengnttab_grant_copy_segment_t *copy, enum grants_direction direction)
{
    return direction == GRANTS_FROM_GUEST ? copy->dest.virt : copy->source.virt;
}

/* Does it go on, in the frame and here, where the one collected last ends? Then it is one copy. */
static bool extend_last(struct grants_batch *batch, enum grants_direction direction, uint32_t domid,
                        uint32_t ref, uint32_t offset, void *local, uint32_t length, int *error)
{
    xengnttab_grant_copy_segment_t *last;
    uint32_t last_ref, last_offset, last_domid;

    if (batch->count == 0 || batch->error[batch->count - 1] != error)
        return false;
    last = &batch->copy[batch->count - 1];
    if (direction == GRANTS_FROM_GUEST) {
        last_ref = last->source.foreign.ref;
        last_offset = last->source.foreign.offset;
        last_domid = last->source.foreign.domid;
    } else {
        last_ref = last->dest.foreign.ref;
        last_offset = last->dest.foreign.offset;
        last_domid = last->dest.foreign.domid;
    }
    if (last_ref != ref || last_domid != domid || last_offset + last->len != offset ||
        (uint8_t *)local_of(last, direction) + last->len != (uint8_t *)local)
        return false;
    last->len = (uint16_t)(last->len + length);
    return true;
}

void grants_copy(struct grants *grants, enum grants_direction direction, uint32_t domid,
                 uint32_t ref, uint32_t offset, void *local, uint32_t length, int *error)
{
    struct grants_batch *batch = &grants->batch[direction];
    xengnttab_grant_copy_segment_t *copy;

    assert(length > 0 && offset + length <= LIMIT_PAGE_BYTES);
    if (extend_last(batch, direction, domid, ref, offset, local, length, error))
        return;
    if (batch->count == BATCH_COPIES)
        grants_run(grants, direction);
    copy = &batch->copy[batch->count];
    memset(copy, 0, sizeof *copy);
    copy->len = (uint16_t)length;
    copy->status = STATUS_UNTOUCHED;
    if (direction == GRANTS_FROM_GUEST) {
        copy->flags = GNTCOPY_source_gref;
        copy->source.foreign.ref = ref;
        copy->source.foreign.offset = (uint16_t)offset;
        copy->source.foreign.domid = (uint16_t)domid;
        copy->dest.virt = local;
    } else {
        copy->flags = GNTCOPY_dest_gref;
        copy->source.virt = local;
        copy->dest.foreign.ref = ref;
        copy->dest.foreign.offset = (uint16_t)offset;
        copy->dest.foreign.domid = (uint16_t)domid;
    }
    batch->error[batch->count++] = error;
}
