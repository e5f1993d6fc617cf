/*
 * resolve: connecting to an NBD server, on a helper thread (law 7).
 *
 * Finding an address blocks in getaddrinfo, TLS reads certificates from disk, and the handshake
 * takes round trips to a server that may not answer. So the whole connect, up to and including the
 * handshake, runs on a thread of its own with a deadline, and the loop is handed a libnbd handle
 * that is READY, or a reason. The URI itself is given to libnbd: only then does libnbd 1.14 compare
 * a TLS certificate with the host's name (it accepts any certificate on a bare address).
 *
 * A job has timeout_ms from when a helper takes it up, but for getaddrinfo, which knows no deadline
 * and cannot be interrupted: its owner looks whether it is late, and cancels it. The helper of one
 * that was cancelled there is free when it returns. While two for the same URI are, no other is
 * started, so that tries again do not take one helper after the other. Others end in a moment.
 *
 * Jobs whose URI has a host's name and those with an address have LIMIT_CONNECT_THREADS each at
 * once; further ones wait their turn: when no name is found any more, the disks with addresses do
 * not notice (law 4).
 */
#ifndef BLKGATE_GATEWAY_RESOLVE_H
#define BLKGATE_GATEWAY_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config_disk;
struct mailbox;
struct nbd_handle;
struct resolve;

/* Starts a connect to disk's export by one of its paths (export_uris); `done` runs once, on
 * mailbox's thread, unless cancelled. -EBUSY: two that were cancelled still look for that URI's
 * name. */
int resolve_start(const struct config_disk *disk, unsigned path, uint32_t timeout_ms,
                  struct mailbox *mailbox, void (*done)(void *arg), void *arg,
                  struct resolve **ret_resolve);

/* After done: ends the job. 0 and a READY handle that the caller owns, or -errno and a reason. */
int resolve_finish(struct resolve *resolve, struct nbd_handle **ret_nbd, char *ret_reason,
                   size_t reason_bytes);

/* Whether it still waits for its turn. */
bool resolve_waits(struct resolve *resolve);

/* Whether it has looked for a name for longer than the whole connect may take, and
 * LIMIT_CONNECT_GRACE_MS for its helper to say something better. */
bool resolve_is_late(struct resolve *resolve);

/* Whether the host in that URI is to be looked for: it is no address, and no unix socket. */
bool resolve_by_name(const char *uri);

/* Ends the job at any time before resolve_finish; done is not called any more. NULL is fine. */
void resolve_cancel(struct resolve *resolve);

/* At exit, after all jobs were finished or cancelled: waits, LIMIT_CONNECT_MS at most, until no
 * helper thread uses libnbd any more (1.14 may assert if exit() races one). */
void resolve_drain(void);

#endif
