/* Loaded into Debian's xen-qemu-system-i386 before all else, so that its xen-block backend starts
 * where there is no hypervisor: what it opens beside grants, events and xenstore, and never uses.
 *
 * The stand-ins of tests/sim are for libxengnttab and libxenevtchn. The three functions at the end
 * are of these two, but nobody calls them: QEMU's libxenctrl only wants them to be there. */
#include <stdint.h>
#include <stddef.h>

static int nothing; /* a handle */

struct xentoollog_logger;

void *xc_interface_open(struct xentoollog_logger *, struct xentoollog_logger *, unsigned);
int xc_interface_close(void *);
void *xendevicemodel_open(struct xentoollog_logger *, unsigned);
void *xenforeignmemory_open(struct xentoollog_logger *, unsigned);
int xenforeignmemory_close(void *);
int xentoolcore_restrict_all(uint32_t);
int xenevtchn_bind_virq(void *, unsigned);
void *xengntshr_share_page_notify(void *, uint32_t, uint32_t *, int, uint32_t, uint32_t);
void *xengnttab_map_grant_ref_notify(void *, uint32_t, uint32_t, int, uint32_t, uint32_t);

void *xc_interface_open(struct xentoollog_logger *logger, struct xentoollog_logger *other,
                        unsigned flags)
{
    (void)logger;
    (void)other;
    (void)flags;
    return &nothing;
}

int xc_interface_close(void *handle)
{
    (void)handle;
    return 0;
}

void *xendevicemodel_open(struct xentoollog_logger *logger, unsigned flags)
{
    (void)logger;
    (void)flags;
    return &nothing;
}

void *xenforeignmemory_open(struct xentoollog_logger *logger, unsigned flags)
{
    (void)logger;
    (void)flags;
    return &nothing;
}

int xenforeignmemory_close(void *handle)
{
    (void)handle;
    return 0;
}

int xentoolcore_restrict_all(uint32_t domid)
{
    (void)domid;
    return 0;
}

int xenevtchn_bind_virq(void *handle, unsigned virq)
{
    (void)handle;
    (void)virq;
    return -1;
}

void *xengntshr_share_page_notify(void *handle, uint32_t domid, uint32_t *ref, int writable,
                                  uint32_t offset, uint32_t port)
{
    (void)handle;
    (void)domid;
    (void)ref;
    (void)writable;
    (void)offset;
    (void)port;
    return NULL;
}

void *xengnttab_map_grant_ref_notify(void *handle, uint32_t domid, uint32_t ref, int prot,
                                     uint32_t offset, uint32_t port)
{
    (void)handle;
    (void)domid;
    (void)ref;
    (void)prot;
    (void)offset;
    (void)port;
    return NULL;
}
