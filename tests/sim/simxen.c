/* simxen DIR: what a hypervisor is to the tests. See simproto.h for the laws.
 *
 * It owns what must outlive the other processes or notice their end. A closed connection is a
 * closed device file: its ports are freed, its mappings unpinned, its domains destroyed. Ends are
 * handled before requests, so that whoever has waited for a process to die finds its ports free.
 */
#include "simxen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct sim_shared *shared;
int shared_fd;
const char *sim_dir;

static struct client *clients;
static struct client *by_handle[SIM_HANDLES];

struct client *client_of_handle(uint32_t handle)
{
    return handle < SIM_HANDLES ? by_handle[handle] : NULL;
}

static void die(const char *what)
{
    fprintf(stderr, "simxen: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int hello(struct client *client, struct sim_msg *msg, int *fds)
{
    uint32_t handle;

    if (client->handle || msg->arg[1] >= SIM_DOMAINS)
        return EINVAL;
    for (handle = 1; handle < SIM_HANDLES && by_handle[handle]; handle++)
        ;
    if (handle == SIM_HANDLES)
        return ENFILE;
    client->kind = msg->arg[0];
    client->domid = msg->arg[1];
    if (client->kind == SIM_KIND_EVTCHN || client->kind == SIM_KIND_GUEST) {
        client->event_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
        if (client->event_fd < 0)
            return errno;
    }
    by_handle[handle] = client;
    client->handle = handle;
    if (handle >= atomic_load(&shared->handle_limit))
        atomic_store(&shared->handle_limit, handle + 1);
    atomic_store(&shared->handles[handle].copying, 0);
    atomic_fetch_add(&shared->handles[handle].generation, 1);
    msg->arg[0] = handle;
    fds[0] = shared_fd;
    fds[1] = client->event_fd;
    return 0;
}

static int domain_request(struct client *client, struct sim_msg *msg, int *fds)
{
    struct domain *dom = domain_find(msg->arg[0]);
    int err;

    if (msg->op == SIM_DOM_CREATE) {
        err = domain_create(client, msg->arg[0], msg->arg[1], &dom);
        if (err)
            return err;
        client->domid = dom->domid;
    }
    if (!dom)
        return ESRCH;
    if (msg->op == SIM_DOM_DESTROY) {
        if (dom->domid == 0)
            return EPERM;
        domain_destroy(dom);
        return 0;
    }
    msg->arg[0] = dom->generation;
    msg->arg[1] = dom->pages;
    fds[0] = dom->memory_fd;
    fds[1] = dom->grants_fd;
    return 0;
}

static int handle_request(struct sim_msg *msg, int *fds)
{
    struct client *peer = client_of_handle(msg->arg[0]);

    if (!peer || peer->event_fd < 0)
        return ENOENT;
    fds[0] = peer->event_fd;
    return 0;
}

static int request(struct client *client, struct sim_msg *msg, int *fds)
{
    if (!client->handle && msg->op != SIM_HELLO)
        return EPROTO;
    switch (msg->op) {
    case SIM_HELLO: return hello(client, msg, fds);
    case SIM_DOM_CREATE:
    case SIM_DOM_DESTROY:
    case SIM_DOM_GET: return domain_request(client, msg, fds);
    case SIM_DOM_PINS: msg->arg[0] = domain_pins(msg->arg[0]); return 0;
    case SIM_PORT_ALLOC: return port_alloc(client, msg->arg[0], msg);
    case SIM_PORT_BIND: return port_bind(client, msg, &fds[0]);
    case SIM_PORT_CLOSE: return port_close(client, msg->arg[0]);
    case SIM_HANDLE_FD: return handle_request(msg, fds);
    case SIM_GRANT_MAP: return grants_map(client, msg);
    case SIM_GRANT_UNMAP: return grants_unmap(client, msg->arg[0]);
    case SIM_SHARE_PAGES: return pages_share(client, msg);
    case SIM_UNSHARE_PAGES: return pages_unshare(client, msg->arg[0], msg->arg[1]);
    default: return ENOSYS;
    }
}

static void reply(struct client *client, struct sim_msg *msg, const int *fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SIM_RING_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = msg, .iov_len = SIM_MSG_BYTES(msg->used)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
    unsigned nr_fds = 0;

    memset(&control, 0, sizeof(control));
    while (nr_fds < SIM_RING_MAX_FDS && fds[nr_fds] >= 0)
        nr_fds++;
    if (nr_fds) {
        hdr.msg_control = &control;
        hdr.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
        CMSG_FIRSTHDR(&hdr)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&hdr)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&hdr)->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&hdr)), fds, nr_fds * sizeof(int));
    }
    if (sendmsg(client->fd, &hdr, MSG_NOSIGNAL) < 0)
        client->dead = true;
}

static void client_serve(struct client *client)
{
    static struct sim_msg msg;
    int fds[SIM_RING_MAX_FDS] = {-1, -1, -1};
    ssize_t n = recv(client->fd, &msg, sizeof(msg), MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n < (ssize_t)SIM_MSG_BYTES(0) || msg.used > 2 * SIM_MAP_MAX ||
        n < (ssize_t)SIM_MSG_BYTES(msg.used)) {
        client->dead = true;
        return;
    }
    if (msg.op != SIM_GRANT_MAP)
        msg.used = 0;
    msg.op = (uint32_t)request(client, &msg, fds);
    if (msg.op)
        msg.used = 0;
    reply(client, &msg, fds);
}

static void client_end(struct client *client)
{
    ports_of_client_close(client);
    grants_of_client_release(client);
    domains_of_client_destroy(client);
    if (client->handle) {
        atomic_store(&shared->handles[client->handle].copying, 0);
        by_handle[client->handle] = NULL;
    }
    if (client->event_fd >= 0)
        close(client->event_fd);
    close(client->fd);
    free(client);
}

static void clients_bury(void)
{
    struct client **link = &clients, *client;

    while ((client = *link)) {
        if (!client->dead) {
            link = &client->next;
            continue;
        }
        *link = client->next;
        client_end(client);
    }
}

static void client_accept(int listen_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    struct client *client;

    if (fd < 0)
        return;
    client = calloc(1, sizeof(*client));
    if (!client)
        die("calloc");
    client->fd = fd;
    client->event_fd = -1;
    client->next = clients;
    clients = client;
}

/* Returns the number of entries of fds[1..]; owners[] names whose they are. */
static nfds_t poll_all(struct pollfd *fds, struct client **owners, int timeout_ms)
{
    struct client *client;
    nfds_t count = 1;

    for (client = clients; client && count <= SIM_HANDLES; client = client->next) {
        owners[count] = client;
        fds[count++] = (struct pollfd){.fd = client->fd, .events = POLLIN};
    }
    if (poll(fds, count, timeout_ms) < 0 && errno != EINTR)
        die("poll");
    return count;
}

/* The end of a process is seen only when its last words were read: a process that closes right
 * after a request has not got the reply, so its request need not be carried out. */
static void serve(int listen_fd)
{
    static struct pollfd fds[SIM_HANDLES + 1], ends[SIM_HANDLES + 1];
    static struct client *owners[SIM_HANDLES + 1];
    nfds_t count, i;

    fds[0] = ends[0] = (struct pollfd){.fd = listen_fd, .events = POLLIN};
    for (;;) {
        count = poll_all(fds, owners, -1);
        poll_all(ends, owners, 0);
        for (i = 1; i < count; i++)
            owners[i]->dead = (ends[i].revents & (POLLHUP | POLLERR)) != 0;
        for (i = 1; i < count; i++)
            if (owners[i]->dead)
                fds[i].revents = 0;
        clients_bury();
        for (i = 1; i < count; i++)
            if (fds[i].revents)
                client_serve(owners[i]);
        clients_bury();
        if (fds[0].revents)
            client_accept(listen_fd);
    }
}

static int listen_at(const char *dir)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char path[256];
    int fd, len;

    snprintf(path, sizeof(path), "%s/dom", dir);
    if ((mkdir(dir, 0700) < 0 && errno != EEXIST) || (mkdir(path, 0700) < 0 && errno != EEXIST))
        die(path);
    len = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/xen.sock", dir);
    if (len < 0 || (size_t)len >= sizeof(addr.sun_path)) {
        errno = ENAMETOOLONG;
        die(dir);
    }
    unlink(addr.sun_path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 128) < 0)
        die(addr.sun_path);
    return fd;
}

static void shared_create(void)
{
    struct domain *dom;
    void *p;

    shared_fd = memfd_create("simxen", MFD_CLOEXEC);
    if (shared_fd < 0 || ftruncate(shared_fd, sizeof(*shared)) < 0)
        die("shared memory");
    p = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    if (p == MAP_FAILED)
        die("shared memory");
    shared = p;
    errno = domain_create(NULL, 0, SIM_DOM0_PAGES + SIM_DOM0_FRONT, &dom);
    if (errno)
        die("domain 0");
}

/* The parent returns only when the socket listens, after printing the pid to end it by. */
static void into_background(void)
{
    pid_t pid = fork();

    if (pid < 0)
        die("fork");
    if (pid > 0) {
        printf("%d\n", (int)pid);
        exit(0);
    }
    if (!freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout))
        die("/dev/null");
    setsid();
}

int main(int argc, char **argv)
{
    int listen_fd, background = argc == 3 && strcmp(argv[1], "-d") == 0;

    if (argc != 2 + background) {
        fprintf(stderr, "usage: simxen [-d] DIR\n"
                        "Serves DIR/xen.sock. With -d prints its pid and leaves the terminal.\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sim_dir = argv[1 + background];
    shared_create();
    listen_fd = listen_at(sim_dir);
    if (background)
        into_background();
    serve(listen_fd);
}
