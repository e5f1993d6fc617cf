/*
 * fence: the operator's program that ends what a lost server may still write (`fence =`, law 9).
 *
 * It runs on a helper thread (law 7), as gateway/program says, with LIMIT_FENCE_MS to end. Its
 * environment is PATH and
 *
 *      BLKGATE_DISK        the disk's name in the configuration
 *      BLKGATE_EXPORT      the URI of the lost path
 *      BLKGATE_ENDPOINT    our own addresses of the lost connections, as ADDRESS:PORT or
 *                          [ADDRESS]:PORT, parted by blanks; left out if none is known
 *
 * Status 0 is its word that nothing sent over those connections can be written any more. Anything
 * else says nothing. What it prints goes to the log, LIMIT_FENCE_LINES of all such programs in
 * LIMIT_LOG_WINDOW_MS; the last line is also part of the reason.
 *
 * At most LIMIT_FENCE_THREADS run at once; others wait for their turn. What was killed and does not
 * go away takes none of those places: while it is there, the next run for the same path of the same
 * disk fails at once (-EBUSY), and no other's (law 4).
 */
#ifndef BLKGATE_GATEWAY_FENCE_H
#define BLKGATE_GATEWAY_FENCE_H

#include <netinet/in.h>
#include <stddef.h>

#include "proto/limits.h"

struct config_disk;
struct fence;
struct mailbox;

enum {
    FENCE_ENDPOINT_BYTES = INET6_ADDRSTRLEN + sizeof("[]:65535 "),
    FENCE_ENDPOINTS_BYTES = LIMIT_CONNECTIONS * FENCE_ENDPOINT_BYTES,
};

/* Our addresses of connections that were lost, while we have all their sockets: a program that is
 * run again later is to know of each of them. */
void fence_endpoints(const int *sockets, unsigned count,
                     char ret_text[static FENCE_ENDPOINTS_BYTES]);

/* Runs disk's program, which it must have, for one of its paths (export_uris). `done` runs once, on
 * mailbox's thread, unless cancelled. disk and endpoints are not used after the return. */
int fence_start(const struct config_disk *disk, unsigned path, const char *endpoints,
                struct mailbox *mailbox, void (*done)(void *arg), void *arg,
                struct fence **ret_fence);

/* After done: ends the job. 0: fenced; else -errno and a reason, as program_run gives them. */
int fence_finish(struct fence *fence, char *ret_reason, size_t reason_bytes);

/* Ends the job at any time before fence_finish; done is not called any more, and a program that
 * runs is killed in a moment. NULL is fine. */
void fence_cancel(struct fence *fence);

/* At exit, after all jobs were finished or cancelled: waits, LIMIT_FENCE_END_MS and a little at
 * most, until no program runs any more. */
void fence_drain(void);

#endif
