/* A domain: memory, grants and event channels by simxen, and its introduction to xenstored. */
#include "guest.h"
#include "simclient.h"
#include "simring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REVOKE_WAIT_MS 1000

int64_t guest_clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

__attribute__((format(printf, 6, 0))) static int
node_write(struct guest *guest, struct xs_handle *xs, xs_transaction_t t, const char *dir,
           const char *key, const char *format, va_list args)
{
    char path[256], value[1024];
    int len = vsnprintf(value, sizeof(value), format, args);

    snprintf(path, sizeof(path), "%s/%s", dir, key);
    if (len >= 0 && xs_write(xs, t, path, value, (unsigned)len))
        return 0;
    fprintf(stderr, "guest %u: cannot write %s: %s\n", guest->domid, path, strerror(errno));
    return -1;
}

int guest_xs_write(struct guest *guest, xs_transaction_t t, const char *dir, const char *key,
                   const char *format, ...)
{
    va_list args;
    int ret;

    va_start(args, format);
    ret = node_write(guest, guest->xs, t, dir, key, format, args);
    va_end(args);
    return ret;
}

int guest_own_write(struct guest *guest, xs_transaction_t t, const char *dir, const char *key,
                    const char *format, ...)
{
    va_list args;
    int ret;

    va_start(args, format);
    ret = node_write(guest, guest->own, t, dir, key, format, args);
    va_end(args);
    return ret;
}

static long node_read_number(struct xs_handle *xs, const char *dir, const char *key, long absent)
{
    char path[256], *text, *end;
    unsigned len;
    long value;

    snprintf(path, sizeof(path), "%s/%s", dir, key);
    text = xs_read(xs, XBT_NULL, path, &len);
    if (!text)
        return absent;
    value = strtol(text, &end, 10);
    if (end == text || *end)
        value = absent;
    free(text);
    return value;
}

long guest_xs_read_number(struct guest *guest, const char *dir, const char *key, long absent)
{
    return node_read_number(guest->xs, dir, key, absent);
}

long guest_own_read_number(struct guest *guest, const char *dir, const char *key, long absent)
{
    return node_read_number(guest->own, dir, key, absent);
}

/* The nodes of a domain that its devices hang under, as libxl makes them. */
static int domain_introduce(struct guest *guest)
{
    struct xs_permissions perms[2] = {{.id = 0, .perms = XS_PERM_NONE},
                                      {.id = guest->domid, .perms = XS_PERM_READ}};
    struct xs_permissions own = {.id = guest->domid, .perms = XS_PERM_NONE};
    char dir[64], device[80], error[80];

    snprintf(dir, sizeof(dir), "/local/domain/%u", guest->domid);
    snprintf(device, sizeof(device), "%s/device", dir);
    snprintf(error, sizeof(error), "%s/error", dir);
    xs_rm(guest->xs, XBT_NULL, dir);
    if (!xs_mkdir(guest->xs, XBT_NULL, dir) ||
        !xs_set_permissions(guest->xs, XBT_NULL, dir, perms, 2) ||
        !xs_mkdir(guest->xs, XBT_NULL, device) || !xs_mkdir(guest->xs, XBT_NULL, error) ||
        !xs_set_permissions(guest->xs, XBT_NULL, error, &own, 1) ||
        guest_xs_write(guest, XBT_NULL, dir, "name", "sim%u", guest->domid) ||
        guest_xs_write(guest, XBT_NULL, dir, "domid", "%u", guest->domid) ||
        !xs_introduce_domain(guest->xs, guest->domid, 1, 1)) {
        fprintf(stderr, "guest %u: cannot be introduced to xenstored: %s\n", guest->domid,
                strerror(errno));
        return -1;
    }
    return 0;
}

/* Domain 0 outlives its frontends: what one of them left granted ends with the next, or with it. */
static void grants_clear(struct guest *guest)
{
    for (uint32_t i = SIM_DOM0_REF; i < SIM_GRANTS; i++)
        if (SIM_GRANT_PINS(atomic_load(&guest->dom->grants[i])) == 0)
            atomic_store(&guest->dom->grants[i], 0);
}

/* Of domain 0 only what nobody else uses. */
static int zero_tables_create(struct guest *guest, uint32_t nr_pages)
{
    uint32_t i;

    grants_clear(guest);
    for (i = SIM_DOM0_PAGES + nr_pages; i > SIM_DOM0_PAGES; i--)
        guest->free_frames[guest->nr_free_frames++] = i - 1;
    for (i = SIM_GRANTS - 1; i >= SIM_DOM0_REF; i--)
        if (atomic_load(&guest->dom->grants[i]) == 0)
            guest->free_refs[guest->nr_free_refs++] = i;
    return 0;
}

static int tables_create(struct guest *guest, uint32_t nr_pages)
{
    uint32_t i;

    guest->free_frames = calloc(nr_pages, sizeof(uint32_t));
    guest->free_refs = calloc(SIM_GRANTS, sizeof(uint32_t));
    if (!guest->free_frames || !guest->free_refs)
        return -1;
    if (guest->domid == 0)
        return zero_tables_create(guest, nr_pages);
    /* Stacks, lowest on top. Frame 0 and the toolstack's references are never given out. */
    for (i = nr_pages - 1; i > 0; i--)
        guest->free_frames[guest->nr_free_frames++] = i;
    for (i = SIM_GRANTS - 1; i >= SIM_GRANT_FIRST; i--)
        guest->free_refs[guest->nr_free_refs++] = i;
    return 0;
}

enum ring { RING_NONE, RING_OWN, RING_SERVED };

/* A client of the domain's ring: libxenstore knows only one way to be told which. */
static struct xs_handle *ring_open(const struct simring *ring)
{
    char *before = getenv("XENSTORED_PATH") ? strdup(getenv("XENSTORED_PATH")) : NULL;
    struct xs_handle *xs;

    setenv("XENSTORED_PATH", simring_socket(ring), 1);
    xs = xs_open(0);
    if (before)
        setenv("XENSTORED_PATH", before, 1);
    free(before);
    return xs;
}

static struct guest *create(uint32_t domid, uint32_t nr_pages, enum ring ring)
{
    struct sim_msg msg = {.op = SIM_DOM_CREATE, .arg = {domid, nr_pages}};
    struct guest *guest = calloc(1, sizeof(*guest));
    int fds[2], err = 0;

    if (!guest || nr_pages < 2 || (domid == 0 && nr_pages > SIM_DOM0_FRONT)) {
        fprintf(stderr, "guest %u: cannot have %u pages\n", domid, nr_pages);
        goto fail;
    }
    if (domid == 0)
        msg.op = SIM_DOM_GET; /* it is there */
    guest->domid = domid;
    guest->xs = guest->own = xs_open(0);
    guest->conn = sim_connect(SIM_KIND_GUEST, domid);
    if (!guest->xs || !guest->conn) {
        fprintf(stderr, "guest %u: no %s: %s\n", domid, guest->xs ? "simxen" : "xenstored",
                strerror(errno));
        goto fail;
    }
    fcntl(guest->conn->event_fd, F_SETFL, O_NONBLOCK);
    err = sim_call(guest->conn, &msg, fds, 2);
    if (err) {
        fprintf(stderr, "guest %u: cannot be created: %s\n", domid, strerror(err));
        goto fail;
    }
    close(fds[0]);
    close(fds[1]);
    guest->dom = sim_domain_find(guest->conn, domid);
    if (ring != RING_NONE)
        guest->ring = simring_start(domid);
    if (!guest->dom || tables_create(guest, nr_pages) || (ring != RING_NONE && !guest->ring) ||
        (domid != 0 && domain_introduce(guest)))
        goto fail;
    if (ring == RING_OWN)
        guest->own = ring_open(guest->ring);
    if (guest->own)
        return guest;
    fprintf(stderr, "guest %u: its ring is not served: %s\n", domid, strerror(errno));
fail:
    guest_destroy(guest);
    return NULL;
}

struct guest *guest_create(uint32_t domid, uint32_t nr_pages)
{
    return create(domid, nr_pages, RING_NONE);
}

struct guest *guest_create_with_ring(uint32_t domid, uint32_t nr_pages)
{
    return create(domid, nr_pages, RING_OWN);
}

struct guest *guest_create_driver(uint32_t domid)
{
    return create(domid, 2, RING_SERVED);
}

void guest_destroy(struct guest *guest)
{
    if (!guest)
        return;
    if (guest->own && guest->own != guest->xs)
        xs_close(guest->own);
    simring_end(guest->ring);
    if (guest->dom && guest->domid == 0)
        grants_clear(guest);
    sim_disconnect(guest->conn); /* simxen ends the domain, and tells xenstored */
    if (guest->xs)
        xs_close(guest->xs);
    free(guest->free_frames);
    free(guest->free_refs);
    free(guest);
}

uint8_t *guest_page(struct guest *guest, uint32_t frame)
{
    return guest->dom->memory + (size_t)frame * GUEST_PAGE;
}

static int descending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x < y) - (x > y);
}

uint32_t guest_frames_alloc(struct guest *guest, uint32_t count)
{
    uint32_t *frames = guest->free_frames, n = guest->nr_free_frames, i, run;

    if (count == 1 && n > 0)
        return frames[--guest->nr_free_frames];
    qsort(frames, n, sizeof(*frames), descending);
    for (i = n, run = 0; i > 0; i--) {
        run = run && frames[i - 1] == frames[i] + 1 ? run + 1 : 1;
        if (run < count)
            continue;
        run = frames[i - 1] - (count - 1);
        memmove(frames + i - 1, frames + i - 1 + count, (n - (i - 1) - count) * sizeof(*frames));
        guest->nr_free_frames -= count;
        return run;
    }
    fprintf(stderr, "guest %u: out of memory\n", guest->domid);
    abort();
}

void guest_frames_free(struct guest *guest, uint32_t frame, uint32_t count)
{
    while (count-- > 0)
        guest->free_frames[guest->nr_free_frames++] = frame + count;
}

uint32_t guest_grant(struct guest *guest, uint32_t frame, uint32_t to_domid, bool readonly)
{
    uint32_t ref;

    if (guest->nr_free_refs == 0) {
        fprintf(stderr, "guest %u: out of grants\n", guest->domid);
        abort();
    }
    ref = guest->free_refs[--guest->nr_free_refs];
    atomic_store(&guest->dom->grants[ref], SIM_GRANT_VALID | (readonly ? SIM_GRANT_READONLY : 0) |
                                               (uint64_t)to_domid << 32 | frame);
    return ref;
}

/* Waits until every copier has been seen outside a batch: none can still use the grant then. */
static void copies_wait(struct guest *guest)
{
    int64_t deadline_ms = guest_clock_ms() + REVOKE_WAIT_MS;
    struct sim_handle *handles = guest->conn->shared->handles;
    uint32_t limit = atomic_load(&guest->conn->shared->handle_limit), i;

    for (i = 0; i < limit; i++)
        while (atomic_load(&handles[i].copying) && guest_clock_ms() < deadline_ms)
            sched_yield();
}

bool guest_revoke(struct guest *guest, uint32_t ref)
{
    uint64_t word = atomic_load(&guest->dom->grants[ref]);

    do {
        if (SIM_GRANT_PINS(word))
            return false;
    } while (!atomic_compare_exchange_weak(&guest->dom->grants[ref], &word, 0));
    copies_wait(guest);
    guest->free_refs[guest->nr_free_refs++] = ref;
    return true;
}

uint32_t guest_mapped_grants(struct guest *guest, uint32_t domid)
{
    struct sim_msg msg = {.op = SIM_DOM_PINS, .arg = {domid}};

    return sim_call(guest->conn, &msg, NULL, 0) ? 0 : msg.arg[0];
}

uint32_t guest_bound_ports(struct guest *guest, uint32_t domid)
{
    struct sim_port *ports = guest->conn->shared->ports;
    uint32_t limit = atomic_load(&guest->conn->shared->port_limit), slot, bound = 0;

    for (slot = 1; slot < limit; slot++)
        bound += ports[slot].kind == SIM_PORT_INTERDOMAIN && ports[slot].domid != domid &&
                 ports[slot].remote_domid == domid;
    return bound;
}

int guest_port_alloc(struct guest *guest, uint32_t remote_domid, uint32_t *ret_port,
                     uint32_t *ret_slot)
{
    struct sim_msg msg = {.op = SIM_PORT_ALLOC, .arg = {remote_domid}};

    if (sim_call(guest->conn, &msg, NULL, 0)) {
        fprintf(stderr, "guest %u: out of event channels\n", guest->domid);
        return -1;
    }
    *ret_port = msg.arg[0];
    *ret_slot = msg.arg[1];
    return 0;
}

void guest_port_close(struct guest *guest, uint32_t port)
{
    struct sim_msg msg = {.op = SIM_PORT_CLOSE, .arg = {port}};

    sim_call(guest->conn, &msg, NULL, 0);
}

void guest_notify(struct guest *guest, uint32_t slot)
{
    sim_count(&guest->conn->shared->stats.guest_notifies, 1);
    sim_raise_peer(guest->conn, slot);
}

static uint32_t slot_of_port(struct guest *guest, uint32_t number)
{
    struct sim_port *ports = guest->conn->shared->ports;
    uint32_t limit = atomic_load(&guest->conn->shared->port_limit), slot;

    for (slot = 1; slot < limit; slot++)
        if (atomic_load(&ports[slot].handle) == guest->conn->handle &&
            atomic_load(&ports[slot].port) == number)
            return slot;
    return 0;
}

static bool event_take(struct guest *guest, uint32_t *ret_slot)
{
    uint32_t port;

    if (sim_event_next(guest->conn, &port))
        return false;
    *ret_slot = slot_of_port(guest, port);
    if (*ret_slot)
        sim_event_unmask(guest->conn, *ret_slot);
    return true;
}

bool guest_wait_slots(struct guest *guest, int timeout_ms, void (*came)(void *arg, uint32_t slot),
                      void *arg)
{
    struct pollfd fd = {.fd = guest->conn->event_fd, .events = POLLIN};
    bool any = false;
    uint32_t slot;

    if (poll(&fd, 1, timeout_ms) <= 0)
        return false;
    while (event_take(guest, &slot)) {
        if (slot && came)
            came(arg, slot);
        any = true;
    }
    return any;
}

bool guest_wait(struct guest *guest, int timeout_ms)
{
    return guest_wait_slots(guest, timeout_ms, NULL, NULL);
}

int guest_event_fd(const struct guest *guest)
{
    return guest->conn->event_fd;
}

bool guest_event_take(struct guest *guest)
{
    uint32_t slot;

    return event_take(guest, &slot);
}
