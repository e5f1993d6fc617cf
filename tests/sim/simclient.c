#include "simclient.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

struct known_handle {
    _Atomic uint32_t generation;
    _Atomic int event_fd; /* -1 or 0: not known */
};

/* Of the process, not of a connection: threads may be inside any of it until the very end. */
static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;
static struct known_handle known_handles[SIM_HANDLES];
static struct sim_domain *_Atomic domains[SIM_DOMAINS];
static struct sim_shared *shared_memory;

void sim_one_syscall(void)
{
    syscall(SYS_getppid);
}

static int socket_open(void)
{
    const char *dir = getenv("BLKGATE_SIM");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd, len;

    if (!dir) {
        errno = ENOENT;
        return -1;
    }
    len = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/xen.sock", dir);
    if (len < 0 || (size_t)len >= sizeof(addr.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void fds_take(struct msghdr *hdr, int *ret_fds, unsigned nr_fds)
{
    struct cmsghdr *cmsg;
    unsigned i, count;
    int fd;

    for (i = 0; i < nr_fds; i++)
        ret_fds[i] = -1;
    cmsg = CMSG_FIRSTHDR(hdr);
    if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
        return;
    count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (i = 0; i < count; i++) {
        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
        if (i < nr_fds)
            ret_fds[i] = fd;
        else
            close(fd);
    }
}

static int exchange(struct sim_conn *conn, struct sim_msg *msg, int *ret_fds, unsigned nr_fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SIM_RING_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = msg, .iov_len = sizeof(*msg)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    do
        n = send(conn->fd, msg, SIM_MSG_BYTES(msg->used), MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return EIO;
    hdr.msg_control = &control;
    hdr.msg_controllen = sizeof(control);
    do
        n = recvmsg(conn->fd, &hdr, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < (ssize_t)SIM_MSG_BYTES(0))
        return EIO;
    fds_take(&hdr, ret_fds, nr_fds);
    return (int)msg->op;
}

int sim_call(struct sim_conn *conn, struct sim_msg *msg, int *ret_fds, unsigned nr_fds)
{
    int err;

    pthread_mutex_lock(&conn->lock);
    err = exchange(conn, msg, ret_fds, nr_fds);
    pthread_mutex_unlock(&conn->lock);
    return err;
}

static int shared_attach(struct sim_conn *conn, int fd)
{
    int err = 0;
    void *p;

    pthread_mutex_lock(&cache_lock);
    if (!shared_memory) {
        p = mmap(NULL, sizeof(*shared_memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            err = errno;
        else
            shared_memory = p;
    }
    conn->shared = shared_memory;
    pthread_mutex_unlock(&cache_lock);
    close(fd);
    return err;
}

struct sim_conn *sim_connect(enum sim_kind kind, uint32_t domid)
{
    struct sim_msg msg = {.op = SIM_HELLO, .arg = {(uint32_t)kind, domid}};
    struct sim_conn *conn = calloc(1, sizeof(*conn));
    int fds[2], err;

    if (!conn)
        return NULL;
    pthread_mutex_init(&conn->lock, NULL);
    conn->domid = domid;
    conn->event_fd = -1;
    conn->fd = socket_open();
    if (conn->fd < 0) {
        err = errno;
        goto fail;
    }
    err = sim_call(conn, &msg, fds, 2);
    if (err)
        goto fail;
    conn->handle = msg.arg[0];
    conn->event_fd = fds[1];
    err = shared_attach(conn, fds[0]);
    if (err)
        goto fail;
    return conn;
fail:
    sim_disconnect(conn);
    errno = err;
    return NULL;
}

void sim_disconnect(struct sim_conn *conn)
{
    if (!conn)
        return;
    if (conn->fd >= 0)
        close(conn->fd);
    if (conn->event_fd >= 0)
        close(conn->event_fd);
    pthread_mutex_destroy(&conn->lock);
    free(conn);
}

static struct sim_domain *domain_map(struct sim_conn *conn, uint32_t domid)
{
    struct sim_msg msg = {.op = SIM_DOM_GET, .arg = {domid}};
    struct sim_domain *dom;
    int fds[2];
    void *p;

    if (sim_call(conn, &msg, fds, 2))
        return NULL;
    dom = calloc(1, sizeof(*dom));
    if (!dom)
        goto fail;
    dom->generation = msg.arg[0];
    dom->pages = msg.arg[1];
    dom->memory_fd = fds[0];
    p = mmap(NULL, (size_t)dom->pages * SIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    if (p == MAP_FAILED)
        goto fail;
    dom->memory = p;
    p = mmap(NULL, SIM_GRANTS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
    if (p == MAP_FAILED)
        goto fail;
    dom->grants = p;
    close(fds[1]);
    return dom;
fail:
    if (dom && dom->memory)
        munmap(dom->memory, (size_t)dom->pages * SIM_PAGE);
    close(fds[0]);
    close(fds[1]);
    free(dom);
    return NULL;
}

static void domain_forget(struct sim_domain *dom)
{
    if (!dom)
        return;
    munmap(dom->memory, (size_t)dom->pages * SIM_PAGE);
    munmap((void *)(uintptr_t)dom->grants, SIM_GRANTS * sizeof(uint64_t));
    close(dom->memory_fd);
    free(dom);
}

struct sim_domain *sim_domain_find(struct sim_conn *conn, uint32_t domid)
{
    struct sim_domain *dom, *fresh;
    uint32_t generation;

    if (domid >= SIM_DOMAINS)
        return NULL;
    generation = atomic_load(&conn->shared->domain_generation[domid]);
    if (generation == 0)
        return NULL;
    dom = atomic_load(&domains[domid]);
    if (dom && dom->generation == generation)
        return dom;
    pthread_mutex_lock(&cache_lock);
    dom = atomic_load(&domains[domid]);
    if (!dom || dom->generation != generation) {
        fresh = domain_map(conn, domid);
        if (fresh) {
            /* The last life stays mapped, as another thread may be copying from it right now;
             * nobody can still be copying from the one before that. */
            fresh->next = dom;
            if (dom) {
                domain_forget(dom->next);
                dom->next = NULL;
            }
            atomic_store(&domains[domid], fresh);
        }
        dom = fresh;
    }
    pthread_mutex_unlock(&cache_lock);
    return dom;
}

void sim_handle_learn(struct sim_conn *conn, uint32_t handle, int event_fd)
{
    struct known_handle *known = &known_handles[handle];
    int old;

    pthread_mutex_lock(&cache_lock);
    old = atomic_load(&known->event_fd);
    if (old > 0)
        dup3(event_fd, old, O_CLOEXEC); /* in place: another thread may be writing to it */
    else
        atomic_store(&known->event_fd, event_fd);
    atomic_store(&known->generation, atomic_load(&conn->shared->handles[handle].generation));
    pthread_mutex_unlock(&cache_lock);
    if (old > 0)
        close(event_fd);
}

static int handle_fd(struct sim_conn *conn, uint32_t handle)
{
    struct known_handle *known = &known_handles[handle];
    struct sim_msg msg = {.op = SIM_HANDLE_FD, .arg = {handle}};
    int fd;

    if (handle == conn->handle)
        return conn->event_fd;
    if (atomic_load(&known->generation) != atomic_load(&conn->shared->handles[handle].generation)) {
        if (sim_call(conn, &msg, &fd, 1) || fd < 0)
            return -1;
        sim_handle_learn(conn, handle, fd);
    }
    return atomic_load(&known->event_fd);
}

static void token_write(int fd)
{
    static const uint64_t one = 1;

    if (fd < 0 || write(fd, &one, sizeof(one)) < 0)
        return; /* the handle is gone, and its ports with it */
}

void sim_raise_peer(struct sim_conn *conn, uint32_t slot)
{
    uint32_t peer = atomic_load(&conn->shared->ports[slot].peer), old, new, handle;
    struct sim_port *port = &conn->shared->ports[peer];

    if (peer == 0) {
        sim_one_syscall();
        return;
    }
    old = atomic_load(&port->state);
    do {
        if (old & SIM_PORT_MASKED)
            new = old | SIM_PORT_PENDING;
        else
            new = old | SIM_PORT_MASKED | SIM_PORT_RAISED;
    } while (!atomic_compare_exchange_weak(&port->state, &old, new));
    handle = atomic_load(&port->handle);
    if ((old & SIM_PORT_MASKED) || handle == 0)
        sim_one_syscall();
    else
        token_write(handle_fd(conn, handle));
}

bool sim_event_unmask(struct sim_conn *conn, uint32_t slot)
{
    struct sim_port *port = &conn->shared->ports[slot];
    uint32_t old = atomic_load(&port->state), new;
    bool again;

    do {
        again = (old & SIM_PORT_MASKED) && (old & SIM_PORT_PENDING);
        new = again ? SIM_PORT_MASKED | SIM_PORT_RAISED : old &SIM_PORT_RAISED;
    } while (!atomic_compare_exchange_weak(&port->state, &old, new));
    if (again && !(old & SIM_PORT_RAISED))
        token_write(conn->event_fd);
    else
        sim_one_syscall();
    return again;
}

/* Starts behind the port that was found last, so that a busy port cannot starve the others. */
static bool raised_take(struct sim_conn *conn, uint32_t *ret_port)
{
    static _Thread_local uint32_t last;
    uint32_t limit = atomic_load(&conn->shared->port_limit), i, slot;
    struct sim_port *port;

    for (i = 1; i <= limit; i++) {
        slot = (last + i) % limit;
        port = &conn->shared->ports[slot];
        if (atomic_load_explicit(&port->handle, memory_order_relaxed) != conn->handle ||
            !(atomic_load(&port->state) & SIM_PORT_RAISED))
            continue;
        if (atomic_fetch_and(&port->state, ~SIM_PORT_RAISED) & SIM_PORT_RAISED) {
            *ret_port = atomic_load(&port->port);
            last = slot;
            return true;
        }
    }
    return false;
}

int sim_event_next(struct sim_conn *conn, uint32_t *ret_port)
{
    uint64_t token;

    for (;;) {
        if (read(conn->event_fd, &token, sizeof(token)) < 0)
            return errno;
        if (raised_take(conn, ret_port))
            return 0;
    }
}
