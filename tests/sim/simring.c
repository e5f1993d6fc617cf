/* simring: see simring.h. */
#include "simring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <xen/io/xs_wire.h>

enum { RESET_ID = 0x5e7, POLL_MS = 50 };

/* One message, or the beginning of one. */
struct frame {
    size_t used;
    union {
        struct xsd_sockmsg head;
        char bytes[sizeof(struct xsd_sockmsg) + XENSTORE_PAYLOAD_MAX];
    } u;
};

struct simring {
    uint32_t domid;
    struct sockaddr_un address;
    char page_path[128], kicks_path[128];
    struct xenstore_domain_interface *page;
    int evt, kicks, listener, client;
    bool resetting; /* what the last client left is being cleared away */
    struct frame request, answer;
    pthread_t thread;
    atomic_bool over;
};

static size_t frame_whole(const struct frame *frame)
{
    size_t head = sizeof(frame->u.head);

    return frame->used < head ? head : head + frame->u.head.len;
}

static bool frame_done(const struct frame *frame)
{
    return frame->used >= sizeof(frame->u.head) && frame->used == frame_whole(frame);
}

/* An event of xenstored's: bytes or room in the ring. */
static void kick(struct simring *ring)
{
    uint32_t port = SIMRING_PORT(ring->domid);

    if (write(ring->evt, &port, sizeof(port)) != sizeof(port))
        perror("simring: xenstored was not kicked");
}

static _Atomic uint32_t *word(uint32_t *index)
{
    return (_Atomic uint32_t *)index;
}

/* Puts a whole message, waiting for room: xenstored takes what is there. */
static void request_put(struct simring *ring, const struct frame *frame)
{
    struct xenstore_domain_interface *page = ring->page;
    size_t sent = 0;

    while (sent < frame->used && !atomic_load(&ring->over)) {
        uint32_t prod = atomic_load(word(&page->req_prod));

        if (prod - atomic_load(word(&page->req_cons)) == XENSTORE_RING_SIZE) {
            kick(ring);
            usleep(200);
            continue;
        }
        page->req[MASK_XENSTORE_IDX(prod)] = frame->u.bytes[sent++];
        atomic_store(word(&page->req_prod), prod + 1);
    }
    kick(ring);
}

static void reset(struct simring *ring)
{
    struct frame frame = {.used = sizeof(struct xsd_sockmsg) + 1,
                          .u.head = {.type = XS_RESET_WATCHES, .req_id = RESET_ID, .len = 1}};

    ring->resetting = true;
    request_put(ring, &frame);
}

static void client_leave(struct simring *ring)
{
    close(ring->client);
    ring->client = -1;
    ring->request.used = 0;
    reset(ring);
}

static void client_hear(struct simring *ring)
{
    struct frame *frame = &ring->request;
    ssize_t got =
        read(ring->client, frame->u.bytes + frame->used, frame_whole(frame) - frame->used);

    if (got > 0)
        frame->used += (size_t)got;
    if (got <= 0 || frame_whole(frame) > sizeof(frame->u)) {
        client_leave(ring);
        return;
    }
    if (!frame_done(frame))
        return;
    request_put(ring, frame);
    frame->used = 0;
}

static void answer_tell(struct simring *ring)
{
    const struct frame *frame = &ring->answer;

    if (ring->resetting && frame->u.head.req_id == RESET_ID && frame->u.head.type != XS_WATCH_EVENT)
        ring->resetting = false;
    else if (ring->client >= 0 && send(ring->client, frame->u.bytes, frame->used, MSG_NOSIGNAL) < 0)
        client_leave(ring);
}

static void answers_take(struct simring *ring)
{
    struct xenstore_domain_interface *page = ring->page;
    struct frame *frame = &ring->answer;
    uint32_t cons = atomic_load(word(&page->rsp_cons));
    bool any = false;

    while (atomic_load(word(&page->rsp_prod)) != cons && frame_whole(frame) <= sizeof(frame->u)) {
        frame->u.bytes[frame->used++] = page->rsp[MASK_XENSTORE_IDX(cons)];
        atomic_store(word(&page->rsp_cons), ++cons);
        any = true;
        if (!frame_done(frame))
            continue;
        answer_tell(ring);
        frame->used = 0;
    }
    if (any)
        kick(ring);
}

static void turn(struct simring *ring)
{
    bool busy = ring->client >= 0 || ring->resetting;
    struct pollfd fds[] = {
        {.fd = ring->kicks, .events = POLLIN},
        {.fd = ring->client, .events = POLLIN},
        {.fd = busy ? -1 : ring->listener, .events = POLLIN},
    };
    char kicks[64];

    if (poll(fds, 3, POLL_MS) > 0 && fds[0].revents && read(ring->kicks, kicks, sizeof(kicks)) < 0)
        perror("simring: kicks");
    answers_take(ring);
    if (ring->client >= 0 && fds[1].revents)
        client_hear(ring);
    if (fds[2].revents)
        ring->client = accept4(ring->listener, NULL, NULL, SOCK_CLOEXEC);
}

static void *run(void *arg)
{
    struct simring *ring = arg;

    while (!atomic_load(&ring->over))
        turn(ring);
    return NULL;
}

static int open_page(struct simring *ring)
{
    int fd = open(ring->page_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)sizeof(struct xenstore_domain_interface) > 4096 ? -1 : 4096))
        return -1;
    ring->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return ring->page == MAP_FAILED ? -1 : 0;
}

static int open_all(struct simring *ring)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/evt", getenv("BLKGATE_SIM"));
    ring->evt = open(path, O_WRONLY | O_CLOEXEC);
    unlink(ring->kicks_path);
    if (ring->evt < 0 || mkfifo(ring->kicks_path, 0600) < 0 || open_page(ring) < 0)
        return -1;
    ring->kicks = open(ring->kicks_path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    ring->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(ring->address.sun_path);
    if (ring->kicks < 0 || ring->listener < 0 ||
        bind(ring->listener, (struct sockaddr *)&ring->address, sizeof(ring->address)) < 0 ||
        listen(ring->listener, 4) < 0)
        return -1;
    errno = pthread_create(&ring->thread, NULL, run, ring);
    return errno ? -1 : 0;
}

struct simring *simring_start(uint32_t domid)
{
    struct simring *ring = calloc(1, sizeof(*ring));
    const char *dir = getenv("BLKGATE_SIM");

    if (!ring || !dir)
        goto fail;
    ring->domid = domid;
    ring->evt = ring->kicks = ring->listener = ring->client = -1;
    ring->address.sun_family = AF_UNIX;
    snprintf(ring->address.sun_path, sizeof(ring->address.sun_path), "%s/" SIMRING_SOCKET, dir,
             domid);
    snprintf(ring->page_path, sizeof(ring->page_path), "%s/" SIMRING_FILE, dir, domid);
    snprintf(ring->kicks_path, sizeof(ring->kicks_path), "%s/" SIMRING_KICKS, dir, domid);
    if (open_all(ring) == 0)
        return ring;
fail:
    if (ring)
        fprintf(stderr, "simring: no ring for domain %u: %s\n", domid, strerror(errno));
    free(ring); /* a program that cannot have its ring ends */
    return NULL;
}

const char *simring_socket(const struct simring *ring)
{
    return ring->address.sun_path;
}

void simring_end(struct simring *ring)
{
    if (!ring)
        return;
    atomic_store(&ring->over, true);
    pthread_join(ring->thread, NULL);
    if (ring->client >= 0)
        close(ring->client);
    close(ring->listener);
    close(ring->kicks);
    close(ring->evt);
    munmap(ring->page, 4096);
    unlink(ring->address.sun_path);
    unlink(ring->kicks_path);
    unlink(ring->page_path);
    free(ring);
}
