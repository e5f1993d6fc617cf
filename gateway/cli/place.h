/*
 * place: where one guest disk is in xenstore (B, F, and libxl's record), and how it comes to its
 * end there. Values are as nodes gives them: printable, cut at NODES_VALUE_BYTES.
 */
#ifndef BLKGATE_GATEWAY_CLI_PLACE_H
#define BLKGATE_GATEWAY_CLI_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/cli/nodes.h"

struct place {
    uint32_t ours, domid, devid;
    bool served; /* by blkgated: B has a status */
    char kind[16];
    char vdev[24];
    char back[128], front[128], libxl[128];
};

/* The domain that we are in, and that blkgated serves for. */
uint32_t place_our_domid(struct nodes *nodes);

/* By its name or number. -ENOENT: no such domain. */
int place_find_domain(struct nodes *nodes, const char *text, uint32_t *ret_domid);

/* Of the kind under which blkgated serves it, or `vbd` if it does not. F is not asked, for the
 * guest writes what it likes there. */
void place_find(struct nodes *nodes, uint32_t domid, uint32_t devid, struct place *ret_place);

/* All that blkgated serves here. -errno: xenstore cannot be read. */
int place_each(struct nodes *nodes, void (*each)(void *arg, const struct place *place), void *arg);

/* The name by which blkgated's configuration calls the disk, or a URI; "-" if B does not say. */
void place_disk_name(struct nodes *nodes, const struct place *place,
                     char ret_name[static NODES_VALUE_BYTES]);

/* Asks the guest to let go of it, as libxl does; nothing more if that was done. `force`: the guest
 * is not asked. -ENOENT: B is gone. */
int place_unplug(struct nodes *nodes, const struct place *place, bool force);

/* Is it closed, and all flushed? Also if B is gone. */
bool place_is_closed(struct nodes *nodes, const struct place *place);

/* All nodes of it go. */
int place_remove(struct nodes *nodes, const struct place *place);
int place_remove_closed(struct nodes *nodes, const struct place *place); /* -EBUSY: it is not */

#endif
