/* simring: a domain's xenstore ring, so that it is to xenstored what a guest is: a client of its
 * own domid, with no rights but those.
 *
 * A thread plays the domain's xenbus driver: it carries bytes between one client of a unix socket
 * (any libxenstore) and the ring. The domain must be introduced to xenstored after simring_start.
 * One client at a time; one that leaves may be followed by another only if it left no watch and no
 * answer outstanding, as the ring itself stays.
 */
#ifndef SIMRING_H
#define SIMRING_H

#include <stdint.h>

/* In $BLKGATE_SIM, by domid. xenstored-shim.c is the other end. */
#define SIMRING_FILE        "ring.%u"
#define SIMRING_KICKS       "kick.%u"
#define SIMRING_SOCKET      "xs.%u"
#define SIMRING_PORT(domid) ((domid) + 16u)
#define SIMRING_DOMID(port) ((port)-16u)

struct simring;

struct simring *simring_start(uint32_t domid); /* NULL and errno */
const char *simring_socket(const struct simring *ring);
void simring_end(struct simring *ring); /* NULL is fine */

#endif
