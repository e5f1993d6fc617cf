/* LD_PRELOAD for Debian's C xenstored 4.17, and for nothing else: what it asks a hypervisor for.
 *
 * State is in $BLKGATE_SIM: a domain exists while dom/<domid> does (0 always); `evt` is a FIFO of
 * 32-bit ports raised towards xenstored, of which port 1 is VIRQ_DOM_EXC, "a domain has died".
 * simxen writes both. Guests here talk to xenstored by its socket, so their rings stay empty.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define DOM_EXC_PORT    1
#define OWN_PORT        2
#define FIRST_RING_PORT 3

static int event_fd = -1;
static int the_only_handle; /* its address stands for every kind of handle */

static void state_path(char *path, size_t size, const char *name)
{
    const char *dir = getenv("BLKGATE_SIM");

    if ((size_t)snprintf(path, size, "%s/%s", dir ? dir : ".", name) >= size)
        path[0] = '\0';
}

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild_logger,
                                unsigned open_flags)
{
    (void)logger;
    (void)dombuild_logger;
    (void)open_flags;
    return (void *)&the_only_handle;
}

int xc_interface_close(xc_interface *xch)
{
    (void)xch;
    return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first_domid, unsigned int max_doms,
                      xc_dominfo_t *info)
{
    char path[256], name[32];

    (void)xch;
    if (max_doms == 0)
        return 0;
    snprintf(name, sizeof(name), "dom/%u", first_domid);
    state_path(path, sizeof(path), name);
    if (first_domid != 0 && access(path, F_OK) < 0)
        return 0;
    memset(info, 0, sizeof(*info));
    info->domid = first_domid;
    info->nr_pages = 1;
    return 1;
}

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    (void)logger;
    (void)open_flags;
    return (void *)&the_only_handle;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    (void)xgt;
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t nr_grants)
{
    (void)xgt;
    (void)nr_grants;
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    void *page = mmap(NULL, XC_PAGE_SIZE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)xgt;
    (void)domid;
    (void)ref;
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    (void)xgt;
    return munmap(start_address, (size_t)count * XC_PAGE_SIZE);
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    char path[256];

    (void)logger;
    (void)flags;
    state_path(path, sizeof(path), "evt");
    if (mkfifo(path, 0600) < 0 && errno != EEXIST)
        return NULL;
    event_fd = open(path, O_RDWR); /* a writer of our own, so that it never reads as ended */
    return event_fd < 0 ? NULL : (void *)&the_only_handle;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned open_flags)
{
    (void)logger;
    (void)open_flags;
    event_fd = fd;
    return (void *)&the_only_handle;
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    (void)xce;
    return event_fd;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    (void)xce;
    (void)virq;
    return DOM_EXC_PORT;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid,
                                                     evtchn_port_t remote_port)
{
    static xenevtchn_port_or_error_t last = FIRST_RING_PORT - 1;

    (void)xce;
    (void)domid;
    (void)remote_port;
    return ++last;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port;

    (void)xce;
    return read(event_fd, &port, sizeof(port)) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

/* Domain 0's own ring and port, which xenstored reads from /proc/xen. */
static int own_ring_open(const char *name)
{
    char text[16];
    int fd = memfd_create("xsd", MFD_CLOEXEC);

    if (fd < 0)
        return -1;
    if (strcmp(name, "/proc/xen/xsd_kva") == 0)
        return ftruncate(fd, XC_PAGE_SIZE) < 0 ? -1 : fd;
    snprintf(text, sizeof(text), "%d\n", OWN_PORT);
    if (write(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return -1;
    return fd;
}

int open(const char *name, int flags, ...)
{
    static int (*real)(const char *, int, ...);
    mode_t mode = 0;
    va_list args;

    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "open");
    va_start(args, flags);
    if (flags & (O_CREAT | O_TMPFILE))
        mode = va_arg(args, mode_t);
    va_end(args);
    if (strcmp(name, "/proc/xen/xsd_port") == 0 || strcmp(name, "/proc/xen/xsd_kva") == 0)
        return own_ring_open(name);
    return real(name, flags, mode);
}
