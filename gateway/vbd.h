/*
 * vbd: one guest disk as xenstore sees it; the other half is the disk on its worker, reached only
 * through a disklink.
 *
 * Events (watches, reports, timers) only mark a vbd; the backend then calls vbd_step once per loop
 * turn. A step reads everything anew, lets proto/xenbus decide one action, and carries it out:
 * however wildly a guest writes its nodes, a turn's work is one step.
 *
 * The states, which are those of the disk's life (enum xenbus_life) and what lies around it:
 *
 *                 ours                open             server there       rings of the frontend
 *      NEW ----------------> IDLE ----------> OPENING ---------> READY -------------> CONNECTING
 *       | ^ \ not ours        ^ \                |                 |                    |
 *       | |  +--> FOREIGN     |  \ found in use  | server away     | bad nodes, lost    | served
 *       | |      (looked at   |   \ by a dead    v                 v           refused, v
 *       | |       again)      |    v daemon     BROKEN <-----------+---------- lost    CONNECTED
 *       | |                   |   HELD           |  ^                                   |
 *       | |                   |                  |  | lost                              | state 4
 *       | | ENDED             |    closed        |  +-------------------------------+   v
 *       | |               CLOSING <--------------+---- FAILED <-- 5 is shown, was ---+- SERVING
 *       | |                   ^  (nobody served)            \      served               |
 *       | |                   +------------------------------+--------------------------+
 *       | |                          frontend closed, gone, or begins anew
 *       | +--- ENDING <--- from every state with a link: B gone or another device, or a stop
 *       +----> OVER        B gone, or stopped: to be destroyed
 *
 * In B the vbd writes, beside what a backend must, `blkgate-status`: "opening", "ready",
 * "failed: REASON" or "held: REASON", for the hotplug script and for people.
 *
 * Toolstacks. Where B names a `script` (libxl's kinds vbd and vbd3), that one writes
 * `hotplug-status`, which opens the gate: nobody is connected before it says "connected". Where B
 * names none, nobody may run one, and the vbd does its part for who waits for it (xenopsd, up to
 * 300 s; libxl never looks):
 *
 *      the export is open                   hotplug-status = connected
 *      it cannot be opened or connected     hotplug-status = error, hotplug-error = REASON; not
 * where it said "connected" before state 6, and not wanted any more     both go
 *
 * `online` = 0 says that B is not wanted any more, and state 5 asks for the close. xenopsd may ask
 * by `shutdown-request` instead (where the backend's domain has control/feature-shutdown-request):
 * "normal" is as online = 0, and state 5 is ours to write; "force" asks no frontend. When all is
 * answered and flushed, state 6 is followed by `shutdown-done` = 1, and then who asked removes B.
 * It is xenopsd's only way to know of the flush: else it removes B as soon as the guest has closed.
 *
 * A frontend may use what B shows (queues, ring pages, INDIRECT segments), whoever wrote it: it may
 * have read it long ago, as xen-blkback's word, or as an earlier configuration's. So these nodes
 * are only raised under it, and begin anew with state 2. Who uses more is refused.
 *
 * Quotas. xenstored may refuse a driver domain a node or a watch. Then that vbd stays in the state
 * it is in and tries again every second; its status, where there is room for it, is "failed:
 * REASON" meanwhile, and the log says it once. The others go on, and a stop needs no new node.
 *
 * Stop and start. What a disk has in flight, and not flushed, lives in its kept file (keep.h), so a
 * stop is a crash that waits a few seconds for the server first: it leaves B/state as it is. From
 * the moment rings are connected B has `blkgate-device`, a number of this life of the device, and
 * `blkgate-export`, one of the export. What a start does, by B/state and frontend (F):
 *
 *      B    F          with the kept file of this device     without
 *      1    any        as a new device
 *      2    any        open; connect when F is 3 or 4 (the guest waits for our 4)
 *      4    3, 4       connect and serve on; the guest       the same, if no request is in flight;
 *                      noticed nothing                       else HELD: untouched
 *      4    5          connect and serve until 6; state 5    the same, or HELD
 *      5    3, 4, 5    connect, serve until 6                the same, or HELD
 *      4,5  1          state 2, open: the guest began anew. What was not flushed is kept
 *      4,5  6, absent  what was not flushed is written       state 6
 *                      and flushed, then state 6
 *      6    6, absent  nothing
 *      6    1, 3, 4    state 2, open
 *      none            the file is removed
 *
 * "In flight" is what the ring says: requests beyond the responses. A ring that the guest has made
 * anew while there was no daemon (its nonce is gone) is connected as a new one. HELD is also what
 * the configuration does not have any more, or has with another export, and what has a file that
 * cannot be used (damaged, or of a newer version): put right, the next start takes it up. HELD ends
 * when the frontend closes or B goes. If xenstored itself died and came back without B, a connected
 * disk is served on untouched.
 */
#ifndef BLKGATE_GATEWAY_VBD_H
#define BLKGATE_GATEWAY_VBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/vbd_nodes.h"

struct config;
struct config_disk;
struct disklink;
struct ev_loop;
struct mailbox;
struct store;
struct vbd;

enum vbd_state {
    VBD_NEW,
    VBD_FOREIGN,
    VBD_IDLE,
    VBD_OPENING,
    VBD_READY,
    VBD_CONNECTING,
    VBD_CONNECTED,
    VBD_SERVING,
    VBD_BROKEN,
    VBD_FAILED,
    VBD_CLOSING,
    VBD_HELD,
    VBD_ENDING,
    VBD_OVER,
};

const char *vbd_state_name(enum vbd_state state);

/* What all vbds share, and may ask of the backend. One thread. */
struct vbd_host {
    struct store *store;
    struct ev_loop *loop;
    struct mailbox *box;
    const struct config *config;
    uint16_t domid;      /* ours */
    uint32_t generation; /* of the connection to xenstore: raised when it is back */
    /* Some vbd is marked: call vbd_step of it before the loop sleeps. */
    void (*marked)(struct vbd_host *host);
    /* May `vbd` open its export? 0; -EAGAIN: another vbd is about to let go of it, vbd_mark comes
     * then; -EBUSY and the reason. */
    int (*claim)(struct vbd_host *host, const struct vbd *vbd,
                 char ret_reason[static LIMIT_REASON_BYTES]);
    /* Hands the link to a worker. */
    int (*place)(struct vbd_host *host, struct disklink *link);
    /* A vbd has let go of its export. */
    void (*let_go)(struct vbd_host *host);
};

int vbd_create(struct vbd_host *host, enum vbd_kind kind, uint16_t domid, uint32_t devid,
               struct vbd **ret_vbd);
/* In state OVER, or NEW or FOREIGN. A vbd that has a link yet (a stop that took too long) leaks
 * it, since the worker may still use it. NULL is fine. */
void vbd_destroy(struct vbd *vbd);

void vbd_mark(struct vbd *vbd);
bool vbd_is_marked(const struct vbd *vbd);
/* What is new is looked at before anybody steps: who has a disk already is known before somebody
 * else opens it. */
void vbd_look(struct vbd *vbd);
void vbd_step(struct vbd *vbd);
void vbd_stop(struct vbd *vbd); /* goes OVER when all is drained and released */
/* Has the export grown? If so, the guest is told. */
void vbd_probe(struct vbd *vbd);
/* Some domain died: was it this one's? */
void vbd_check_domain(struct vbd *vbd);

enum vbd_state vbd_get_state(const struct vbd *vbd);
const char *vbd_name(const struct vbd *vbd);
bool vbd_is(const struct vbd *vbd, enum vbd_kind kind, uint16_t domid, uint32_t devid);
bool vbd_is_of_domain(const struct vbd *vbd, enum vbd_kind kind, uint16_t domid);
bool vbd_is_of_kind(const struct vbd *vbd, enum vbd_kind kind);

/* Its disk once known, whether it writes to it, and how much it has of it; "awaits": it is not open
 * yet, but connected since before our start. */
enum vbd_hold { VBD_HOLDS_NOT, VBD_AWAITS, VBD_HOLDS, VBD_LETS_GO };
enum vbd_hold vbd_holds(const struct vbd *vbd);
const struct config_disk *vbd_disk(const struct vbd *vbd); /* NULL: unknown */
bool vbd_is_readonly(const struct vbd *vbd);

#endif
