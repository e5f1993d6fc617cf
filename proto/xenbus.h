/*
 * xenbus: the handshake between a block frontend and its backend, as far as it can be said without
 * a xenstore: states, key names, strict parsing, and what to do next (xenbus_decide).
 *
 * Both ends write their state into a node of their own and watch the other's:
 *
 *                      server answers              frontend 3 or 4, ring served
 *      1 Initialising ---------------> 2 InitWait ---------------------------> 4 Connected --+
 *           |    |                       ^   ^  |                               |  ^         |
 * resize, |    |    frontend 1 (close- |   |  |   frontend 1 without a        |  +---------+ again
 *           |    |    first, pvgrub,     |   |  |   goodbye (kexec)             |
 *           |    |    a guest's reboot)  |   +--|-------------------------------+
 *           |    |                       |      |                               |
 *           |    +---> 6 Closed ---------+      +---------> 5 Closing <---------+
 *           |              |^ frontend 6 or gone              ^ | frontend 5, server lost,
 *           |              |+---------------------------------|-+ refused, toolstack's unplug
 *           |              +----------------------------------+ frontend 5 once more
 *           +------------------------------------------------------> 5
 *
 * 3 is never published: GRUB takes any state but 2 for "connected". 3 and 4 of a frontend mean the
 * same, since OVMF and Mini-OS never write 3. Beside the node's state a backend has a *life*: one
 * opening of the disk on the server, seen as a disklink's orders and reports (gateway/vbd.h).
 *
 * Pure: no system call, no allocation, no logging, no failure other than a return value. Nothing
 * here trusts its input.
 */
#ifndef BLKGATE_PROTO_XENBUS_H
#define BLKGATE_PROTO_XENBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The nodes of a backend's directory (B) and a frontend's (F). */
#define KEY_STATE               "state"
#define KEY_FRONTEND            "frontend"
#define KEY_FRONTEND_ID         "frontend-id"
#define KEY_ONLINE              "online"
#define KEY_MODE                "mode"
#define KEY_PARAMS              "params"
#define KEY_SCRIPT              "script"
#define KEY_DEVICE_TYPE         "device-type"
#define KEY_REMOVABLE           "removable"
#define KEY_HOTPLUG_STATUS      "hotplug-status"
#define KEY_HOTPLUG_ERROR       "hotplug-error"
#define KEY_SHUTDOWN_REQUEST    "shutdown-request"
#define KEY_SHUTDOWN_DONE       "shutdown-done"
#define KEY_MAX_INDIRECT        "feature-max-indirect-segments"
#define KEY_MAX_RING_ORDER      "max-ring-page-order"
#define KEY_MAX_QUEUES          "multi-queue-max-queues"
#define KEY_FEATURE_BARRIER     "feature-barrier"
#define KEY_FEATURE_FLUSH       "feature-flush-cache"
#define KEY_FEATURE_DISCARD     "feature-discard"
#define KEY_DISCARD_ENABLE      "discard-enable"
#define KEY_DISCARD_GRANULARITY "discard-granularity"
#define KEY_DISCARD_ALIGNMENT   "discard-alignment"
#define KEY_DISCARD_SECURE      "discard-secure"
#define KEY_FEATURE_PERSISTENT  "feature-persistent"
#define KEY_SECTORS             "sectors"
#define KEY_SECTOR_SIZE         "sector-size"
#define KEY_PHYSICAL_SECTOR     "physical-sector-size"
#define KEY_INFO                "info"
#define KEY_PROTOCOL            "protocol"
#define KEY_RING_REF            "ring-ref"
#define KEY_RING_ORDER          "ring-page-order"
#define KEY_EVENT_CHANNEL       "event-channel"
#define KEY_NUM_QUEUES          "multi-queue-num-queues"
/* Ours, in B: "opening", "ready", "failed: REASON" or "held: REASON"; which life of the device this
 * is, and of which export (config_uri_identity, for the guest may read it); what of F's ring nodes
 * is an earlier frontend's (the words below); and for a hotplug script the export itself, which no
 * guest may read. */
#define KEY_BLKGATE_STATUS "blkgate-status"
#define KEY_BLKGATE_DEVICE "blkgate-device"
#define KEY_BLKGATE_EXPORT "blkgate-export"
#define KEY_BLKGATE_RINGS  "blkgate-rings"
#define BLKGATE_ONE_QUEUE  "one-queue"
#define BLKGATE_ONE_PAGE   "one-page"
#define KEY_BLKGATE_URI    "blkgate-uri"

enum { XENBUS_DOMID_MAX = 0x7fef }; /* DOMID_FIRST_RESERVED is 0x7ff0 */

enum xenbus_info { XENBUS_INFO_CDROM = 1, XENBUS_INFO_REMOVABLE = 2, XENBUS_INFO_READONLY = 4 };

enum xenbus_state {
    XENBUS_ABSENT = 0, /* no such node, unreadable, or not a state: Linux's "Unknown" */
    XENBUS_INITIALISING = 1,
    XENBUS_INIT_WAIT = 2,
    XENBUS_INITIALISED = 3,
    XENBUS_CONNECTED = 4,
    XENBUS_CLOSING = 5,
    XENBUS_CLOSED = 6,
    XENBUS_RECONFIGURING = 7,
    XENBUS_RECONFIGURED = 8,
};

const char *xenbus_state_name(enum xenbus_state state);
enum xenbus_state xenbus_state_parse(const char *text); /* NULL and junk: XENBUS_ABSENT */

/* May a backend of ours change its node from `from` to `to`? (The arrows above.) */
bool xenbus_may_go(enum xenbus_state from, enum xenbus_state to);

/* -- what to do next ----------------------------------------------------------------------- */

/* The disk's life, as the vbd has it. */
enum xenbus_life {
    XENBUS_LIFE_NONE,       /* not open */
    XENBUS_LIFE_OPENING,    /* connecting to the server */
    XENBUS_LIFE_READY,      /* the server answered */
    XENBUS_LIFE_CONNECTING, /* the worker maps the rings */
    XENBUS_LIFE_CONNECTED,  /* rings are served, state 4 is not written yet */
    XENBUS_LIFE_SERVING,    /* ... is written */
    XENBUS_LIFE_BROKEN,     /* server lost, or rings refused: nothing said to the guest yet */
    XENBUS_LIFE_FAILED,     /* state 5 was shown, requests are answered ERROR */
    XENBUS_LIFE_CLOSING,    /* drains, flushes, disconnects */
};

struct xenbus_view {
    enum xenbus_state own;      /* B/state as read now */
    enum xenbus_state known;    /* B/state as read or written last; ABSENT: never */
    enum xenbus_state frontend; /* F/state as read now */
    enum xenbus_life life;
    bool online;        /* B/online: the toolstack wants the device */
    bool unplug;        /* not online, and state 5 is ours to write */
    bool frontend_dead; /* its domain is gone, or is not to be asked, whatever its nodes say */
    bool gate_open;     /* no hotplug script, or it handed the device over to us */
    bool may_offer;     /* state 1 -> 2 is ours to write, and now */
    bool renewed;       /* our mark in B is gone: another device under the same path */
    bool rings_anew;    /* F names other rings than this life's, or went from 4 back to 3 */
    bool spent;         /* this coming of the frontend was refused or failed already */
    bool unclean;       /* found connected to a daemon that died: rings are not to be touched */
    bool resumed;       /* found connected by an earlier daemon, and taken up again */
    bool remove;        /* nobody else removes B when all is over (driver domain) */
};

enum xenbus_action {
    XENBUS_DO_NOTHING,
    XENBUS_DO_FORGET,  /* B is gone: end the life, write nothing anywhere */
    XENBUS_DO_RENEW,   /* B is another device: end the life, begin anew */
    XENBUS_DO_HOLD,    /* touch nothing, say so */
    XENBUS_DO_OPEN,    /* begin a life */
    XENBUS_DO_OFFER,   /* publish limits, state 2 */
    XENBUS_DO_CONNECT, /* read F's parameters, have the rings served */
    XENBUS_DO_SERVE,   /* publish properties, state 4 */
    XENBUS_DO_CLOSING, /* state 5; the rings are served on */
    XENBUS_DO_FAIL,    /* state 5 with a reason, and only then errors to the guest (law 6) */
    XENBUS_DO_CLOSE,   /* end serving: drain, flush, disconnect */
    XENBUS_DO_CLOSED,  /* state 6 */
    XENBUS_DO_REMOVE,  /* remove B */
};

const char *xenbus_action_name(enum xenbus_action action);

/* One step, decided by nothing but `view`: after carrying it out, look again. A view that comes
 * out as DO_NOTHING or DO_HOLD stays so until something in it changes. */
enum xenbus_action xenbus_decide(const struct xenbus_view *view);

/* -- parsing ------------------------------------------------------------------------------- */

/* A decimal number and nothing else: digits, at most 20, no sign, no spaces; <= max. -EINVAL for
 * what is none, -ERANGE for one too big. NULL is -EINVAL. */
int xenbus_parse_u64(const char *text, uint64_t max, uint64_t *ret_value);
int xenbus_parse_u32(const char *text, uint32_t max, uint32_t *ret_value);

/* A virtual device by name (xvda, xvda1, xvdaa, hda, sda15, or its plain number) <-> by number, as
 * in Xen's vbd-interface(7): xvd* above disk or partition 15 are numbered from 1 << 28. A number
 * without a name prints as itself. */
int xenbus_vdev_parse(const char *name, uint32_t *ret_devid);
int xenbus_vdev_name(uint32_t devid, char *ret_name, size_t bytes);

/* "ROOT/FRONTEND-ID/DEVID[/LEAF]" taken apart. `depth` says how much of it there was: 0 ROOT
 * itself (or an ancestor), 1 with the domain, 2 with the device, 3 with a leaf. -EINVAL for junk.
 */
struct xenbus_place {
    unsigned depth;
    uint16_t domid;
    uint32_t devid;
    const char *leaf; /* into the path; "" below depth 3 */
};
int xenbus_place_parse(const char *path, const char *root, struct xenbus_place *ret_place);

#endif
