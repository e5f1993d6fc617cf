/*
 * quota: what blkgated's domain uses of what xenstored allows a domain.
 *
 * xenstored tells a domain neither its quota nor how much of it is used; so the nodes that it owns
 * are counted, whoever wrote them, and the watches that blkgated must have: its own and one a disk.
 * The quotas are the usual ones (proto/limits.h). Domain 0 has none.
 */
#ifndef BLKGATE_GATEWAY_CLI_QUOTA_H
#define BLKGATE_GATEWAY_CLI_QUOTA_H

#include <stdbool.h>
#include <stdint.h>

struct nodes;

struct quota {
    uint32_t domid;
    unsigned watches, nodes, disks;
};

void quota_measure(struct nodes *nodes, uint32_t domid, struct quota *ret_quota);
bool quota_is_near(const struct quota *quota);
unsigned quota_room_disks(const struct quota *quota); /* as large as those that are there */

#endif
