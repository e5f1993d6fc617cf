/*
 * vbd_nodes: a vbd's nodes in xenstore, read and written; no state of its own, no decisions.
 *
 * B is /local/domain/OURS/backend/KIND/FRONTEND-ID/DEVID, F the frontend's directory. Every write
 * into B is a transaction that first reads B/state: a B that was removed is never made again by
 * writing into it, and a state that somebody else has changed meanwhile is not overwritten.
 */
#ifndef BLKGATE_GATEWAY_VBD_NODES_H
#define BLKGATE_GATEWAY_VBD_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/disklink.h"
#include "gateway/vbd_ring.h"
#include "proto/limits.h"
#include "proto/xenbus.h"

struct config;
struct config_disk;
struct store;

enum vbd_kind { VBD_KIND_VBD, VBD_KIND_QDISK, VBD_KIND_VBD3, VBD_KINDS };

const char *vbd_kind_name(enum vbd_kind kind);

/* What does not change as long as B is the same device. */
struct vbd_node {
    char frontend[LIMIT_XENSTORE_PATH_BYTES / 2]; /* F */
    char *params; /* the owner's to free: mostly much shorter than it may be */
    bool script;  /* a hotplug script is named: the device is ours once it says "connected" */
    bool readonly;
    bool cdrom;
    bool removable;
    bool discard; /* the toolstack does not forbid it */
};

/* -ENOENT: not ours (or not whole yet): leave it alone. */
int vbd_nodes_find(struct store *store, const struct config *config, enum vbd_kind kind,
                   const char *back, uint16_t domid, struct vbd_node *ret_node);

int vbd_nodes_exist(struct store *store, const char *back, bool *ret_exist);

/* The disk that the node's params name: one of the configuration's, or (then *ret_own is the
 * caller's to free) one made of a URI. -EINVAL and the reason if there is none. */
int vbd_nodes_disk(const struct vbd_node *node, const struct config *config,
                   const struct config_disk **ret_disk, struct config_disk **ret_own,
                   char ret_reason[static LIMIT_REASON_BYTES]);

enum vbd_hotplug { VBD_HOTPLUG_ABSENT, VBD_HOTPLUG_CONNECTED, VBD_HOTPLUG_ERROR };
enum vbd_shutdown { VBD_SHUTDOWN_NONE, VBD_SHUTDOWN_NORMAL, VBD_SHUTDOWN_FORCE };

/* What does. */
struct vbd_seen {
    enum xenbus_state own;
    enum xenbus_state frontend;
    bool online;
    enum vbd_hotplug hotplug;
    enum vbd_shutdown shutdown;
    bool shutdown_done;
    bool status;           /* our status node is there; only looked for in states 1 and 2 */
    uint64_t device_nonce; /* these three only if asked for; 0: absent */
    uint64_t export_id;
    struct vbd_ring_shape past_shape;
};
int vbd_nodes_see(struct store *store, const char *back, const struct vbd_node *node,
                  bool look_for_past, struct vbd_seen *ret_seen);

/* One write (value NULL: removal) of a transaction. */
struct vbd_write {
    const char *key;
    const char *value;
    bool is_private; /* not for the guest to read */
};

/* The writes, and then B/state = `to`, in one transaction (XENBUS_ABSENT: the state stays).
 * -ENOENT: B is gone. -ESTALE: B/state is not `expect` any more (XENBUS_ABSENT: any will do). */
int vbd_nodes_write(struct store *store, const char *back, enum xenbus_state expect,
                    enum xenbus_state to, const struct vbd_write *writes, unsigned count);

/* As vbd_nodes_write with no state, but only if B is still the device of `node`: -ESTALE otherwise.
 * Of what is written, the absence tells from then on that B was made anew. */
int vbd_nodes_claim(struct store *store, const char *back, const struct vbd_node *node,
                    const struct vbd_write *writes, unsigned count);

/* What the guest was told of its disk when it was connected; -ENOENT if it never was. */
int vbd_nodes_told(struct store *store, const char *back, struct disk_properties *ret_told);

/* Removes B if it is still closed and not wanted (driver domain). -ESTALE if it is not so. */
int vbd_nodes_remove(struct store *store, const char *back);

/* What a frontend may use: what B shows, whoever wrote it, for the frontend may have read it long
 * ago. Absent or junk: one queue of one page, and no INDIRECT; never more than proto/limits.h. */
struct vbd_limits {
    uint32_t queues;
    uint32_t ring_order;
    uint32_t indirect_segments;
};
int vbd_nodes_limits(struct store *store, const char *back, struct vbd_limits *ret_limits);

/* How F's ring nodes are to be read (see vbd_ring_judge), within B's limits. */
int vbd_nodes_judge(struct store *store, const char *back, const struct vbd_node *node,
                    const struct vbd_ring_past *before, struct vbd_ring_past *ret_now);
/* The rings that F asks for (see vbd_ring_read), within B's limits; and its indirect segments. */
int vbd_nodes_rings(struct store *store, const char *back, const struct vbd_node *node,
                    const struct vbd_ring_shape *shape, struct disk_order *ret_order,
                    char ret_reason[static LIMIT_REASON_BYTES]);

/* The error node that Linux backends write too; best effort. NULL removes it, and what held it. */
void vbd_nodes_error(struct store *store, uint16_t our_domid, const char *back, const char *text);

#endif
