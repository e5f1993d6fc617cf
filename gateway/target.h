/*
 * target: one export, as a disk uses it: a session with a server at a time, for as long as the disk
 * lives, however often a server goes.
 *
 *                 connected, fits                      lost
 *      CONNECTING ---------------> UP ----------------------------------+
 *        ^  |  \                   |  \ a command too old               |
 *        |  |   \ no path, first   |   v                                |
 *        |  |    \ of all          |  UP, and connecting beside it      |
 *        |  |     +--> FAILED      |   | connected, fits: lost, at once |
 *        |  | no path              |   +--> UP                          |
 *        |  v                      | target_renew                       |
 *        WAITING <-----------------+------------------------------------+
 *
 * A session is one connection, or several where the configuration wants them and the server says
 * CAN_MULTI_CONN: then any of them sees what another wrote, and a flush by one covers all. The loss
 * of one is the loss of the session: it may be the server's death, seen early.
 *
 * The paths of the disk are tried in order, beginning behind the one that was lost, and again after
 * a while, for ever. The first session's properties are what the guest was told. A later one must
 * offer the same, or be larger; otherwise its path is passed over.
 *
 * Handler calls (none from within a call that starts a command):
 *      ready     a session is up, nothing is in flight. At the first one properties are new; later
 *                only the capacity may have changed.
 *      lost      the session went; before it, everything in flight completed with -ENOTCONN.
 *                `parked` is a bit that stands for what the server may still execute of that.
 *      fenced    what these bits stood for can no longer be executed.
 *      failed    the first session cannot be had, by any path, and no guest waits for it.
 *      refused   a path was passed over; for the log. May come often.
 */
#ifndef BLKGATE_GATEWAY_TARGET_H
#define BLKGATE_GATEWAY_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/disklink.h"
#include "gateway/nbdconn.h"
#include "gateway/traits.h"

struct ev_loop;
struct mailbox;
struct target;

struct target_handler {
    void (*ready)(void *arg, const struct disk_properties *properties);
    void (*lost)(void *arg, const char *reason, uint32_t parked);
    void (*fenced)(void *arg, uint32_t parked);
    void (*failed)(void *arg, const char *reason);
    void (*refused)(void *arg, const char *reason);
    void (*completed)(void *arg, struct nbdcmd *cmd); /* as nbdconn's: once, then cmd is free */
    /* After target_probe, once. NULL: nothing usable came of it, and reason says what. */
    void (*probed)(void *arg, const struct disk_properties *properties, const char *reason);
};

/* What remains of an earlier life of the daemon. */
struct target_past {
    bool told; /* a guest knows these: */
    struct disk_properties properties;
    enum target_flush flush;
    bool crashed; /* commands of that life may still be executed: bit 0 of `fenced` */
};

int target_open(struct ev_loop *loop, struct mailbox *mailbox, const struct disklink_spec *spec,
                const struct target_past *past, const struct target_handler *handler, void *arg,
                struct target **ret_target);

/* No session any more, and no attempt at one: what was in flight completes with -ENOTCONN before it
 * returns. Returns the bit that stands for it, 0 if nothing was. Only `fenced` runs after it. */
uint32_t target_quit(struct target *target);

/* At any time: no handler runs after it but completions of what was in flight, with -ENOTCONN. */
void target_close(struct target *target); /* NULL is fine */

/* From ready on. */
const struct disk_properties *target_properties(const struct target *target);
enum target_flush target_flush_kind(const struct target *target);

unsigned target_connections(const struct target *target); /* of the session; 0: there is none */

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

/* The session is worth nothing any more, though its connections may live (it failed a flush, or
 * says it is shutting down): `lost` follows at the next target_deliver. */
void target_give_up_session(struct target *target, const char *reason);

/* Asks the server for the export's properties, by a connection beside: NBD has no notification, and
 * a connection keeps the size it began with. -EALREADY: a probe is under way. */
int target_probe(struct target *target);
void target_probe_drop(struct target *target);

/* Why a connect was not begun. */
const char *target_why_not(int err);

/* Ends the session in good order and begins a new one. Nothing may be in flight. */
void target_renew(struct target *target);

/* Hands out what completed while commands were being sent. */
void target_deliver(struct target *target);

#endif
