/*
 * config: the configuration file, read once into an immutable tree.
 *
 *      [gateway]                       all keys optional
 *      workers = 2                     threads; default: CPUs, 4 at most
 *      allow-uri = no                  may a toolstack's params be an NBD URI instead of a name?
 *      lock = /run/blkgate/lock        one daemon only
 *      keep = /run/blkgate/keep        the directory of the kept files
 *      memory = 512M                   for kept write data, of all disks; default: an eighth of RAM
 *      domid = 0                       our domain, where xenstore does not say
 *      connect-timeout = 8s
 *      queues = 4                      rings a guest may use for one disk; default: CPUs, 16 at
 * most ring-page-order = 4             2^order pages for each ring, at most indirect-segments = 256
 * of one request; 0: direct requests only (11 segments) log-level = info                error,
 * warning, info, debug
 *
 *      [disk NAME]                     NAME: letters, digits, . _ -
 *      export = nbd://host/name        nbd, nbds, nbd+unix, nbds+unix (required; the only key that
 *                                      may stand there again: the paths, the preferred one first)
 *      paths = same-server             several paths need this, or
 *      coherent = no                   this: has no server a cache of its own?
 *      connections = 1                 where the server says CAN_MULTI_CONN
 *      on-loss = hold                  or hold TIME, and then close
 *      on-error = report               or retry
 *      command-timeout = 30s
 *      drains = no                     does the server close only after its last write was done?
 *      fence-time = 10s                otherwise: how long it may still write after it closed
 *      fence = /PROGRAM [ARG ...]      ends a lost server's writes; no shell, no quotes
 *      read-only = no
 *      accept-volatile = no            serve although the server can neither flush nor FUA
 *      shared = no                     may it be attached writable more than once?
 *      worker = 0                      pin to a worker; default: the least loaded
 *      tls-certificates = DIR          for nbds
 *      tls-psk-file = FILE
 *      tls-username = NAME
 *
 * A time is 500ms, 30s, 2m, 1h or a bare number of seconds, a size 1000000, 64K, 512M, 2G or 1T.
 *
 * Every mistake is an error that names file:line, the key, and what to write instead; all of them
 * are reported, none is guessed around (an unknown key, a duplicate, a missing export ...).
 * Ownership: struct config owns everything below it; read-only after config_load, so any thread
 * may read it without a lock.
 */
#ifndef BLKGATE_GATEWAY_CONFIG_H
#define BLKGATE_GATEWAY_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/limits.h"

struct config_disk {
    char *name; /* for one made from a URI: the URI */
    char *export_uris[LIMIT_PATHS];
    unsigned export_count; /* 1 at least */
    bool same_server;      /* the paths lead to one server process ... */
    bool coherent;         /* ... or to several without caches of their own; never both */
    bool drains;
    bool retry_errors;
    unsigned connections;
    uint32_t hold_ms; /* 0: for ever */
    uint32_t command_timeout_ms;
    uint32_t fence_time_ms;
    char **fence;           /* argv; NULL: none */
    char *tls_certificates; /* NULL: not given; likewise the next two */
    char *tls_psk_file;
    char *tls_username;
    bool readonly;
    bool accept_volatile;
    bool shared;
    int worker; /* -1: any */
};

struct config {
    unsigned workers;
    bool allow_uri;
    char *lock_path;
    char *keep_dir;
    uint64_t memory_bytes;
    uint16_t domid;
    uint32_t connect_timeout_ms;
    uint32_t queues; /* these three: what is offered to guests */
    uint32_t ring_page_order;
    uint32_t indirect_segments;
    int log_level; /* enum log_level */
    size_t disk_count;
    struct config_disk *disks;
};

/* Reads and checks a file. Each mistake is one call of complain("FILE:LINE: text"). -EINVAL if
 * there was any, -errno if the file cannot be read (also complained about). */
int config_load(const char *path, void (*complain)(void *arg, const char *text), void *arg,
                struct config **ret_config);
void config_free(struct config *config); /* NULL is fine */

/* The effective configuration, as a file that config_load would read back the same. */
void config_print(const struct config *config, FILE *out);

const struct config_disk *config_disk_find(const struct config *config, const char *name);

const char *config_disk_uri(const struct config_disk *disk); /* the preferred path */

/* 0 if `uri` is one blkgate can use; else -EINVAL and the reason, with what to write instead. */
int config_uri_check(const char *uri, char *ret_reason, size_t reason_bytes);

/* A number that is equal for URIs of one export, however they are written (host in capitals, port
 * left out, percent-encoding, with or without TLS), and for others not. */
uint64_t config_uri_identity(const char *uri);

uint64_t config_disk_identity(const struct config_disk *disk); /* its preferred path's */

/* Is that the identity of any of its paths? For they may have been put into another order. */
bool config_disk_reaches(const struct config_disk *disk, uint64_t identity);

/* Do both have a path to one export? */
bool config_disks_meet(const struct config_disk *disk, const struct config_disk *other);

/* The URI as a part of QEMU's `-drive file=URI,...`, where a comma would end it. -EINVAL: QEMU has
 * no URI for it (TLS). -ENAMETOOLONG: it does not fit. `uri` is one that config_uri_check lets
 * pass, so there are no credentials in it. */
int config_uri_for_qemu(const char *uri, char *ret_uri, size_t bytes);

/* A disk of its own for a URI that a toolstack named (allow-uri): defaults for all else. */
int config_disk_from_uri(const char *uri, struct config_disk **ret_disk);
void config_disk_free(struct config_disk *disk); /* only for config_disk_from_uri's; NULL is fine */

#endif
