/*
 * nodes: xenstore for a command that runs once: absolute paths, text values, blocking calls.
 *
 * Values come from domains and are cut at NODES_VALUE_BYTES and made printable. A transaction is a
 * function run again from its start as long as xenstored finds a conflict.
 */
#ifndef BLKGATE_GATEWAY_CLI_NODES_H
#define BLKGATE_GATEWAY_CLI_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODES_VALUE_BYTES 2048

struct nodes;

int nodes_connect(struct nodes **ret_nodes);
void nodes_disconnect(struct nodes *nodes); /* NULL is fine */

/* -ENOENT, -EACCES, ...; `path` by printf in all of these. */
int nodes_get(struct nodes *nodes, char ret_value[static NODES_VALUE_BYTES], const char *path, ...)
    __attribute__((format(printf, 3, 4)));
int nodes_put(struct nodes *nodes, const char *value, const char *path, ...)
    __attribute__((format(printf, 3, 4)));
int nodes_delete(struct nodes *nodes, const char *path, ...) __attribute__((format(printf, 2, 3)));

/* Makes a directory owned by `owner` that `reader` may read, as a toolstack does. */
int nodes_make_directory(struct nodes *nodes, uint32_t owner, uint32_t reader, const char *path,
                         ...) __attribute__((format(printf, 4, 5)));

/* Whose node it is, and to whose quota it counts. */
int nodes_owner(struct nodes *nodes, const char *path, uint32_t *ret_domid);

/* The names in a directory, one call of `each` a name. -ENOENT: there is no such directory. */
int nodes_each(struct nodes *nodes, const char *path, void (*each)(void *arg, const char *name),
               void *arg);

int nodes_transaction(struct nodes *nodes, int (*run)(struct nodes *nodes, void *arg), void *arg);

#endif
