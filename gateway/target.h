/*
 * target: one export of an NBD server, as a disk uses it.
 *
 *      target_open --> (helper thread connects) --> ready(properties)
 *                                               \-> lost(reason)    unreachable or unusable
 *      ready ... commands ... -----------------> lost(reason)       the connection went
 *      target_close at any time: no handler runs after it, but completions of what was in flight
 *                                run inside it, with -ENOTCONN
 *
 * What "flush" means here (law 6): with SEND_FLUSH a flush is the server's. Without it but with
 * SEND_FUA every write carries FUA, so an answered write is durable and a flush has nothing to do.
 * With neither the export is refused unless the config accepts a volatile server; then flushes are
 * not offered at all.
 *
 * Refused, with a reason that says what to do: an export smaller than a sector, a minimum block
 * above 512 (sectors would be lost), a maximum below LIMIT_COMMAND_FLOOR_BYTES, a writable disk on
 * a server that is volatile.
 */
#ifndef BLKGATE_GATEWAY_TARGET_H
#define BLKGATE_GATEWAY_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/disklink.h"
#include "gateway/nbdconn.h"

struct config_disk;
struct ev_loop;
struct mailbox;
struct target;

struct target_handler {
    void (*ready)(void *arg, const struct disk_properties *properties);
    void (*lost)(void *arg, const char *reason);
    void (*completed)(void *arg, struct nbdcmd *cmd); /* as nbdconn's: once, then cmd is free */
    /* After target_probe, once. NULL: nothing usable came of it, or it flushes in another way than
     * this connection, and reason says what. Else target_switch may follow, any time later. */
    void (*probed)(void *arg, const struct disk_properties *properties, const char *reason);
};

enum target_flush {
    TARGET_FLUSH_NONE,     /* volatile: not offered */
    TARGET_FLUSH_COMMAND,  /* a flush is a command */
    TARGET_FLUSH_NEEDLESS, /* every write was durable when it completed */
};

int target_open(struct ev_loop *loop, struct mailbox *mailbox, const struct disklink_spec *spec,
                const struct target_handler *handler, void *arg, struct target **ret_target);
void target_close(struct target *target); /* NULL is fine */

/* From ready on. */
const struct disk_properties *target_properties(const struct target *target);
enum target_flush target_flush_kind(const struct target *target);

/* May another command be sent after `collected` ones that will be? Those beyond the limit wait with
 * the disk. */
bool target_has_room(const struct target *target, uint32_t collected);

/* The longest command of a kind that the server is thought to take: what it says, or less, once a
 * request could only be done in shorter pieces (target_learn_max). */
uint32_t target_command_max_bytes(const struct target *target, bool trim);
void target_learn_max(struct target *target, bool trim, uint32_t length_bytes);

/* Start a command; -errno: it was not started. Completions come at target_deliver or later. */
int target_read(struct target *target, struct nbdcmd *cmd, void *buffer, uint32_t length_bytes,
                uint64_t offset_bytes);
int target_write(struct target *target, struct nbdcmd *cmd, const void *buffer,
                 uint32_t length_bytes, uint64_t offset_bytes);
int target_trim(struct target *target, struct nbdcmd *cmd, uint32_t length_bytes,
                uint64_t offset_bytes);
int target_flush(struct target *target, struct nbdcmd *cmd);

/* Asks the server for the export's properties, by a second connection: NBD has no notification, and
 * a connection keeps the size it began with. -EALREADY: a probe is under way. */
int target_probe(struct target *target);

/* Moves to the probe's connection. Nothing may be in flight, and what was written must have been
 * flushed: a flush need not cover what another connection wrote. */
void target_switch(struct target *target);
void target_probe_drop(struct target *target);

/* Hands out what completed while commands were being sent. */
void target_deliver(struct target *target);

#endif
