/* A guest for tests, and the toolstack that makes one: against the real daemon and xenstored.
 *
 * It shares no code with the daemon: the ABIs in guest-abi.c are laid out from the Xen header, the
 * protocol in guest-front.c from Linux's blkfront. A function that returns int returns 0, or -1
 * with a line on stderr. Not thread-safe: a guest and its fronts belong to one thread. The domain
 * ends with guest_destroy or with the process, as under a hypervisor.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <xenstore.h>

#define GUEST_PAGE         4096u
#define GUEST_SECTOR       512u
#define GUEST_SEGMENTS_MAX 11u  /* in a slot */
#define GUEST_INDIRECT_MAX 256u /* of an indirect request, however many are offered */
#define GUEST_QUEUES_MAX   16u
#define GUEST_RING_SLOTS   512u /* the most that 16 pages hold */

enum { OP_READ, OP_WRITE, OP_BARRIER, OP_FLUSH, OP_RESERVED, OP_DISCARD, OP_INDIRECT };
enum { RSP_OKAY = 0, RSP_ERROR = -1, RSP_NOTSUPP = -2 };
enum {
    STATE_UNKNOWN,
    STATE_INITIALISING,
    STATE_INITWAIT,
    STATE_INITIALISED,
    STATE_CONNECTED,
    STATE_CLOSING,
    STATE_CLOSED
};

/* Domains. */

struct guest {
    struct sim_conn *conn;
    struct sim_domain *dom;
    struct xs_handle *xs;  /* domain 0's socket: the toolstack's */
    struct xs_handle *own; /* the guest's: xs, or its ring, with no rights but its own */
    struct simring *ring;  /* or NULL */
    uint32_t domid;
    uint32_t nr_free_frames, nr_free_refs;
    uint32_t *free_frames, *free_refs;
};

/* Domain 0, which is there: for frontends of its own, of one such guest at a time. */
struct guest *guest_create(uint32_t domid, uint32_t nr_pages);
/* With a xenstore ring of its own, by which it does what a guest does; by a driver domain's daemon
 * it is reached at simring_socket(ring), and then `own` is not opened. */
struct guest *guest_create_with_ring(uint32_t domid, uint32_t nr_pages);
struct guest *guest_create_driver(uint32_t domid);
void guest_destroy(struct guest *guest); /* domain death: @releaseDomain fires */
uint32_t guest_frames_alloc(struct guest *guest, uint32_t count); /* contiguous; aborts if none */
void guest_frames_free(struct guest *guest, uint32_t frame, uint32_t count);
uint8_t *guest_page(struct guest *guest, uint32_t frame);
uint32_t guest_grant(struct guest *guest, uint32_t frame, uint32_t to_domid, bool readonly);
/* False: it is mapped by the grantee, and stays granted. */
bool guest_revoke(struct guest *guest, uint32_t ref);
uint32_t guest_mapped_grants(struct guest *guest, uint32_t domid);
uint32_t guest_bound_ports(struct guest *guest, uint32_t domid); /* by others, to that domain's */
int guest_port_alloc(struct guest *guest, uint32_t remote_domid, uint32_t *ret_port,
                     uint32_t *ret_slot);
void guest_port_close(struct guest *guest, uint32_t port);
void guest_notify(struct guest *guest, uint32_t slot);
bool guest_wait(struct guest *guest, int timeout_ms); /* for any event; false: none came */
/* The same, and says of each event whose it is. */
bool guest_wait_slots(struct guest *guest, int timeout_ms, void (*came)(void *arg, uint32_t slot),
                      void *arg);
/* For who waits for many guests at once: readable while events wait, and takes one of them. */
int guest_event_fd(const struct guest *guest);
bool guest_event_take(struct guest *guest);
int64_t guest_clock_ms(void);

/* xenstore. A missing or junk node reads as `absent`. */
long guest_xs_read_number(struct guest *guest, const char *dir, const char *key, long absent);
long guest_own_read_number(struct guest *guest, const char *dir, const char *key, long absent);
int guest_xs_write(struct guest *guest, xs_transaction_t t, const char *dir, const char *key,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The same by the guest itself: `t` is a transaction of guest->own. */
int guest_own_write(struct guest *guest, xs_transaction_t t, const char *dir, const char *key,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The toolstack: what libxl 4.17 writes, in its transactions. */

struct tool_disk {
    struct guest *guest;
    uint32_t devid;   /* 51712 = xvda */
    const char *kind; /* vbd, qdisk, vbd3 */
    const char *params;
    const char *script; /* or NULL */
    const char *vdev;
    bool readonly;
    uint32_t backend_domid; /* 0, or a driver domain's */
    char backend[128], frontend[128], libxl[128];
};

int tool_attach(struct tool_disk *disk);
void tool_adopt(struct tool_disk *disk); /* instead, where the backend itself makes the nodes */
int tool_hotplug_done(struct tool_disk *disk); /* what a block script writes in the end */
int tool_hotplug_run(struct tool_disk *disk, const char *action); /* runs disk->script */
int tool_unplug(struct tool_disk *disk);                          /* asks: online 0, state 5 */
int tool_destroy(struct tool_disk *disk); /* forces: the frontend directory goes too */
int tool_remove(struct tool_disk *disk);  /* after state 6: deletes what is left */
int tool_wait_state(struct tool_disk *disk, int state, int timeout_ms);
int tool_state(struct tool_disk *disk);

/* Layouts. */

struct guest_abi {
    const char *name;
    const char *protocol;                      /* what the frontend writes; NULL: nothing */
    unsigned slot_bytes, id, sector, segments; /* of a slot, and offsets in it */
    unsigned discard_sectors, indirect_handle, indirect_refs;
};

const struct guest_abi *guest_abi_find(const char *name); /* x86_64, x86_32, arm, none */

struct front_segment {
    uint32_t ref;
    uint8_t first, last;
};

struct front_request {
    uint8_t op, inner_op, flag;
    uint16_t nr_segments; /* as written; segments[] holds at most 11 of them */
    uint16_t handle;
    uint64_t id; /* chosen by front_push */
    uint64_t sector, nr_sectors;
    struct front_segment segments[GUEST_SEGMENTS_MAX];
    uint32_t indirect_refs[8];
};

struct front_response {
    uint64_t id;
    uint8_t op;
    int16_t status;
};

void guest_abi_encode(const struct guest_abi *abi, const struct front_request *req, uint8_t *slot);
/* A segment in an indirect page. */
void guest_abi_indirect(uint8_t *page, unsigned index, const struct front_segment *seg);

/* The frontend. */

struct front_queue {
    uint32_t frame, refs[16], port, slot;
    uint8_t *ring;
    uint32_t size, req_prod, rsp_cons;
    uint64_t sequence;
    struct front_shadow {
        bool used;
        uint8_t op; /* that the answer must carry */
        uint64_t id;
    } shadow[GUEST_RING_SLOTS];
};

struct front {
    struct guest *guest;
    struct tool_disk *disk;
    const struct guest_abi *abi;
    unsigned ring_order, nr_queues;
    bool all_queues, whole_ring; /* as many, and as large, as the backend offers in state 2 */
    bool direct_to_4; /* like OVMF: ring and state 4 in one go, waiting for nothing before */
    bool broken;      /* the backend broke the protocol; Linux would disable the disk */
    /* Of answers that broke it: to a request answered before, to none, with a wrong operation. */
    unsigned nr_double, nr_unknown, nr_wrong_op;
    int timeout_ms;
    uint64_t sectors;
    bool flush, discard, readonly;
    long max_indirect;
    struct front_queue queues[GUEST_QUEUES_MAX];
};

int front_connect(struct front *front);     /* from state 1 to 4 */
int front_ring_create(struct front *front); /* its parts, for tests that go other ways */
int front_ring_renew(struct front *front);  /* same pages, references and port, empty */
int front_ring_publish(struct front *front);
int front_features_read(struct front *front);
/* Are the nodes there that the backend owes in state 2, or in 4, and say what they may? */
int front_nodes_check(struct front *front, int state);
int front_ring_free(struct front *front); /* -1: the backend still has it mapped */
int front_state_set(struct front *front, int state);
int front_close(struct front *front);  /* 5, 6, and waits for the backend's 6 */
int front_reopen(struct front *front); /* 1, and waits for the backend's 2 */

uint32_t front_room(const struct front_queue *queue);
int front_push(struct front *front, unsigned queue, struct front_request *req);
/* Any bytes. `id` and `op` are what the answer must carry; not registered if !answered. */
int front_push_raw(struct front *front, unsigned queue, const uint8_t *slot, uint64_t id,
                   uint8_t op, bool answered);
uint64_t front_next_id(struct front *front, unsigned queue);
void front_publish(struct front *front, unsigned queue); /* notifies if the backend asked to */
void front_slip(struct front *front, unsigned queue); /* without an event: it is on its way yet */
int front_poll(struct front *front, struct front_response *ret); /* 1: got one, -1: broken */
int front_poll_queue(struct front *front, unsigned queue, struct front_response *ret);
/* Sends one request and waits for its answer; 1 is returned for none. */
int front_do(struct front *front, struct front_request *req);

#endif
