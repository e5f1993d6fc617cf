/* What simxen and its clients share: the memory that both map, and the messages on its socket.
 *
 * simxen plays the part of the hypervisor: it alone creates and frees domains, ports, handles and
 * mappings, so that the death of any client leaves nothing half done. The clients' fast paths
 * (copy, notify, pending, unmask) touch only this shared memory and an eventfd.
 *
 * 1. A port's `state` is one word changed by compare-and-swap: an event is delivered (RAISED and
 *    MASKED set) or remembered (PENDING) in one step, so a client killed between two instructions
 *    cannot lose it. Every RAISED port of a handle is followed by one token in the handle's
 *    eventfd; simxen writes the token if the notifier died before it could.
 * 2. A token without a RAISED port is possible (after 1., or after an unbind) and means nothing.
 * 3. A grant is one word. Its pin count counts mappings and is changed by simxen only; the other
 *    bits are changed by the granting domain only, and never while it is pinned.
 * 4. A copier counts itself in its handle's `copying` around each batch; who revokes waits for
 *    zero, so that no copy touches a page after its revocation has returned.
 */
#ifndef SIMPROTO_H
#define SIMPROTO_H

#include <stdatomic.h>
#include <stdint.h>

#define SIM_PAGE         4096u
#define SIM_DOMAINS      32752u /* DOMID_FIRST_RESERVED rounded up: domids are below this */
#define SIM_PORTS        8192u  /* slots of all domains together */
#define SIM_DOM_PORTS    4096u  /* port numbers of one domain */
#define SIM_HANDLES      2048u
#define SIM_GRANTS       16384u /* entries of one domain's table: 32 frames of version 1 */
#define SIM_GRANT_FIRST  8u     /* the toolstack's reserved entries */
#define SIM_MAP_MAX      1024u  /* grants in one map call */
#define SIM_DOM0_PAGES   512u   /* of domain 0: what it shares by libxengntshr, ... */
#define SIM_DOM0_FRONT   16384u /* ... and above them what its own frontends have, */
#define SIM_DOM0_REF     1024u  /* whose references begin here */
#define SIM_RING_MAX_FDS 3

/* A grant: frame in bits 0..31, grantee in 32..47, flags in 48..49, pins above. */
#define SIM_GRANT_VALID    (UINT64_C(1) << 48)
#define SIM_GRANT_READONLY (UINT64_C(1) << 49)
#define SIM_GRANT_PIN      (UINT64_C(1) << 50)
#define SIM_GRANT_PINS(w)  ((uint32_t)((w) >> 50))
#define SIM_GRANT_FRAME(w) ((uint32_t)(w))
#define SIM_GRANT_DOMID(w) ((uint32_t)((w) >> 32) & 0xffffu)

#define SIM_PORT_PENDING 1u /* arrived while masked */
#define SIM_PORT_MASKED  2u /* delivered, and not unmasked since */
#define SIM_PORT_RAISED  4u /* delivered, and not yet fetched by xenevtchn_pending */

enum sim_port_kind { SIM_PORT_FREE, SIM_PORT_UNBOUND, SIM_PORT_INTERDOMAIN };

struct sim_port {
    _Atomic uint32_t state;
    _Atomic uint32_t peer;   /* slot of the other end, 0: none */
    _Atomic uint32_t handle; /* whose eventfd gets the token, 0: nobody's */
    _Atomic uint32_t port;   /* its number in its domain */
    uint32_t kind;           /* the rest is simxen's own */
    uint32_t domid;
    uint32_t remote_domid;
};

struct sim_handle {
    _Atomic uint32_t generation; /* changes whenever the handle is given to another client */
    _Atomic uint32_t copying;    /* threads inside a batch of grant copies */
};

struct sim_stats {
    _Atomic uint64_t grant_copy_calls;
    _Atomic uint64_t grant_copy_ops;
    _Atomic uint64_t grant_copy_batches;
    _Atomic uint64_t grant_copy_bytes;
    _Atomic uint64_t grant_copy_errors;
    _Atomic uint64_t maps;
    _Atomic uint64_t mapped_grants;
    _Atomic uint64_t unmaps;
    _Atomic uint64_t binds;
    _Atomic uint64_t unbinds;
    _Atomic uint64_t notifies;
    _Atomic uint64_t pendings;
    _Atomic uint64_t unmasks;
    _Atomic uint64_t guest_notifies;
};

struct sim_shared {
    struct sim_stats stats;
    _Atomic uint32_t port_limit;   /* slots at and above it were never used */
    _Atomic uint32_t handle_limit; /* and handles */
    struct sim_handle handles[SIM_HANDLES];
    struct sim_port ports[SIM_PORTS];
    _Atomic uint32_t domain_generation[SIM_DOMAINS]; /* 0: there is no such domain */
};

enum sim_op {
    SIM_HELLO = 1,     /* arg: kind, domid -> handle; fds: shared memory, eventfd */
    SIM_DOM_CREATE,    /* domid, pages; fds: memory, grants; ends with this connection */
    SIM_DOM_DESTROY,   /* domid */
    SIM_DOM_GET,       /* domid -> generation, pages; fds: memory, grants */
    SIM_DOM_PINS,      /* domid -> grants of a live or a dead domain that are mapped */
    SIM_PORT_ALLOC,    /* domid of the other end -> port, slot */
    SIM_PORT_BIND,     /* domid, port -> port, slot, peer's handle; fd: peer's eventfd */
    SIM_PORT_CLOSE,    /* port */
    SIM_HANDLE_FD,     /* handle; fd: its eventfd */
    SIM_GRANT_MAP,     /* writable; list of domid, ref -> mapping, list of frames */
    SIM_GRANT_UNMAP,   /* mapping */
    SIM_SHARE_PAGES,   /* domid, writable, count -> first frame, list of refs */
    SIM_UNSHARE_PAGES, /* first frame, count */
};

enum sim_kind { SIM_KIND_EVTCHN = 1, SIM_KIND_GNTTAB, SIM_KIND_GUEST, SIM_KIND_TOOL };

struct sim_msg {
    uint32_t op;   /* in a reply: 0 or an errno */
    uint32_t used; /* words of list[] that are sent */
    uint32_t arg[4];
    uint32_t list[2 * SIM_MAP_MAX];
};

#define SIM_MSG_BYTES(used) (24u + 4u * (used))

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "atomics are shared between processes");

#endif
