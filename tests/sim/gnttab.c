/* Stand-in for libxengnttab.so.1: handles, mappings and sharing, as Linux's gntdev and gntalloc.
 *
 * 1. A mapping is contiguous and all-or-nothing. It pins its grants in simxen until it is
 *    unmapped, its handle closed, or the process dead.
 * 2. Unmap wants exactly what map gave: the start and the count.
 */
#include "gnttab.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* How many mapped pages there are whose numbers end alike. Nearly always none has the common
 * copy's, which so needs no lock, and no look at each of a thousand rings. */
#define MAPPED_ENDS 65536u
static _Atomic uint16_t mapped_ends[MAPPED_ENDS];
static pthread_mutex_t mapped_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mapped {
    struct mapped *next;
    uintptr_t start, end;
} * mapped_list;

static uint32_t own_domid(void)
{
    const char *text = getenv("BLKGATE_SIM_DOMID");

    return text ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

static int fail(int err)
{
    errno = err;
    return -1;
}

static _Atomic uint16_t *end_of_page(uintptr_t address)
{
    return &mapped_ends[address / SIM_PAGE % MAPPED_ENDS];
}

bool gnttab_is_mapped(const void *start, size_t bytes)
{
    uintptr_t low = (uintptr_t)start, high = low + bytes;
    struct mapped *m;
    bool found = false;

    if (!atomic_load(end_of_page(low)) && !atomic_load(end_of_page(high - 1)))
        return false;
    pthread_mutex_lock(&mapped_lock);
    for (m = mapped_list; m && !found; m = m->next)
        found = low < m->end && high > m->start;
    pthread_mutex_unlock(&mapped_lock);
    return found;
}

static void mapped_add(uint8_t *start, uint32_t count)
{
    struct mapped *m = calloc(1, sizeof(*m));

    if (!m)
        return;
    m->start = (uintptr_t)start;
    m->end = m->start + (size_t)count * SIM_PAGE;
    pthread_mutex_lock(&mapped_lock);
    m->next = mapped_list;
    mapped_list = m;
    for (uintptr_t page = m->start; page < m->end; page += SIM_PAGE)
        atomic_fetch_add(end_of_page(page), 1);
    pthread_mutex_unlock(&mapped_lock);
}

static void mapped_remove(uint8_t *start)
{
    struct mapped **link, *m;

    pthread_mutex_lock(&mapped_lock);
    for (link = &mapped_list; (m = *link); link = &m->next)
        if (m->start == (uintptr_t)start) {
            *link = m->next;
            for (uintptr_t page = m->start; page < m->end; page += SIM_PAGE)
                atomic_fetch_sub(end_of_page(page), 1);
            free(m);
            break;
        }
    pthread_mutex_unlock(&mapped_lock);
}

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    xengnttab_handle *xgt = calloc(1, sizeof(*xgt));

    (void)logger;
    (void)open_flags;
    if (!xgt)
        return NULL;
    pthread_mutex_init(&xgt->lock, NULL);
    xgt->conn = sim_connect(SIM_KIND_GNTTAB, own_domid());
    if (!xgt->conn) {
        free(xgt);
        return NULL;
    }
    return xgt;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    struct area *area;

    if (!xgt)
        return 0;
    while ((area = xgt->areas)) {
        xgt->areas = area->next;
        mapped_remove(area->start);
        munmap(area->start, (size_t)area->count * SIM_PAGE);
        free(area);
    }
    sim_disconnect(xgt->conn);
    pthread_mutex_destroy(&xgt->lock);
    free(xgt);
    return 0;
}

int xengnttab_fd(xengnttab_handle *xgt)
{
    return xgt->conn->fd;
}

/* On Linux the limit is a parameter of the module and this call does nothing. */
int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t nr_grants)
{
    (void)xgt;
    (void)nr_grants;
    return 0;
}

static void area_add(xengnttab_handle *xgt, struct area *area, void *start, uint32_t count,
                     uint32_t id)
{
    area->start = start;
    area->count = count;
    area->id = id;
    pthread_mutex_lock(&xgt->lock);
    area->next = xgt->areas;
    xgt->areas = area;
    pthread_mutex_unlock(&xgt->lock);
}

static struct area *area_take(xengnttab_handle *xgt, void *start, uint32_t count)
{
    struct area **link, *area = NULL;

    pthread_mutex_lock(&xgt->lock);
    for (link = &xgt->areas; *link; link = &(*link)->next)
        if ((*link)->start == start && (*link)->count == count) {
            area = *link;
            *link = area->next;
            break;
        }
    pthread_mutex_unlock(&xgt->lock);
    return area;
}

/* Frames into one range of addresses: reserved as a whole first, so that it is contiguous. */
static void *frames_map(xengnttab_handle *xgt, uint32_t count, const uint32_t *domids,
                        const uint32_t *frames, int prot)
{
    size_t bytes = (size_t)count * SIM_PAGE;
    struct sim_domain *dom;
    uint8_t *start;
    uint32_t i;
    void *p;

    start = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    for (i = 0; i < count; i++) {
        dom = sim_domain_find(xgt->conn, domids[i]);
        p = MAP_FAILED;
        if (dom)
            p = mmap(start + (size_t)i * SIM_PAGE, SIM_PAGE, prot, MAP_SHARED | MAP_FIXED,
                     dom->memory_fd, (off_t)frames[i] * SIM_PAGE);
        if (p == MAP_FAILED) {
            munmap(start, bytes);
            return NULL;
        }
    }
    return start;
}

static void unmap_call(xengnttab_handle *xgt, uint32_t id)
{
    struct sim_msg msg = {.op = SIM_GRANT_UNMAP, .arg = {id}};

    sim_call(xgt->conn, &msg, NULL, 0);
}

static int pin_call(xengnttab_handle *xgt, struct sim_msg *msg, uint32_t count,
                    const uint32_t *domids, const uint32_t *refs, int prot)
{
    uint32_t i;

    if (count == 0)
        return EINVAL;
    if (count > SIM_MAP_MAX)
        return ENOMEM;
    msg->op = SIM_GRANT_MAP;
    msg->arg[0] = (prot & PROT_WRITE) != 0;
    msg->used = 2 * count;
    for (i = 0; i < count; i++) {
        msg->list[2 * i] = domids[i];
        msg->list[2 * i + 1] = refs[i];
    }
    return sim_call(xgt->conn, msg, NULL, 0);
}

void *xengnttab_map_grant_refs(xengnttab_handle *xgt, uint32_t count, uint32_t *domids,
                               uint32_t *refs, int prot)
{
    struct area *area = calloc(1, sizeof(*area));
    struct sim_msg *msg = calloc(1, sizeof(*msg));
    void *start = NULL;
    int err = ENOMEM;

    if (area && msg)
        err = pin_call(xgt, msg, count, domids, refs, prot);
    if (!err) {
        start = frames_map(xgt, count, domids, msg->list, prot);
        if (!start) {
            unmap_call(xgt, msg->arg[0]);
            err = EINVAL;
        }
    }
    if (start) {
        area_add(xgt, area, start, count, msg->arg[0]);
        mapped_add(start, count);
        sim_count(&xgt->conn->shared->stats.maps, 1);
        sim_count(&xgt->conn->shared->stats.mapped_grants, count);
    } else {
        free(area);
    }
    free(msg);
    if (!start)
        errno = err;
    return start;
}

void *xengnttab_map_domain_grant_refs(xengnttab_handle *xgt, uint32_t count, uint32_t domid,
                                      uint32_t *refs, int prot)
{
    uint32_t *domids = calloc(count ? count : 1, sizeof(*domids)), i;
    void *start;
    int err;

    if (!domids)
        return NULL;
    for (i = 0; i < count; i++)
        domids[i] = domid;
    start = xengnttab_map_grant_refs(xgt, count, domids, refs, prot);
    err = errno;
    free(domids);
    errno = err;
    return start;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    return xengnttab_map_grant_refs(xgt, 1, &domid, &ref, prot);
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    struct area *area = area_take(xgt, start_address, count);

    if (!area)
        return fail(EINVAL);
    mapped_remove(area->start);
    munmap(area->start, (size_t)area->count * SIM_PAGE);
    unmap_call(xgt, area->id);
    sim_count(&xgt->conn->shared->stats.unmaps, 1);
    free(area);
    return 0;
}

/* Sharing: the daemon never does it. The conformance test does, having no guest. */
xengntshr_handle *xengntshr_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    return xengnttab_open(logger, open_flags);
}

int xengntshr_close(xengntshr_handle *xgs)
{
    return xengnttab_close(xgs);
}

void *xengntshr_share_pages(xengntshr_handle *xgs, uint32_t domid, int count, uint32_t *refs,
                            int writable)
{
    struct sim_msg msg = {.op = SIM_SHARE_PAGES, .arg = {domid, writable != 0, (uint32_t)count}};
    struct sim_domain *dom = sim_domain_find(xgs->conn, xgs->conn->domid);
    struct area *area = calloc(1, sizeof(*area));
    int err = area && dom ? sim_call(xgs->conn, &msg, NULL, 0) : ENOMEM, i;
    void *start;

    if (err)
        goto fail;
    start = mmap(NULL, (size_t)count * SIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dom->memory_fd,
                 (off_t)msg.arg[0] * SIM_PAGE);
    err = errno;
    if (start == MAP_FAILED)
        goto fail;
    for (i = 0; i < count; i++)
        refs[i] = msg.list[i];
    area_add(xgs, area, start, (uint32_t)count, msg.arg[0]);
    return start;
fail:
    free(area);
    errno = err;
    return NULL;
}

int xengntshr_unshare(xengntshr_handle *xgs, void *start_address, uint32_t count)
{
    struct sim_msg msg = {.op = SIM_UNSHARE_PAGES};
    struct area *area = area_take(xgs, start_address, count);

    if (!area)
        return fail(EINVAL);
    munmap(area->start, (size_t)area->count * SIM_PAGE);
    msg.arg[0] = area->id;
    msg.arg[1] = area->count;
    free(area);
    return sim_call(xgs->conn, &msg, NULL, 0) ? fail(EIO) : 0;
}
