/*
 * xs: one connection to xenstore on one libev loop; the only user of libxenstore.
 *
 * All calls are made on the loop's thread and block for a round trip: no I/O loop may share that
 * thread (law 7). Names begin with store_, since libxenstore owns xs_.
 *
 * A call returns 0 or -errno; -ENOENT also stands for "not allowed to look" (a driver domain gets
 * EACCES for what is gone), and -EACCES for "not allowed to change". -ENOTCONN: the connection is
 * lost. A dead xenstored shows on no descriptor, so a heartbeat asks it; after a loss `lost` is
 * called once, connecting is tried every LIMIT_XENSTORE_RETRY_MS, all watches are registered again
 * (those refused with the next heartbeats), and `back` is called: whatever happened meanwhile was
 * not seen, so look at everything. Callbacks run from the loop only, never from inside a call.
 */
#ifndef BLKGATE_GATEWAY_XS_H
#define BLKGATE_GATEWAY_XS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ev_loop;
struct store;
struct store_watch;

struct store_events {
    void (*lost)(void *arg);
    void (*back)(void *arg);
    void *arg;
};

/* A transaction's handle; STORE_ALONE: outside of any. */
typedef uint32_t store_tx;
#define STORE_ALONE ((store_tx)0)

/* Is it what a domain hears whose quota is used up? ENOSPC: nodes or transactions, E2BIG: watches,
 * ENOMEM: memory, all of xenstored; EINVAL: oxenstored's EQUOTA, which libxenstore does not know.
 */
bool store_is_quota(int error);

int store_open(struct ev_loop *loop, const struct store_events *events, struct store **ret_store);
void store_close(struct store *store); /* its watches end with it; NULL is fine */

/* The node's value as a string. -EMSGSIZE if it does not fit `bytes` with its NUL, -EILSEQ if it
 * has a NUL inside: both are no values of ours. */
int store_read(struct store *store, store_tx tx, const char *path, char *ret_value, size_t bytes);
int store_write(struct store *store, store_tx tx, const char *path, const char *value);
/* As store_write, but no other domain may read it, as it may what is beside it. */
int store_write_private(struct store *store, store_tx tx, const char *path, const char *value);
int store_remove(struct store *store, store_tx tx, const char *path); /* absent already: 0 */

/* Names of the children: *ret_names is one allocation, for free(). */
int store_list(struct store *store, const char *path, char ***ret_names, unsigned *ret_count);

/* Runs body(arg, tx) in a transaction. If body returns < 0 it is aborted and that is returned;
 * else it is committed, and body runs again if somebody else was faster, a bounded number of
 * times (then -EAGAIN). */
int store_transact(struct store *store, int (*body)(void *arg, store_tx tx), void *arg);

/* `changed` is called with the path of what changed at or below `path`, once at first, and for
 * every change at least once more; events are hints, so read. It may use any call of this header,
 * store_unwatch of this watch included. */
int store_watch(struct store *store, const char *path, void (*changed)(void *arg, const char *path),
                void *arg, struct store_watch **ret_watch);
void store_unwatch(struct store *store, struct store_watch *watch); /* NULL is fine */

/* Is the domain known to xenstored? */
int store_domain_alive(struct store *store, uint16_t domid, bool *ret_alive);

#endif
