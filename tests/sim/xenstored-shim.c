/* LD_PRELOAD for Debian's xenstored and oxenstored 4.17, and for nothing else: what they ask a
 * hypervisor for.
 *
 * State is in $BLKGATE_SIM: a domain exists while dom/<domid> does (0 always); `evt` is a FIFO of
 * 32-bit ports raised towards xenstored, of which port 1 is VIRQ_DOM_EXC, "a domain has died".
 * simxen writes both. The file ring.<domid>, where there is one, is that domain's xenstore ring:
 * it kicks xenstored by port RING_PORT(domid) and is kicked by a byte in the FIFO kick.<domid>
 * (simring.h). Most guests talk to xenstored by its socket, as domain 0, and have none.
 *
 * oxenstored has its socket in a fixed directory; here it is in $BLKGATE_SIM/run like the other's.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#define XC_WANT_COMPAT_MAP_FOREIGN_API
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include "simring.h"

#define DOM_EXC_PORT 1
#define OWN_PORT     2

static int event_fd = -1;
static int the_only_handle; /* its address stands for every kind of handle */

static void state_path(char *path, size_t size, const char *name)
{
    const char *dir = getenv("BLKGATE_SIM");

    if ((size_t)snprintf(path, size, "%s/%s", dir ? dir : ".", name) >= size)
        path[0] = '\0';
}

static int domain_exists(uint32_t domid)
{
    char path[256], name[32];

    snprintf(name, sizeof(name), "dom/%u", domid);
    state_path(path, sizeof(path), name);
    return domid == 0 || access(path, F_OK) == 0;
}

/* What a domain has no ring for never says anything. */
static void *ring_map(uint32_t domid, int prot)
{
    char path[256], name[32];
    void *page;
    int fd;

    snprintf(name, sizeof(name), SIMRING_FILE, domid);
    state_path(path, sizeof(path), name);
    fd = open(path, O_RDWR | O_CLOEXEC);
    page = mmap(NULL, XC_PAGE_SIZE, prot, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return page == MAP_FAILED ? NULL : page;
}

/* -- libxenctrl ----------------------------------------------------------------------------- */

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
    (void)xch;
    if (max_doms == 0 || !domain_exists(first_domid))
        return 0;
    memset(info, 0, sizeof(*info));
    info->domid = first_domid;
    info->nr_pages = 1;
    return 1;
}

/* oxenstored's way to ask the same. */
int xc_domain_getinfolist(xc_interface *xch, uint32_t first_domid, unsigned int max_doms,
                          xc_domaininfo_t *info)
{
    (void)xch;
    if (max_doms == 0 || !domain_exists(first_domid)) {
        errno = ESRCH;
        return 0;
    }
    memset(info, 0, sizeof(*info));
    info->domain = (domid_t)first_domid;
    return 1;
}

const xc_error *xc_get_last_error(xc_interface *xch)
{
    static const xc_error none; /* errno says it */

    (void)xch;
    return &none;
}

void *xc_map_foreign_range(xc_interface *xch, uint32_t domid, int size, int prot,
                           unsigned long frame)
{
    (void)xch;
    (void)frame;
    return size == XC_PAGE_SIZE ? ring_map(domid, prot) : NULL;
}

/* -- libxengnttab --------------------------------------------------------------------------- */

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
    (void)xgt;
    (void)ref;
    return ring_map(domid, prot);
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    (void)xgt;
    return munmap(start_address, (size_t)count * XC_PAGE_SIZE);
}

/* -- libxenevtchn --------------------------------------------------------------------------- */

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
    (void)xce;
    (void)remote_port;
    return (xenevtchn_port_or_error_t)SIMRING_PORT(domid);
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    char path[256], name[32];
    int fd;

    (void)xce;
    snprintf(name, sizeof(name), SIMRING_KICKS, SIMRING_DOMID(port));
    state_path(path, sizeof(path), name);
    fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return 0; /* it has no ring, or is gone */
    if (write(fd, "", 1) < 0)
        errno = 0; /* it has enough to wake up from */
    close(fd);
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

/* -- libc ----------------------------------------------------------------------------------- */

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

/* What oxenstored wants in its fixed directory, where a real one's may be, is in ours. */
static const char *run_path(const char *path, char *ret_path, size_t size)
{
    static const char run[] = "/var/run/xenstored";
    char name[128];

    if (strncmp(path, run, sizeof(run) - 1) != 0)
        return path;
    snprintf(name, sizeof(name), "run%s", path + sizeof(run) - 1);
    state_path(ret_path, size, name);
    return ret_path;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    static int (*real)(int, const struct sockaddr *, socklen_t);
    struct sockaddr_un here;
    char path[sizeof(here.sun_path)];

    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "bind");
    if (address->sa_family != AF_UNIX || length > sizeof(here))
        return real(fd, address, length);
    memset(&here, 0, sizeof(here));
    memcpy(&here, address, length);
    here.sun_path[sizeof(here.sun_path) - 1] = '\0';
    if (run_path(here.sun_path, path, sizeof(path)) == path)
        memcpy(here.sun_path, path, sizeof(path));
    return real(fd, (const struct sockaddr *)&here, sizeof(here));
}

int unlink(const char *name)
{
    static int (*real)(const char *);
    char path[256];

    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "unlink");
    return real(run_path(name, path, sizeof(path)));
}

int mkdir(const char *name, mode_t mode)
{
    static int (*real)(const char *, mode_t);
    char path[256];

    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "mkdir");
    return real(run_path(name, path, sizeof(path)), mode);
}

/* OCaml's open. */
int open64(const char *name, int flags, ...)
{
    static int (*real)(const char *, int, ...);
    char path[256];
    mode_t mode = 0;
    va_list args;

    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "open64");
    va_start(args, flags);
    if (flags & (O_CREAT | O_TMPFILE))
        mode = va_arg(args, mode_t);
    va_end(args);
    return real(run_path(name, path, sizeof(path)), flags, mode);
}

/* oxenstored insists on more descriptors than it may have in a container. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    (void)resource;
    (void)limit;
    return 0;
}
