/* Between the two halves of the stand-in for libxengnttab: mappings and copies. */
#ifndef SIM_GNTTAB_H
#define SIM_GNTTAB_H

#include "simclient.h"
#include <xengnttab.h>

struct area {
    struct area *next;
    uint8_t *start;
    uint32_t count;
    uint32_t id; /* simxen's: of a mapping, or the first frame of what is shared */
};

struct xengntdev_handle {
    struct sim_conn *conn;
    pthread_mutex_t lock; /* of areas */
    struct area *areas;
};

/* True if the range, of two pages at most, touches a mapped grant of this process: gntdev cannot
 * pin such memory. */
bool gnttab_is_mapped(const void *start, size_t bytes);

#endif
