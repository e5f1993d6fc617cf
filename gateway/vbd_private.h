/*
 * vbd_private: what vbd.c (the machine: events, reports, steps) and vbd_act.c (the actions) share.
 * Nobody else includes it.
 */
#ifndef BLKGATE_GATEWAY_VBD_PRIVATE_H
#define BLKGATE_GATEWAY_VBD_PRIVATE_H

#include <ev.h>

#include "gateway/disklink.h"
#include "gateway/log.h"
#include "gateway/vbd.h"

struct store_watch;

struct vbd {
    struct vbd_host *host;
    enum vbd_kind kind;
    uint16_t domid;
    uint32_t devid;
    char back[LIMIT_XENSTORE_PATH_BYTES / 2]; /* B */
    char name[96];                            /* for the log */
    char vdev[24];

    enum vbd_state state;
    bool marked;
    bool stopping;
    bool alive;         /* its domain was seen alive ... */
    bool frontend_dead; /* ... and is gone */
    uint32_t generation;
    ev_timer timer; /* marks */
    struct log_limit chatter;
    struct log_limit losses;          /* apart: chatter must not crowd them out */
    char refused[LIMIT_REASON_BYTES]; /* by xenstored, for a quota: said, and tried again */
    bool hindered;                    /* ... in this step too */

    /* from here on: of the device that B is now, emptied by forget_device */
    struct vbd_node node;
    const struct config_disk *disk; /* NULL: params name none, `reason` says so */
    struct config_disk *own_disk;
    struct store_watch *watch; /* F/state */
    uint64_t found_ms;
    enum xenbus_state known;
    enum xenbus_state frontend_was; /* F's state when it was looked at last */
    bool went_back;                 /* it was 4 before, and is 3 */
    enum xenbus_state spent_at;     /* F's state when this coming of the frontend was spent */
    bool spent;
    bool unclean;
    bool resumed;
    bool offered;  /* the limits in B are ours, or read */
    bool waiting;  /* for another vbd to let go of the export */
    bool removing; /* B is to be removed when the timer fires */
    bool orphan;   /* xenstored lost B; served on */
    char reason[LIMIT_REASON_BYTES];
    char status[LIMIT_REASON_BYTES + 16]; /* as written last; "": never */

    struct vbd_ring_past rings;  /* how F's ring nodes are read in this life */
    struct vbd_ring_past before; /* ... and were in the one served last, if one was */
    bool connected_before;

    struct disklink *link; /* NULL before the first OPEN */
    struct disk_order order;
    struct disk_report report; /* of this life */
    uint64_t shown_sectors;    /* in `sectors` */
    bool served;               /* rings were served in this life: FAIL is due before CLOSE */
    bool suspending;           /* CLOSING for a stop: the guest waits for the next start */
    uint64_t device_nonce;     /* in blkgate-device; 0: none yet */
};

enum { VBD_IDENTITY_BYTES = 24 };

/* vbd.c */
/* Of its export, as B shows it. */
void vbd_identity(const struct vbd *vbd, char ret_identity[static VBD_IDENTITY_BYTES]);
void vbd_set_state(struct vbd *vbd, enum vbd_state state); /* by the arrows of vbd.h only */
void vbd_order(struct vbd *vbd, enum disk_want want);
void vbd_break(struct vbd *vbd, const char *reason); /* -> BROKEN */
void vbd_on_report(void *arg);                       /* the link's `changed` */
void vbd_wake_in(struct vbd *vbd, uint64_t ms);
/* Of the device that B was nothing is to remain: -> ENDING or NEW, which looks again. */
void vbd_end_device(struct vbd *vbd);

/* vbd_act.c */
void vbd_keep_path(const struct vbd *vbd, char *ret_path, size_t bytes); /* its kept file's */
bool vbd_has_file(const struct vbd *vbd);  /* while it is not open: what the server has not */
bool vbd_drop_file(const struct vbd *vbd); /* true: there was one */
/* Not connected again after all: what was kept stays, and so does B. */
void vbd_hold_instead(struct vbd *vbd, const char *reason);
void vbd_act(struct vbd *vbd, const struct vbd_seen *seen, enum xenbus_action action);
/* -ESTALE: B is not the device that was found any more, and nothing was written. */
int vbd_show_status(struct vbd *vbd, const struct vbd_seen *seen);
void vbd_show_limits(struct vbd *vbd, const struct vbd_seen *seen);
void vbd_show_end(struct vbd *vbd, const struct vbd_seen *seen);
void vbd_show_size(struct vbd *vbd, const struct vbd_seen *seen);
/* Reading or writing went wrong and nothing was changed: sees to it that it is tried again. */
void vbd_not_now(struct vbd *vbd, const char *what, int error);
/* A step is over: if xenstored refused nothing in it, it takes what it did not before. */
void vbd_unhindered(struct vbd *vbd);

#endif
